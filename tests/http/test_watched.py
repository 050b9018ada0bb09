"""The routes of watched sessions, on a real server over each database."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.http.serving import Serving, is_problem

MEGABYTE = 1024 * 1024


def call(
    server: Serving, path: str, body: object = None, *, who: str = "acme/writer", **headers: str
) -> httpx.Response:
    content = b"" if body is None else json.dumps(body).encode()
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request("POST", f"/v1/sessions/{path}", who=who, content=content, headers=more)


def test_a_session_from_its_beginning_to_its_event(any_server: Serving) -> None:
    """Begin, heartbeat, complete: each answer says where the session stands, and its event is found by the id that was
    told at the beginning."""
    begun = call(any_server, "begin", {"session_id": "one", "lease_ms": 60_000, "usage": {"model": "gpt-4o"}})
    assert begun.status_code == 201
    view = begun.json()
    assert (view["state"], view["lease_ms"], view["ended_at"]) == ("open", 60_000, None)
    assert view["began_at"] < view["expires_at"]
    assert call(any_server, "one/heartbeat").json() == {"session_id": "one", "attempt": 1, "lease_ms": 60_000}
    done = call(any_server, "one/complete", {"usage": {"input_tokens": 100, "output_tokens": 10}})
    assert done.status_code == 200
    assert (done.json()["status"], done.json()["event_id"]) == ("accepted", view["event_id"])
    event = any_server.get(f"/v1/events/{view['event_id']}").json()
    assert event["cost_usd"] == "0.00035"
    assert event["event"]["outcome"] == {"status": "success"}
    seen = any_server.get("/v1/watched-sessions/one").json()
    assert (seen["state"], seen["expires_at"], seen["event_id"]) == ("completed", None, view["event_id"])


def test_begin_again_is_told_apart_by_its_status(any_server: Serving) -> None:
    """201 where it was begun now, 200 where the same call had begun it, 409 where another call had."""
    answers = [call(any_server, "begin", {}, idempotency_key="k-1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["session_id"] == answers[1].json()["session_id"]
    taken = call(any_server, "begin", {"session_id": answers[0].json()["session_id"]})
    assert is_problem(taken, 409, "session_exists")


def test_ids_may_hold_anything_that_an_event_takes(any_server: Serving) -> None:
    """Slashes, spaces and dots are quoted in the address; a name of a route is an id like any other."""
    for session_id, quoted in (("a/b c", "a%2Fb%20c"), ("..", "%2E%2E"), ("begin", "begin"), ("é", "%C3%A9")):
        assert call(any_server, "begin", {"session_id": session_id}).status_code == 201
        assert call(any_server, f"{quoted}/heartbeat").json()["session_id"] == session_id
        assert call(any_server, f"{quoted}/complete").json()["status"] == "accepted"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "place"),
    [
        ("begin", {"sesion_id": "x"}, 400, "body_invalid", ""),
        ("begin", {"lease_ms": "long"}, 400, "body_invalid", "lease_ms"),
        ("begin", {"lease_ms": 1}, 400, "body_invalid", "lease_ms"),
        ("begin", {"session_id": "a\u0000b"}, 422, "event_invalid", "session.session_id"),
        ("begin", {"session_id": ""}, 422, "event_invalid", "session.session_id"),
        ("begin", {"session_type": "talk"}, 422, "event_invalid", "session.session_type"),
        ("begin", {"start_time": "2020-01-01"}, 422, "event_invalid", "session.start_time"),
        ("begin", {"metadata": {"custom_tags": [1]}}, 422, "event_invalid", "metadata.custom_tags"),
        ("begin", [], 400, "body_invalid", ""),
        ("none/heartbeat", {}, 404, "not_found", ""),
        ("none/heartbeat", {"usage": {"input_tokens": -1}}, 422, "event_invalid", "usage.input_tokens"),
        ("none/complete", {}, 404, "not_found", ""),
        ("none/complete", {"attempt": 2**70}, 404, "not_found", ""),
        ("none/heartbeat", {"attempt": 0}, 404, "not_found", ""),
        ("none/complete", {"session_id": "other"}, 404, "not_found", ""),
        ("none/nothing", {}, 404, "not_found", ""),
    ],
)
def test_what_is_wrong_is_said_with_its_path(
    server: Serving, path: str, body: object, status: int, code: str, place: str
) -> None:
    """Unknown fields, bounds and everything that the schema of events refuses: a problem, and nothing is begun."""
    answer = call(server, path, body)
    assert is_problem(answer, status, code)
    assert answer.json().get("path", "") == place


def test_nobodys_heartbeat_spoils_anothers(any_server: Serving) -> None:
    """Heartbeats that are written together are answered each by itself: one that names what no database could hold is
    not found, and the others are heard. So are other calls that name such a session."""
    call(any_server, "begin", {"session_id": "heard"})
    hostile: list[tuple[str, object]] = [("zzz", {"attempt": 2**63}), ("a%00b", {}), ("a" * 3000, {})]
    with ThreadPoolExecutor(12) as pool:
        for path, body in hostile * 3:
            beats = [pool.submit(call, any_server, "heard/heartbeat") for _ in range(3)]
            bad = pool.submit(call, any_server, f"{path}/heartbeat", body, who="other/writer")
            assert is_problem(bad.result(), 404, "not_found")
            assert [beat.result().status_code for beat in beats] == [200, 200, 200]
    for path, body in hostile:
        assert is_problem(call(any_server, f"{path}/complete", body), 404, "not_found")
    for path in ("a%00b", "a%00b?attempt=1", f"heard?attempt={2**63}"):
        assert is_problem(any_server.get(f"/v1/watched-sessions/{path}"), 404, "not_found")
    for place in (f"{2**70} x", "1 a\0b"):
        cursor = base64.urlsafe_b64encode(place.encode()).decode()
        assert is_problem(any_server.get(f"/v1/watched-sessions?cursor={cursor}"), 400, "body_invalid")


def test_hostile_bodies_are_refused(server: Serving) -> None:
    """Not JSON, half a character, thousands of brackets, more bytes than the route takes."""
    bodies: list[tuple[bytes, tuple[int, ...]]] = [
        (b"{", (400,)),
        (b"\xff\xfe", (400,)),
        (b'{"session_id":"\\ud800"}', (400, 422)),
        (b'{"metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5001, (400, 422)),
        (b'{"metadata":' + b'{"a":' * 200 + b"1" + b"}" * 201, (422,)),
        (b'{"metadata":{"custom_tags":{"a":"' + b"x" * MEGABYTE + b'"}}}', (413,)),
        (b'{"metadata":{"custom_tags":{"a":"' + b"x" * 100_000 + b'"}}}', (400,)),
    ]
    for body, statuses in bodies:
        answer = server.request("POST", "/v1/sessions/begin", content=body)
        assert answer.status_code in statuses, (body[:40], answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert server.get("/healthz").status_code == 200


def test_each_role_may_what_its_permissions_say(server: Serving) -> None:
    """Writers begin, beat and complete, and see nothing; readers see, and change nothing."""
    call(server, "begin", {"session_id": "roles"})
    assert is_problem(server.get("/v1/watched-sessions/roles", who="acme/writer"), 403, "forbidden")
    for role in ("reader", "auditor"):
        assert server.get("/v1/watched-sessions/roles", who=f"acme/{role}").status_code == 200
        for path in ("begin", "roles/heartbeat", "roles/complete"):
            assert is_problem(call(server, path, {}, who=f"acme/{role}"), 403, "forbidden")
    assert is_problem(server.get("/v1/watched-sessions/roles", who="other/admin"), 404, "not_found")
    assert server.client.post("/v1/sessions/begin").status_code == 401


def test_a_list_is_read_page_by_page(any_server: Serving) -> None:
    """Pages follow each other without gap or double, also over ids with spaces; a filter by state holds."""
    names = [f"page {number}" for number in range(7)]
    for name in names:
        call(any_server, "begin", {"session_id": name}, who="other/writer")
    call(any_server, "page%203/complete", {}, who="other/writer")

    def listed(state: str) -> list[str]:
        found: list[str] = []
        cursor = ""
        while True:
            page: dict[str, Any] = any_server.get(
                f"/v1/watched-sessions?limit=3&state={state}&cursor={cursor}", who="other/reader"
            ).json()
            found += [session["session_id"] for session in page["sessions"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    assert listed("open") == [name for name in names if name != "page 3"]
    assert listed("completed") == ["page 3"]
    for cursor in ("!", "eA==", "MSB6", "é"):
        wrong = any_server.get(f"/v1/watched-sessions?cursor={cursor}")
        assert wrong.status_code in (200, 400)
        assert wrong.status_code == 200 or is_problem(wrong, 400, "body_invalid")
    assert is_problem(any_server.get("/v1/watched-sessions?state=asleep"), 400, "body_invalid")


def test_completing_what_is_not_there_is_not_found(any_server: Serving) -> None:
    """However the body reads: as that of a hosted session, of a watched one, or as neither."""
    for body in (b'{"outcome": "success"}', b'{"outcome": {"status": "success"}}', b'{"nothing": 1}'):
        assert is_problem(any_server.request("POST", "/v1/sessions/sess_none/complete", content=body), 404, "not_found")
