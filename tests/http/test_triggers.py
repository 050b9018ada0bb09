"""The routes of triggers, on a real server over each database: its own sweep fires them, and its echo answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.http.serving import Serving, is_problem, serving

PATIENCE_S = 60
TICK = {"kind": "interval", "name": "tick", "prompt": "tick", "every_ms": 1_000}
HOOK = {"kind": "webhook", "prompt": "got {body}"}


def session(server: Serving, **fields: Any) -> str:
    made = server.request("POST", "/v1/sessions", json={"pattern": "long_running", **fields})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def call(
    server: Serving,
    method: str,
    session_id: str,
    name: str = "",
    body: object = None,
    *,
    who: str = "acme/admin",
    **kw: Any,
) -> httpx.Response:
    path = f"/v1/sessions/{session_id}/triggers" + (f"/{name}" if name else "")
    return server.request(method, path, who=who, **({} if body is None else {"json": body}), **kw)


def turns(server: Serving, session_id: str, count: int) -> list[dict[str, Any]]:
    """The turns that have ended, once there are so many: by what they were begun, and their answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        events = server.get(f"/v1/sessions/{session_id}/events?limit=500").json()["events"]
        ended = [event["data"] for event in events if event["type"] == "turn_ended"]
        begun = [event["data"] for event in events if event["type"] == "turn_began"]
        if len(ended) >= count:
            return [
                {"trigger": one.get("trigger"), "text": end["text"]} for one, end in zip(begun, ended, strict=False)
            ]
        assert time.monotonic() < deadline, events
        time.sleep(0.05)


def test_a_session_starts_turns_by_itself(any_server: Serving) -> None:
    """With a trigger that it was made with: turn after turn, each with its prompt, until the trigger is removed."""
    one = session(any_server, triggers=[TICK])
    assert turns(any_server, one, 2)[:2] == [{"trigger": "tick", "text": "tick"}] * 2
    (kept,) = call(any_server, "GET", one).json()["triggers"]
    assert kept["trigger"] == {**TICK, "jitter_ms": 0, "overlap": "skip", "enabled": True}
    assert kept["fired_at"] < kept["next_at"]
    assert call(any_server, "DELETE", one, "tick").status_code == 204
    assert is_problem(call(any_server, "GET", one, "tick"), 404, "not_found")
    assert is_problem(call(any_server, "DELETE", one, "tick"), 404, "not_found")


def test_files_start_turns(any_database: str, tmp_path: Path) -> None:
    """A file that comes into the session's workspace, and one that comes into a folder that the setting allows, are
    named to a turn."""
    folder = tmp_path / "mail" / "acme"
    watched = {"kind": "file", "prompt": "read {files}", "every_ms": 1_000}
    with serving(any_database, tmp_path, hosting={"watch_folders": [f"{tmp_path}/mail/{{tenant}}"]}) as server:
        one = session(server)
        assert call(server, "PUT", one, "inbox", {**watched, "path": "inbox"}).status_code == 200
        inbox = tmp_path / "workspaces" / "acme" / one / "inbox"
        inbox.mkdir(parents=True)
        (inbox / "a.txt").write_text("hello")
        assert turns(server, one, 1) == [{"trigger": "inbox", "text": "read inbox/a.txt"}]
        assert call(server, "PUT", one, "mail", {**watched, "path": str(folder)}).status_code == 200
        folder.mkdir(parents=True)
        (folder / "b.txt").write_text("hello")
        assert turns(server, one, 2)[1:] == [{"trigger": "mail", "text": f"read {folder}/b.txt"}]


def test_a_webhook_begins_a_turn_and_does_not_wait(any_server: Serving) -> None:
    """202 with the turn; the same call again is the same turn; its prompt has the body as it was sent."""
    one = session(any_server)
    assert call(any_server, "PUT", one, "hook", {**HOOK, "overlap": "queue"}).json()["next_at"] is None
    key = {"headers": {"Idempotency-Key": "k-1"}}
    answers = [call(any_server, "POST", one, "hook", {"n": 1}, **key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["turn_id"] == answers[1].json()["turn_id"]
    assert call(any_server, "POST", one, "hook", content=b"plain").status_code == 202
    assert turns(any_server, one, 2) == [
        {"trigger": "hook", "text": 'got {"n":1}'},
        {"trigger": "hook", "text": "got plain"},
    ]
    assert is_problem(call(any_server, "POST", one, "hook", content=b"\xff"), 400, "body_invalid")
    assert is_problem(call(any_server, "POST", one, "hook", content=b"x" * 300_000), 413, "body_too_large")
    assert is_problem(call(any_server, "POST", one, "hook", {"n": 2}, **key), 422, "key_reused")


def test_a_session_that_has_ended_starts_no_more(any_server: Serving) -> None:
    """Its triggers can be looked at, and wait for nothing; a webhook and a new trigger are refused."""
    one = session(any_server, triggers=[TICK, {**HOOK, "name": "hook"}])
    any_server.request("POST", f"/v1/sessions/{one}/terminate")
    assert [each["next_at"] for each in call(any_server, "GET", one).json()["triggers"]] == [None, None]
    assert is_problem(call(any_server, "POST", one, "hook", {}), 409, "session_ended")
    assert is_problem(call(any_server, "PUT", one, "more", HOOK), 409, "session_ended")
    any_server.request("DELETE", f"/v1/sessions/{one}")
    assert is_problem(call(any_server, "GET", one), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "status", "code", "path"),
    [
        ({"kind": "cron", "prompt": "x", "expression": "61 * * * *"}, 422, "trigger_invalid", "expression"),
        (
            {"kind": "cron", "prompt": "x", "expression": "@daily", "time_zone": "X"},
            422,
            "trigger_invalid",
            "time_zone",
        ),
        ({"kind": "file", "prompt": "x", "path": "/etc"}, 422, "trigger_invalid", "path"),
        ({"kind": "webhook", "prompt": "{files}"}, 422, "trigger_invalid", "prompt"),
        ({"kind": "corn", "prompt": "x"}, 400, "body_invalid", "kind"),
        ({"kind": "interval", "prompt": "x", "every_ms": 999}, 400, "body_invalid", "every_ms"),
        ({**HOOK, "name": "other"}, 400, "body_invalid", "name"),
        ({**HOOK, "when": "now"}, 400, "body_invalid", "when"),
        ({}, 400, "body_invalid", ""),
    ],
)
def test_what_is_wrong_is_said_with_its_path(server: Serving, body: object, status: int, code: str, path: str) -> None:
    """A problem, and nothing is put."""
    one = session(server)
    answer = call(server, "PUT", one, "x", body)
    assert is_problem(answer, status, code)
    assert answer.json().get("path", "") == path
    assert call(server, "GET", one).json() == {"triggers": []}


def test_patterns_names_and_tenants_are_told_apart(server: Serving) -> None:
    """A pattern without triggers, a name that is none, another tenant's session, and a key that may only read."""
    one = session(server)
    short = session(server, pattern="hybrid")
    assert is_problem(call(server, "PUT", short, "x", HOOK), 422, "trigger_invalid")
    refused = server.request("POST", "/v1/sessions", json={"pattern": "ephemeral", "triggers": [TICK]})
    assert is_problem(refused, 422, "trigger_invalid")
    twice = server.request("POST", "/v1/sessions", json={"pattern": "long_running", "triggers": [TICK, TICK]})
    assert is_problem(twice, 422, "trigger_invalid")
    assert twice.json()["path"] == "triggers[1].name"
    assert is_problem(call(server, "PUT", one, "a%2Fb", HOOK), 422, "trigger_invalid")
    assert call(server, "PUT", one, "hook", HOOK).status_code == 200
    for method, name in (("GET", ""), ("GET", "hook"), ("PUT", "hook"), ("POST", "hook"), ("DELETE", "hook")):
        answer = call(server, method, one, name, HOOK if method == "PUT" else None, who="other/admin")
        assert is_problem(answer, 404, "not_found")
    assert is_problem(call(server, "POST", one, "hook", who="acme/reader"), 403, "forbidden")
    assert is_problem(call(server, "POST", one, "tick"), 404, "not_found")


def test_what_may_be_sent_is_described(server: Serving) -> None:
    """Each kind of trigger, by its tag, in the body of PUT and in that of a new session."""
    document = server.client.get("/openapi.json").json()
    body = document["paths"]["/v1/sessions/{session_id}/triggers/{name}"]["put"]["requestBody"]
    names = [each["$ref"].rpartition("/")[2] for each in body["content"]["application/json"]["schema"]["oneOf"]]
    kinds = [document["components"]["schemas"][name]["properties"]["kind"]["enum"] for name in names]
    assert kinds == [["interval"], ["cron"], ["file"], ["webhook"]]
