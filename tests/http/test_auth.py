"""Who may call what: found by walking the routes, so that a new one cannot be forgotten."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.http.serving import Serving, event, is_problem, serving
from tests.http.test_app import routes

from adjourn.errors import ConfigInvalid
from adjourn.security.roles import MAY, Permission
from adjourn.security.service import CACHE_S
from adjourn.settings import ServerSettings, Settings, ValidationSettings

NEEDS: dict[tuple[str, str], Permission] = {
    ("POST", "/v1/events"): "events:write",
    ("GET", "/v1/events/event_id"): "events:read",
    ("GET", "/v1/quarantine"): "quarantine:read",
    ("GET", "/v1/quarantine/entry_id"): "quarantine:read",
    ("POST", "/v1/quarantine/entry_id/retry"): "quarantine:write",
    ("GET", "/v1/destinations"): "destinations:read",
    ("GET", "/v1/keys"): "keys:read",
    ("POST", "/v1/keys"): "keys:write",
    ("DELETE", "/v1/keys/key_id"): "keys:write",
    ("GET", "/v1/metrics"): "metrics:read",
    ("GET", "/metrics"): "metrics:read",
    ("GET", "/v1/stream"): "events:read",
    ("POST", "/v1/destinations/name/pause"): "destinations:write",
    ("POST", "/v1/destinations/name/resume"): "destinations:write",
    ("POST", "/v1/destinations/name/test"): "destinations:write",
    ("GET", "/v1/dead-letters"): "dead_letters:read",
    ("GET", "/v1/dead-letters/letter_id"): "dead_letters:read",
    ("POST", "/v1/dead-letters/letter_id/redrive"): "dead_letters:write",
    ("DELETE", "/v1/dead-letters/letter_id"): "dead_letters:write",
    ("POST", "/v1/dead-letters/redrive"): "dead_letters:write",
    ("POST", "/v1/dead-letters/discard"): "dead_letters:write",
    ("POST", "/v1/reload"): "settings:write",
    ("POST", "/v1/sessions/begin"): "sessions:write",
    ("POST", "/v1/sessions/session_id/heartbeat"): "sessions:write",
    ("POST", "/v1/sessions/session_id/complete"): "sessions:write",
    ("GET", "/v1/sessions/session_id"): "sessions:read",
    ("GET", "/v1/sessions"): "sessions:read",
}
BAD_KEYS = ["", "Bearer", "Bearer adj_wrong", "Basic YTpi", "adj_", "Bearer adj_" + "0" * 32, "Bearer \xff"]


def test_only_the_probes_and_the_document_are_open() -> None:
    """Every route either is one of three, or names what it needs."""
    assert {path for path, _, is_open in routes() if is_open} == {"/healthz", "/readyz", "/openapi.json"}
    assert {(method, path) for path, method, is_open in routes() if not is_open} == set(NEEDS)


@pytest.mark.parametrize(("path", "method", "is_open"), routes())
def test_every_route_wants_a_key(server: Serving, path: str, method: str, is_open: bool) -> None:
    """Without a good key: 401 with WWW-Authenticate, whatever else is wrong with the request."""
    for header in BAD_KEYS:
        headers = [(b"authorization", header.encode("latin-1"))] if header else []
        answer = server.client.request(method, path, headers=headers, content=b"nonsense" if method == "POST" else None)
        if is_open:
            assert answer.status_code == 200
        else:
            assert is_problem(answer, 401, "unauthenticated"), (method, path, header)
            assert answer.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("role", MAY)
def test_each_role_may_what_the_table_says(server: Serving, role: str) -> None:
    """Every role against every route: 403 where the table has nothing, another answer where it has."""
    for (method, path), permission in NEEDS.items():
        path = f"{path}?from=nowhere" if path == "/v1/stream" else path  # else it would have no end
        answer = server.request(method, path, who=f"other/{role}", content=b"{}" if method == "POST" else None)
        if permission in {role: MAY[role] for role in MAY}[role]:  # type: ignore[index]  # the keys are plain text here
            assert answer.status_code not in (401, 403), (role, method, path)
        else:
            assert is_problem(answer, 403, "forbidden"), (role, method, path)


def test_a_revoked_key_stops(any_server: Serving) -> None:
    """At once on the node that revoked it; after the cache's time at the latest on others."""
    made = any_server.request("POST", "/v1/keys", json={"role": "writer"}).json()
    any_server.keys["made"] = made["secret"]
    assert any_server.post(event(), who="made").status_code == 202
    assert any_server.request("DELETE", f"/v1/keys/{made['key']['id']}").status_code == 204
    assert is_problem(any_server.post(event(), who="made"), 401, "unauthenticated")


def test_a_key_that_another_node_revoked_stops_within_the_cache_s_time(any_database: str, tmp_path: Path) -> None:
    """Two nodes over one database: what the one revokes, the other refuses within seconds."""
    with serving(any_database, tmp_path) as one, serving(any_database, tmp_path, keys=one.keys) as two:
        made = one.request("POST", "/v1/keys", json={"role": "writer"}).json()
        two.keys["made"] = made["secret"]
        assert two.post(event(), who="made").status_code == 202
        assert one.request("DELETE", f"/v1/keys/{made['key']['id']}").status_code == 204
        deadline = time.monotonic() + CACHE_S + 1
        while two.post(event(), who="made").status_code == 202:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_doing_without_keys_is_for_loopback_alone(tmp_path: Path) -> None:
    """Switched off, nobody needs a key, but a bad one is still refused; and nobody else may reach that server."""
    off = ValidationSettings(require_authentication=False)
    with pytest.raises(ConfigInvalid, match="require_authentication"):
        Settings(validation=off, server=ServerSettings(host="0.0.0.0"))
    validation = {"require_authentication": False}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, keys={}, validation=validation) as server:
        assert server.client.post("/v1/events", content=event()).status_code == 202
        assert server.client.get("/v1/metrics").status_code == 200
        bad = {"authorization": "Bearer adj_wrong"}
        assert is_problem(server.client.get("/v1/metrics", headers=bad), 401, "unauthenticated")
