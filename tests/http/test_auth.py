"""Who may call what: found by walking the routes, so that a new one cannot be forgotten. And whose dead letters and
events a caller sees and touches: its tenant's."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.http.conftest import database_url
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
    ("POST", "/v1/sessions"): "sessions:write",
    ("GET", "/v1/sessions"): "sessions:read",
    ("GET", "/v1/sessions/stats"): "sessions:read",
    ("GET", "/v1/sessions/limits"): "sessions:read",
    ("GET", "/v1/sessions/session_id"): "sessions:read",
    ("PATCH", "/v1/sessions/session_id"): "sessions:write",
    ("DELETE", "/v1/sessions/session_id"): "sessions:write",
    ("POST", "/v1/sessions/session_id/messages"): "sessions:write",
    ("GET", "/v1/sessions/session_id/messages"): "sessions:read",
    ("POST", "/v1/sessions/session_id/interrupt"): "sessions:write",
    ("POST", "/v1/sessions/session_id/resume"): "sessions:write",
    ("POST", "/v1/sessions/session_id/terminate"): "sessions:write",
    ("POST", "/v1/sessions/session_id/snapshot"): "sessions:write",
    ("POST", "/v1/sessions/session_id/amend"): "sessions:write",
    ("GET", "/v1/sessions/session_id/events"): "sessions:read",
    ("GET", "/v1/sessions/session_id/ws"): "sessions:read",
    ("GET", "/v1/sessions/session_id/triggers"): "sessions:read",
    ("GET", "/v1/sessions/session_id/triggers/name"): "sessions:read",
    ("PUT", "/v1/sessions/session_id/triggers/name"): "sessions:write",
    ("DELETE", "/v1/sessions/session_id/triggers/name"): "sessions:write",
    ("POST", "/v1/sessions/session_id/triggers/name"): "sessions:write",
    ("POST", "/v1/sessions/begin"): "sessions:write",
    ("POST", "/v1/sessions/session_id/heartbeat"): "sessions:write",
    ("POST", "/v1/sessions/session_id/complete"): "sessions:write",
    ("GET", "/v1/watched-sessions/session_id"): "sessions:read",
    ("GET", "/v1/watched-sessions"): "sessions:read",
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


# --- dead letters of two tenants ---

TENANTS = ("acme", "other")


def letters(letterbox: Serving, who: str, query: str = "") -> list[dict[str, Any]]:
    return letterbox.get(f"/v1/dead-letters?limit=500{query}", who=f"{who}/operator").json()["entries"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def letterbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    """One destination, whose transform fails on every event: each is a dead letter at once."""
    directory: Path = tmp_path_factory.mktemp("tenants")
    destination = {
        "name": "file",
        "type": "logfile",
        "log_path": str(directory / "out"),
        "transform": "{'n': session.metadata.absent}",
    }
    routing = {"destinations": [destination]}
    with serving(database_url(request.param, directory), directory, routing=routing) as running:
        yield running


def send(letterbox: Serving, tenant: str, *names: str) -> None:
    """Events whose ids both tenants use, until they are dead letters."""
    lines = [json.dumps({"event_id": name, "session": {"session_id": f"{tenant}_{name}"}}) for name in names]
    answer = letterbox.post("\n".join(lines).encode(), who=f"{tenant}/writer")
    assert answer.json()["accepted"] == len(names)
    deadline = time.monotonic() + 60
    while not {one["event_id"] for one in letters(letterbox, tenant)} >= set(names):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def both(letterbox: Serving, *names: str) -> None:
    for tenant in TENANTS:
        send(letterbox, tenant, *names)


def sessions(found: list[dict[str, Any]]) -> set[str]:
    return {one["session_id"] for one in found}


def test_a_list_has_the_caller_s_letters_alone(letterbox: Serving) -> None:
    """Plain, by every filter, and behind any cursor, even one that another tenant was given."""
    both(letterbox, "l1", "l2", "l3")
    for mine, theirs in (TENANTS, TENANTS[::-1]):
        for query in ("", "&destination=file", "&code=transform_failed", "&event_id=l1", "&filter=true"):
            found = letters(letterbox, mine, query)
            assert found
            assert all(session.startswith(f"{mine}_") for session in sessions(found)), query
        page = letterbox.get("/v1/dead-letters?limit=1", who=f"{theirs}/auditor").json()
        behind = letters(letterbox, mine, f"&cursor={page['next_cursor']}")
        assert all(session.startswith(f"{mine}_") for session in sessions(behind))


def test_another_tenant_s_letter_is_not_there(letterbox: Serving) -> None:
    """Not to look at, give back or discard, and the answer is that of an id that never was."""
    both(letterbox, "a1")
    (theirs,) = letters(letterbox, "other", "&event_id=a1")
    path = f"/v1/dead-letters/{theirs['id']}"
    absent = f"/v1/dead-letters/file:0:{10**9}"
    for method, end in (("GET", ""), ("POST", "/redrive"), ("DELETE", "")):
        answers = [letterbox.request(method, one + end, who="acme/admin") for one in (path, absent)]
        for answer in answers:
            assert is_problem(answer, 404, "not_found")
        said = [
            answer.json()["detail"].replace(one.rsplit("/")[-1], "ID")
            for answer, one in zip(answers, (path, absent), strict=True)
        ]
        assert said[0] == said[1]
    assert letterbox.get(path, who="other/auditor").json() == theirs


@pytest.mark.parametrize("verb", ["redrive", "discard"])
@pytest.mark.parametrize("described", [{}, {"destination": "file"}, {"code": "transform_failed"}, {"filter": "true"}])
def test_a_description_picks_the_caller_s_alone(letterbox: Serving, verb: str, described: dict[str, str]) -> None:
    """Whatever one tenant gives back or discards, the other's letters stay as they were, attempts and all."""
    number = time.monotonic_ns()
    both(letterbox, f"d1_{number}", f"d2_{number}")
    before = letters(letterbox, "other")
    mine = letters(letterbox, "acme")
    count, cursor = 0, ""
    while cursor is not None:
        body = json.dumps({**described, "cursor": cursor}).encode()
        answer = letterbox.request(
            "POST",
            f"/v1/dead-letters/{verb}",
            who="acme/operator",
            content=body,
            headers={"content-type": "application/json"},
        ).json()
        count, cursor = count + answer["count"], answer["next_cursor"]
    assert count == len(mine)
    assert letters(letterbox, "other") == before
    deadline = time.monotonic() + 60
    while verb == "redrive" and len(letters(letterbox, "acme")) < len(mine):  # they die again
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if verb == "discard":
        assert letters(letterbox, "acme") == []


def test_where_an_event_is_is_told_to_its_tenant_alone(letterbox: Serving) -> None:
    """Both have an event of that id: each hears of its own, and of one that only the other has, nothing."""
    both(letterbox, "w1")
    send(letterbox, "other", "w_other")
    for tenant in TENANTS:
        found = letterbox.get("/v1/events/w1", who=f"{tenant}/reader").json()
        (delivery,) = found["deliveries"]
        assert (found["tenant"], delivery["place"], delivery["attempts"]) == (tenant, "dead_lettered", 1)
        assert f"{tenant}_w1" in json.dumps(found["event"])
    assert is_problem(letterbox.get("/v1/events/w_other", who="acme/admin"), 404, "not_found")


@pytest.mark.parametrize("who", ["acme/reader", "acme/writer", "acme/beacon"])
def test_a_key_without_the_right_touches_nothing(letterbox: Serving, who: str) -> None:
    """Neither a list nor a deal, of one or of all."""
    both(letterbox, f"k_{who}")
    (letter,) = letters(letterbox, "acme", f"&event_id=k_{who}")
    path = f"/v1/dead-letters/{letter['id']}"
    for method, address in (
        ("GET", "/v1/dead-letters"),
        ("GET", path),
        ("POST", f"{path}/redrive"),
        ("DELETE", path),
        ("POST", "/v1/dead-letters/redrive"),
        ("POST", "/v1/dead-letters/discard"),
    ):
        content = b"{}" if method == "POST" else None
        assert is_problem(letterbox.request(method, address, who=who, content=content), 403, "forbidden")
    assert letters(letterbox, "acme", f"&event_id=k_{who}") == [letter]
