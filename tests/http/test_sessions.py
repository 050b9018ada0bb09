"""Hosted sessions over HTTP: made, looked up, changed, ended and deleted."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.hosting import created, events, say, shown
from tests.http.serving import Serving, is_problem

INSIDE = {"epoch", "stopping", "due_ms", "tenant", "spent", "described", "retention_ms"}


def test_a_session_is_made_and_looked_up(any_server: Serving) -> None:
    """201 with its address; the same from there; what only nodes need is in neither."""
    wanted = {
        "name": "mend",
        "tags": ["a", "b", "a"],
        "user_id": "usr/1",
        "metadata": {"n": 1.5, "deep": {"x": [None, True]}},
        "state": {"step": 1},
        "config": {"options": {"reply": "ok"}, "system_prompt": "be brief"},
        "limits": {"max_turns": 3, "max_budget_usd": "1.50"},
        "price": {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15},
    }
    answer = any_server.request("POST", "/v1/sessions", json={"pattern": "hybrid", **wanted})
    made = answer.json()
    assert answer.status_code == 201
    assert any_server.get(answer.headers["location"]).json() == made
    assert {name: made[name] for name in ("name", "user_id", "metadata", "state", "config")} == {
        name: wanted[name] for name in ("name", "user_id", "metadata", "state", "config")
    }
    assert made["tags"] == ["a", "b"]
    assert made["limits"]["max_turns"] == 3
    assert float(made["limits"]["max_budget_usd"]) == 1.5
    assert (made["status"], made["outcome"], made["ended_at"], made["cost_usd"]) == ("active", None, None, "0")
    assert made["created_at"].endswith("Z")
    assert not INSIDE & set(made)


def test_the_same_call_makes_one_session(any_server: Serving) -> None:
    """With the same Idempotency-Key: 200 and the same session. With another body, the key is refused."""
    call: dict[str, Any] = {"headers": {"idempotency-key": "k1"}, "json": {"pattern": "hybrid", "role": "active"}}
    first, again = (any_server.request("POST", "/v1/sessions", **call) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = any_server.request("POST", "/v1/sessions", **{**call, "json": {"pattern": "hybrid", "role": "observer"}})
    assert is_problem(other, 422, "key_reused")
    long = {"headers": {"idempotency-key": "k" * 257}, "json": {"pattern": "hybrid"}}
    assert is_problem(any_server.request("POST", "/v1/sessions", **long), 400, "body_invalid")


@pytest.mark.parametrize(
    ("body", "status", "path", "said"),
    [
        (b"", 400, "", "missing required field `pattern`"),
        (b"nonsense", 400, "", "JSON is malformed"),
        (b"[]", 400, "", "Expected `object`, got `array`"),
        (b'{"pattern": "epehmeral"}', 400, "pattern", "did you mean 'ephemeral'?"),
        (b'{"patern": "hybrid"}', 400, "patern", "did you mean 'pattern'?"),
        (b'{"pattern": "hybrid", "limits": {"maxTurns": 1}}', 400, "limits.maxTurns", "did you mean 'max_turns'?"),
        (b'{"pattern": "hybrid", "limits": {"max_turns": -1}}', 400, "limits.max_turns", "Expected `int` >= 1"),
        (b'{"pattern": "hybrid", "limits": {"max_turns": "3"}}', 400, "limits.max_turns", "got `str`"),
        (b'{"pattern": "hybrid", "limits": {"max_budget_usd": -1}}', 400, "limits", "max_budget_usd is -1"),
        (b'{"pattern": "hybrid", "limits": {"max_budget_usd": 1e999999999}}', 400, "limits", "max_budget_usd is"),
        (b'{"pattern": "hybrid", "limits": {"max_budget_usd": 5}}', 422, "price", "price"),
        (b'{"pattern": "hybrid", "runner": "nobody"}', 422, "runner", "echo"),
        (b'{"pattern": "hybrid", "config": {"options": {"replay": 1}}}', 422, "config.options.replay", "reply"),
        (b'{"pattern": "hybrid", "config": {"agents": [{"name": "a"}]}}', 422, "config.agents", "single_container"),
        (b'{"pattern": "hybrid", "parent_id": "sess_none"}', 404, "parent_id", "sess_none"),
        (b'{"pattern": "hybrid", "metadata": {"a": ' + b"[" * 10_000 + b"}}", 400, "", "nests too deep"),
    ],
)
def test_what_is_wrong_with_a_new_session_is_told(
    any_server: Serving, body: bytes, status: int, path: str, said: str
) -> None:
    """Its path, the fact, and what was probably meant; nothing is made."""
    before = any_server.get("/v1/sessions?limit=500").json()["sessions"]
    answer = any_server.request("POST", "/v1/sessions", content=body)
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert is_problem(answer, status, document["code"])
    assert said in document["detail"]
    assert document.get("path", "") == path
    assert any_server.get("/v1/sessions?limit=500").json()["sessions"] == before


@pytest.mark.parametrize("field", ["name", "user_id", "interface", "parent_id"])
def test_nul_characters_reach_no_database(any_server: Serving, field: str) -> None:
    """PostgreSQL cannot hold them in a text: refused, with the path; what may be any JSON may hold them."""
    answer = any_server.request("POST", "/v1/sessions", json={"pattern": "hybrid", field: "a\0b"})
    assert is_problem(answer, 400, "body_invalid")
    assert answer.json()["path"] == field
    session = created(any_server, metadata={"raw": "a\0b"}, name="\\u0000")
    assert shown(any_server, session)["metadata"] == {"raw": "a\0b"}
    assert is_problem(say(any_server, session, agent="a\0"), 400, "body_invalid")


def test_a_change_names_the_revision_that_was_seen(any_server: Serving) -> None:
    """It moves with each change; a stale one is 409 and changes nothing; what is not given stays."""
    session = created(any_server, name="one", tags=["x"], limits={"max_turns": 9})
    path = f"/v1/sessions/{session['id']}"
    changed = any_server.request(
        "PATCH", path, json={"revision": session["revision"], "name": "two", "state": {"a": 1}}
    )
    assert changed.status_code == 200, changed.text
    assert (changed.json()["name"], changed.json()["tags"], changed.json()["state"]) == ("two", ["x"], {"a": 1})
    assert changed.json()["revision"] > session["revision"]
    stale = any_server.request("PATCH", path, json={"revision": session["revision"], "name": "three"})
    assert is_problem(stale, 409, "revision_stale")
    unknown = any_server.request("PATCH", path, json={"revision": 1, "patern": "ephemeral"})
    assert is_problem(unknown, 400, "body_invalid")
    assert shown(any_server, session)["name"] == "two"
    assert is_problem(any_server.request("PATCH", "/v1/sessions/none", json={"revision": 1}), 404, "not_found")


def test_a_session_is_completed_by_its_caller(any_server: Serving) -> None:
    """From idle, in one step for the caller; its completion is in the log under the id that it had from the start. The
    same again is refused, and terminating it too."""
    session = created(any_server)
    say(any_server, session, "well")
    path = f"/v1/sessions/{session['id']}"
    ended = any_server.request("POST", f"{path}/complete", json={"outcome": "error", "error_code": "gave_up"})
    assert ended.status_code == 200, ended.text
    assert (ended.json()["status"], ended.json()["outcome"]) == ("completed", "error")
    found = any_server.get(f"/v1/events/{session['event_id']}").json()["event"]
    assert found["outcome"]["error_code"] == "gave_up"
    assert found["session"]["session_id"] == session["id"]
    for verb in ("complete", "terminate"):
        assert is_problem(any_server.request("POST", f"{path}/{verb}"), 409, "session_ended")
    assert is_problem(say(any_server, session), 409, "session_ended")
    types = [event["type"] for event in events(any_server, session)]
    assert types[-1] == "completed"


def test_a_final_state_is_any_json(any_server: Serving) -> None:
    """As it was sent, in the completion."""
    for state in ({"a": [1, None]}, 3, "done", None, [False]):
        session = created(any_server)
        body = {"final_state": state, "final_message": "bye"}
        assert any_server.request("POST", f"/v1/sessions/{session['id']}/complete", json=body).status_code == 200
        outcome = any_server.get(f"/v1/events/{session['event_id']}").json()["event"]["outcome"]
        assert outcome.get("final_state") == state
        assert outcome["final_message"] == "bye"


def test_a_session_is_terminated_with_its_turn(any_server: Serving) -> None:
    """The turn that hangs ends with it; the reason is in its events."""
    session = created(any_server, config={"options": {"hang": True}})
    path = f"/v1/sessions/{session['id']}"
    turn = any_server.request("POST", f"{path}/messages", json={"prompt": "x", "queue": True, "run": False})
    assert turn.status_code == 201
    ended = any_server.request("POST", f"{path}/terminate", json={"reason": "enough"})
    assert (ended.status_code, ended.json()["status"], ended.json()["outcome"]) == (
        200,
        "terminated",
        "user_terminated",
    )
    again = any_server.request("POST", f"{path}/terminate")
    assert again.json()["status"] == "terminated"
    moves = [event["data"] for event in events(any_server, session) if event["type"] == "status_changed"]
    assert moves[-1]["reason"] == "enough"


def test_only_what_has_ended_is_deleted(any_server: Serving) -> None:
    """409 while it lives, unless forced; then it is gone with all that belongs to it, and its completion stays."""
    session = created(any_server)
    say(any_server, session)
    path = f"/v1/sessions/{session['id']}"
    assert is_problem(any_server.request("DELETE", path), 409, "status_refused")
    assert any_server.request("DELETE", f"{path}?force=true").status_code == 204
    for end in ("", "/events", "/messages"):
        assert is_problem(any_server.get(path + end), 404, "not_found")
    assert any_server.get(f"/v1/events/{session['event_id']}").status_code == 200


def test_an_ended_session_is_gone_on_with_in_a_new_one(any_server: Serving) -> None:
    """Resume: 200 and the same session while it idles; 201 and a new one, with its conversation, when it has ended."""
    session = created(any_server)
    say(any_server, session, "remember me")
    path = f"/v1/sessions/{session['id']}"
    awake = any_server.request("POST", f"{path}/resume")
    assert (awake.status_code, awake.json()["id"], awake.json()["status"]) == (200, session["id"], "active")
    any_server.request("POST", f"{path}/complete")
    new = any_server.request("POST", f"{path}/resume")
    assert (new.status_code, new.json()["resumed_from"]) == (201, session["id"])
    conversation = any_server.get(f"{new.headers['location']}/messages").json()["messages"]
    assert [message["parts"][0]["text"] for message in conversation] == ["remember me", "remember me"]


def test_a_completion_is_corrected(any_server: Serving) -> None:
    """Amend: the correction's id is the session's, and the log has it; refused while the session lives."""
    session = created(any_server)
    path = f"/v1/sessions/{session['id']}/amend"
    assert any_server.request("POST", path, json={"cost_usd": 2}).status_code == 409
    any_server.request("POST", f"/v1/sessions/{session['id']}/complete")
    amended = any_server.request("POST", path, json={"cost_usd": "2.5", "outcome": "error"})
    assert amended.status_code == 200, amended.text
    correction = any_server.get(f"/v1/events/{amended.json()['amendment_id']}").json()["event"]
    assert (correction["event_type"], correction["amends"]) == ("session.amended", session["event_id"])
    assert is_problem(any_server.request("POST", path, json={"cost_usd": -1}), 400, "body_invalid")


def test_a_snapshot_is_what_a_new_session_begins_from(any_server: Serving) -> None:
    """Its conversation as far as it was then, and its state."""
    session = created(any_server, state={"step": 2})
    say(any_server, session, "one")
    taken = any_server.request("POST", f"/v1/sessions/{session['id']}/snapshot")
    assert taken.status_code == 201, taken.text
    assert (taken.json()["session_id"], taken.json()["messages"]) == (session["id"], 2)
    say(any_server, session, "two")
    new = created(any_server, snapshot_id=taken.json()["id"])
    conversation = any_server.get(f"/v1/sessions/{new['id']}/messages").json()["messages"]
    assert [message["parts"][0]["text"] for message in conversation] == ["one", "one"]
    assert shown(any_server, new)["state"] == {"step": 2}


def test_another_tenant_s_session_is_not_there(any_server: Serving) -> None:
    """To none of the routes, in the words of one that never was."""
    session = created(any_server)
    path = f"/v1/sessions/{session['id']}"
    for method, end, body in (
        ("GET", "", None),
        ("PATCH", "", {"revision": 1}),
        ("DELETE", "", None),
        ("POST", "/messages", {"prompt": "x"}),
        ("POST", "/messages", {"prompt": "x", "stream": True}),
        ("POST", "/messages", {"prompt": "x", "run": False}),
        ("GET", "/messages", None),
        ("GET", "/events", None),
        ("POST", "/interrupt", None),
        ("POST", "/resume", None),
        ("POST", "/terminate", None),
    ):
        answer = any_server.request(method, path + end, who="other/admin", json=body)
        assert is_problem(answer, 404, "not_found"), (method, end)
    assert any_server.get("/v1/sessions", who="other/admin").json()["sessions"] == []
    assert shown(any_server, session) == session


def test_watched_and_hosted_sessions_have_one_name_space(any_server: Serving) -> None:
    """The id of a hosted one cannot be begun; a watched one is not hosted, and the answer says where it is; complete
    goes to whichever there is."""
    hosted = created(any_server)
    taken = any_server.request("POST", "/v1/sessions/begin", json={"session_id": hosted["id"]})
    assert is_problem(taken, 409, "session_exists")
    any_server.request("POST", "/v1/sessions/begin", json={"session_id": "mine"})
    absent = any_server.get("/v1/sessions/mine")
    assert is_problem(absent, 404, "not_found")
    assert "/v1/watched-sessions" in absent.json()["detail"]
    ended = any_server.request("POST", "/v1/sessions/mine/complete", json={"outcome": {"status": "success"}})
    assert (ended.status_code, ended.json()["status"]) == (200, "accepted")
    assert any_server.request("POST", f"/v1/sessions/{hosted['id']}/complete").json()["status"] == "completed"
    assert is_problem(any_server.request("POST", "/v1/sessions/none/complete"), 404, "not_found")


def test_a_websocket_s_address_says_so(server: Serving) -> None:
    """Without the wish for one: 426 and what to ask for."""
    answer = server.get("/v1/sessions/any/ws")
    assert is_problem(answer, 426, "upgrade_required")
    assert answer.headers["upgrade"] == "websocket"
