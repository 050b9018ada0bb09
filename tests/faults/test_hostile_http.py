"""Thousands of malformed bodies, and requests made from the served document, against a real server."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests import postgres
from tests.http.serving import Serving, event, serving

BODIES = 10_000

_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_fields = st.fixed_dictionaries(
    {"session": st.fixed_dictionaries({"session_id": st.text(max_size=10) | _json}) | _json},
    optional=dict.fromkeys(
        ("event_id", "event_type", "timestamp", "user", "usage", "outcome", "metadata", "amends"), _json
    ),
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A good event with a few bytes overwritten, cut or repeated."""
    body = bytearray(b'{"event_id":"m","session":{"session_id":"s","start_time":"2025-12-21T10:25:00.000Z"}}')
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(body)


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


_one = st.binary(max_size=60) | _mutated() | _fields.map(_dumps) | _json.map(_dumps)
_many = st.lists(_one, max_size=5).map(b"\n".join) | st.lists(_one, max_size=5).map(
    lambda x: b"[" + b",".join(x) + b"]"
)
_nested = st.tuples(st.sampled_from([b"[", b'{"a":', b'[{"a":']), st.integers(1, 3000)).map(lambda x: x[0] * x[1])
_bodies = _one | _many | _nested
_headers = st.fixed_dictionaries(
    {
        "content-type": st.sampled_from(
            [
                "application/json",
                "application/x-ndjson",
                "application/cloudevents+json",
                "application/cloudevents-batch+json",
                "",
                "text/plain",
                "application/x-www-form-urlencoded",
            ]
        )
    },
    optional={
        "content-encoding": st.sampled_from(["gzip", "zstd", "identity", "br", "packed gzip", "packed zstd"]),
        "adjourn-producer": st.sampled_from(["p", "", "x" * 129, "\x7f"]),
        "adjourn-sequence": st.sampled_from(["1", "0", "-1", "9" * 30, "0" * 30 + "1", "x"]),
        "ce-specversion": st.sampled_from(["1.0", "0.3", ""]),
        "ce-id": st.sampled_from(["1", "", "%00", "%", "%ff"]),
        "ce-source": st.just("s"),
        "ce-type": st.just("t"),
    },
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    directory = tmp_path_factory.mktemp("hostile")
    url = f"sqlite:///{directory}/a.db" if request.param == "sqlite" else postgres.fresh_database()
    with serving(url, directory, database={"durability": "normal"} if request.param == "sqlite" else {}) as running:
        yield running


@pytest.mark.timeout(300)
def test_malformed_bodies_are_refused_and_nothing_else(server: Serving) -> None:
    """5,000 on each database: no 5xx, no hang; each answer is results or a problem, and the node lives on."""
    answered: Counter[int] = Counter()

    @settings(
        max_examples=BODIES // 2,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(_bodies, _headers)
    def send(body: bytes, headers: dict[str, str]) -> None:
        encoding = headers.get("content-encoding", "")
        if encoding.startswith("packed "):
            headers = {**headers, "content-encoding": encoding.removeprefix("packed ")}
            body = gzip.compress(body) if encoding.endswith("gzip") else zstandard.compress(body)
        whole = {**server.bearer(), **headers}
        request = [(name.encode(), value.encode("latin-1")) for name, value in whole.items()]
        answer = server.client.post("/v1/events", content=body, headers=request, timeout=10)
        answered[answer.status_code] += 1
        _judge(answer)

    send()
    assert sum(answered.values()) >= BODIES // 2
    assert answered[202] > 100
    assert sum(answered[status] for status in (400, 413, 415)) > 100
    assert server.post(event()).json()["accepted"] == 1
    assert server.client.get("/readyz").status_code == 200


def _judge(answer: httpx.Response) -> None:
    assert answer.status_code in (202, 400, 413, 415), answer.text
    document = answer.json()
    if answer.status_code == 202:
        statuses = [result["status"] for result in document["results"]]
        for status in ("accepted", "duplicate", "conflict", "invalid"):
            assert document[status] == statuses.count(status)
        for result in document["results"]:
            assert result["status"] not in ("invalid", "conflict") or (result["quarantine_id"] and result["remedy"])
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert document["status"] == answer.status_code
        assert document["detail"]


@pytest.mark.timeout(300)
def test_the_document_holds_against_schemathesis(server: Serving, tmp_path: Path) -> None:
    """Requests made from the served document: no 5xx, and every status, type and body is one that it names."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {server.keys['acme/admin']}"),
        *("--exclude-path", "/v1/relay"),  # takes lines alone, which it cannot write
        *("--exclude-path", "/v1/stream"),  # never ends
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--workers", "1"),
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
        "response_headers_conformance,unsupported_method",
        *("--request-timeout", "10", "--no-color"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=280, env={**os.environ, "CI": "1"}
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    generated = re.search(r"([0-9,]+) generated", done.stdout)
    assert generated is not None, done.stdout[-2000:]
    assert int(generated[1].replace(",", "")) > 300
