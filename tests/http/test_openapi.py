"""The document that is served says what the routes do, and the reference page says what the document does."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.documented import differences, documented_names
from tests.http.serving import Serving
from tests.http.test_app import routes

from adjourn.http.beacon import BEACON_PATH, SCRIPT_PATH
from adjourn.http.otlp import TRACES_PATH
from adjourn.http.relay import RELAY_PATH


def test_every_route_is_in_the_document(server: Serving) -> None:
    """Paths and methods of the document are those of the application; all but the probes want a key."""
    document = server.client.get("/openapi.json").json()
    described = {
        (re.sub(r"[{}]", "", path), method.upper())
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post", "put", "patch", "delete")
    }
    raw = {(BEACON_PATH, "POST"), (SCRIPT_PATH, "GET"), (TRACES_PATH, "POST"), (RELAY_PATH, "POST")}
    assert described == raw | {(path, method) for path, method, _ in routes() if path != "/openapi.json"}
    for path, item in document["paths"].items():
        for operation in item.values():
            is_open = path in ("/healthz", "/readyz", SCRIPT_PATH)
            assert ("401" in operation["responses"]) != is_open
            for status, response in operation["responses"].items():
                if status >= "400" and not is_open and path != TRACES_PATH:  # OTLP has errors of its own form
                    assert list(response["content"]) == ["application/problem+json"], (path, status)


def test_every_route_has_its_place_in_the_reference(server: Serving) -> None:
    """docs/reference/http-api.md lists the routes of the document, each as METHOD and path."""
    document = server.client.get("/openapi.json").json()
    served = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    documented = documented_names("http-api.md", section="Routes")
    assert differences({*served, "GET /openapi.json"}, documented, page="http-api.md") == []


def test_the_document_is_the_same_in_every_process() -> None:
    """Two processes that order their sets differently serve the same bytes, so that a diff shows changes alone."""
    code = "import json; from adjourn.http.app import described; print(json.dumps(described().to_schema()))"
    documents = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(documents) == 1


def test_probes_document_what_they_answer(server: Serving) -> None:
    """/healthz has 200 alone; /readyz has 503 too, in the same shape and with words of its own."""
    paths = server.client.get("/openapi.json").json()["paths"]
    assert list(paths["/healthz"]["get"]["responses"]) == ["200"]
    ready, not_ready = (paths["/readyz"]["get"]["responses"][status] for status in ("200", "503"))
    assert ready["content"] == not_ready["content"]
    assert ready["description"] != not_ready["description"]
