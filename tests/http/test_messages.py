"""Turns over HTTP: as an answer, and as they happen."""

from __future__ import annotations

import contextlib
import random
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.http.hosting import created, events, say, shown, text_of, told, turning, until
from tests.http.serving import Serving, is_problem, serving

SLOW = {"chunks": 40, "chunk_ms": 25}
HANG = {"hang": True}


def test_a_turn_is_answered_when_it_has_ended(any_server: Serving) -> None:
    """What it said, used and cost, and the session as it is then; the figures add up to the session's."""
    session = created(any_server, config={"options": {"reply": "to {text}", "cost_usd": "0.25"}})
    answers = [say(any_server, session, "one two").json() for _ in range(3)]
    turn, after = answers[-1]["turn"], answers[-1]["session"]
    assert (turn["number"], turn["status"], turn["text"], turn["cost_usd"]) == (3, "done", "to one two", "0.25")
    assert turn["began_at"] <= turn["ended_at"]
    assert (after["status"], after["usage"]["turns"], after["cost_usd"]) == ("idle", 3, "0.75")
    assert after["usage"]["input_tokens"] == sum(answer["turn"]["usage"]["input_tokens"] for answer in answers)
    assert after == shown(any_server, session)


def test_a_turn_that_failed_is_an_answer(any_server: Serving) -> None:
    """It ran, and costs: 200, with its error in the turn."""
    options = {"fail": {"code": "broken", "message": "it broke", "retryable": True}}
    answer = say(any_server, created(any_server), options=options)
    assert answer.status_code == 200
    turn = answer.json()["turn"]
    assert (turn["status"], turn["error"]) == ("failed", {"code": "broken", "message": "it broke", "retryable": True})


def test_the_same_call_gets_the_same_answer(any_server: Serving) -> None:
    """With its Idempotency-Key it runs once, and is answered with the session as it was then; another message with that
    key is refused."""
    session = created(any_server)
    first, again = (say(any_server, session, "x", headers={"idempotency-key": "k"}) for _ in range(2))
    say(any_server, session, "y")
    late = say(any_server, session, "x", headers={"idempotency-key": "k"})
    assert first.json() == again.json() == late.json()
    assert shown(any_server, session)["usage"]["turns"] == 2
    assert is_problem(say(any_server, session, "z", headers={"idempotency-key": "k"}), 422, "key_reused")
    assert is_problem(say(any_server, session, headers={"idempotency-key": "k" * 257}), 400, "body_invalid")


def test_one_turn_at_a_time_unless_it_may_wait(any_server: Serving) -> None:
    """409 names the turn that runs; with `queue` the next begins when it has ended, in order."""
    session = created(any_server)
    with turning(any_server, session, "first", options=HANG) as first:
        first.next_of("text_delta")
        refused = say(any_server, session)
        assert is_problem(refused, 409, "turn_running")
        assert shown(any_server, session)["turn_id"] in refused.json()["detail"]
        answers: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(say(any_server, session, "second", queue=True)))
        waiting.start()
        until(lambda: shown(any_server, session)["queued"] == 1)
        path = f"/v1/sessions/{session['id']}/interrupt"
        assert any_server.request("POST", path).status_code == 200
        waiting.join(60)
    assert (answers[0].json()["turn"]["number"], answers[0].json()["turn"]["status"]) == (2, "done")


def test_a_message_alone_runs_nothing(any_server: Serving) -> None:
    """201 with its id and place; the same id again is the same message; the next turn knows it."""
    session = created(any_server, config={"options": {"reply": "{messages}"}})
    path = f"/v1/sessions/{session['id']}/messages"
    body = {"role": "system", "parts": [{"type": "text", "text": "be kind"}], "run": False, "message_id": "m/1"}
    first, again = (any_server.request("POST", path, json=body) for _ in range(2))
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json() == {"message_id": "m/1", "seq": 1}
    assert shown(any_server, session)["usage"]["turns"] == 0
    said = any_server.get(path).json()["messages"][0]
    assert (said["id"], said["role"], said["parts"]) == ("m/1", "system", body["parts"])
    assert is_problem(any_server.request("POST", path, json={**body, "stream": True}), 400, "body_invalid")


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        ({"promt": "x"}, "promt", "did you mean 'prompt'?"),
        ({"prompt": ""}, "prompt", "length >= 1"),
        ({"prompt": 3}, "prompt", "got `int`"),
        ({"parts": [{"type": "txt", "text": "x"}]}, "parts[0].type", "did you mean 'text'?"),
        ({"prompt": "x", "role": "robot"}, "role", "assistant, system, tool, user"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_wrong_with_a_message_is_told(
    server: Serving, body: dict[str, Any], path: str, said: str, stream: bool
) -> None:
    """As JSON, also to whoever asked for a stream; no turn runs."""
    session = created(server)
    answer = server.request("POST", f"/v1/sessions/{session['id']}/messages", json={**body, "stream": stream})
    assert is_problem(answer, 400, "body_invalid")
    assert answer.json()["path"] == path
    assert said in answer.json()["detail"]
    assert shown(server, session)["usage"]["turns"] == 0


def test_a_message_may_be_longer_than_other_bodies(tmp_path: Path) -> None:
    """As long as `server.body_mb_max` allows, and not longer."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, server={"body_mb_max": 2}) as server:
        session = created(server)
        long = [{"type": "text", "text": "x" * 900_000} for _ in range(2)]
        path = f"/v1/sessions/{session['id']}/messages"
        assert server.request("POST", path, json={"parts": long, "run": False}).status_code == 201
        too_long = server.request("POST", path, json={"parts": [*long, *long], "run": False})
        assert is_problem(too_long, 413, "body_too_large")


# --- as it happens ----------------------------------------------------------------------------------------------------


def test_a_turn_is_told_as_it_happens(any_server: Serving) -> None:
    """Its events in order, named and numbered, and the end of the answer with its last; they are those that the session
    has, and money is decimal."""
    options = {"chunks": 3, "cost_usd": "0.3", "tools": [{"name": "look", "arguments": {"at": 1}, "output": [2]}]}
    session = created(any_server, config={"allowed_tools": ["look"]})
    say(any_server, session, "before")
    with turning(any_server, session, "one two three", options=options) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        found = told(stream)
        assert stream.ended
    assert found[0]["type"] == "status_changed"
    assert found[-1]["type"] == "turn_ended"
    assert text_of(found) == found[-1]["data"]["text"] == "one two three"
    costs = [event["data"]["cost_usd"] for event in found if event["type"] == "cost"]
    assert sum(map(Decimal, costs)) == Decimal(found[-1]["data"]["cost_usd"]) == Decimal("0.3")
    assert [event["seq"] for event in found] == list(range(found[0]["seq"], found[0]["seq"] + len(found)))
    stored = {event["seq"]: event for event in events(any_server, session)}
    assert [stored[event["seq"]] for event in found] == found


def test_a_client_that_comes_back_gets_exactly_the_rest(any_server: Serving, rng: random.Random) -> None:
    """Cut off at any event, again and again: the same call with the last id it saw goes on behind that, the turn runs
    once, and nothing is missing or told twice."""
    session = created(any_server)
    found: list[dict[str, Any]] = []
    last_id = ""
    while not found or found[-1]["type"] != "turn_ended":
        with turning(any_server, session, "a" * 40, key="once", last_id=last_id, options=SLOW) as stream:
            for _ in range(rng.randint(1, 25)):
                with contextlib.suppress(StopIteration):
                    message = next(iter(stream))
                    found += [message.data] if message.kind not in ("comment", "mark") else []
            last_id = stream.last_id
    assert [event["seq"] for event in found] == list(range(found[0]["seq"], found[0]["seq"] + len(found)))
    assert text_of(found) == "a" * 40
    assert shown(any_server, session)["usage"]["turns"] == 1
    with turning(any_server, session, "a" * 40, key="once", last_id=last_id, options=SLOW) as stream:
        assert told(stream) == []  # it has all
    with turning(any_server, session, "a" * 40, key="once", options=SLOW) as stream:
        assert told(stream) == found  # from the beginning


def test_a_place_that_never_was_is_refused(any_server: Serving) -> None:
    """An id of another stream: 410 where no turn runs that may have told it, and 400 where it is no number."""
    session = created(any_server)
    with turning(any_server, session, key="k") as stream:
        told(stream)
    with turning(any_server, session, key="k", last_id="999") as stream:
        assert stream.status == 410
    with turning(any_server, session, key="k", last_id="1-2") as stream:
        assert stream.status == 400


def test_the_turn_goes_on_without_its_client(any_server: Serving) -> None:
    """Unless it is set otherwise: it ends, and is billed whole."""
    session = created(any_server)
    with turning(any_server, session, "a" * 40, options={**SLOW, "cost_usd": "0.4"}) as stream:
        stream.next_of("text_delta")
    ended = until(lambda: (now := shown(any_server, session))["status"] == "idle" and now)
    assert (ended["final_message"], ended["cost_usd"]) == ("a" * 40, "0.4")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("where", ["session", "message"])
def test_the_turn_stops_with_its_client(any_server: Serving, stream: bool, where: str) -> None:
    """Where the session or the message says so: whoever hangs up, in a stream or while waiting for the answer, ends the
    turn, and what it had used is billed."""
    wish = {"on_disconnect": "stop"}
    session = created(any_server, **(wish if where == "session" else {}))
    message = {"options": {**HANG, "cost_usd": "0.1"}, **(wish if where == "message" else {})}
    if stream:
        with turning(any_server, session, **message) as client:
            client.next_of("cost")
    else:
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=any_server.url, trust_env=False) as client:
            path, body = f"/v1/sessions/{session['id']}/messages", {"prompt": "x", **message}
            client.post(path, json=body, headers=any_server.bearer(), timeout=1.5)
    ended = until(lambda: (now := shown(any_server, session))["status"] == "idle" and now)
    assert ended["cost_usd"] == "0.1"
    (turn,) = [event["data"] for event in events(any_server, session) if event["type"] == "turn_ended"]
    assert turn["status"] == "interrupted"


def test_the_answer_comes_where_the_client_waits(any_server: Serving) -> None:
    """A turn that would stop with its client does not, as long as that is there."""
    session = created(any_server)
    answer = say(any_server, session, "well", on_disconnect="stop", options={"chunks": 4, "chunk_ms": 50})
    assert (answer.status_code, answer.json()["turn"]["text"]) == (200, "well")
    assert answer.json()["session"]["status"] == "idle"


def test_a_turn_that_waits_stops_with_its_client_when_it_begins(any_server: Serving) -> None:
    """And not the one that it waited for."""
    session = created(any_server)
    with turning(any_server, session, "first", options=HANG) as first:
        first.next_of("text_delta")
        with turning(any_server, session, "second", queue=True, on_disconnect="stop", options=HANG) as second:
            second.next_of("mark")
            until(lambda: shown(any_server, session)["queued"] == 1)
        running = shown(any_server, session)["turn_id"]
        any_server.request("POST", f"/v1/sessions/{session['id']}/interrupt")
        assert told(first)[-1]["data"]["turn_id"] == running
    until(lambda: (now := shown(any_server, session))["status"] == "idle" and not now["queued"])
    turns = [event["data"] for event in events(any_server, session) if event["type"] == "turn_ended"]
    assert [turn["status"] for turn in turns] == ["interrupted", "interrupted"]


def test_a_silent_turn_beats(tmp_path: Path) -> None:
    """While its runner says nothing, comments keep the connection alive; a writer's key, which may read nothing, is
    good for a stream of its own turn as long as it lasts."""
    patches = {"adjourn.http.stream.HEARTBEAT_S": 0.2}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, patches=patches) as server:
        session = created(server, who="acme/writer")
        server.keys["acme/admin"], admin = server.keys["acme/writer"], server.keys["acme/admin"]
        with turning(server, session, options={"delay_ms": 1_000}) as stream:
            kinds = [message.kind for message in stream]
        assert kinds.count("comment") >= 2
        assert kinds[-1] == "turn_ended"
        server.keys["acme/admin"] = admin


def test_a_stopping_server_lets_streams_go(tmp_path: Path) -> None:
    """The stream ends with the time to come back, the turn with the server's patience; another server has the rest."""
    url = f"sqlite:///{tmp_path}/a.db"
    with serving(url, tmp_path, server={"drain_ms_max": 20_000}) as server:
        session = created(server)
        with turning(server, session, "a" * 40, key="k", options=SLOW) as stream:
            stream.next_of("text_delta")
            server.terminate()
            found = list(stream)
            assert "the server is stopping" in [message.data for message in found if message.kind == "comment"]
            assert (stream.retry_ms, stream.ended) == (2000, True)
            last_id = stream.last_id
        assert server.process.wait(60) == 0
        keys = server.keys
    with serving(url, tmp_path, keys=keys) as server:
        with turning(server, session, "a" * 40, key="k", last_id=last_id, options=SLOW) as stream:
            rest = told(stream)
        assert rest[-1]["type"] == "turn_ended"
        whole = [event for event in events(server, session) if event["seq"] > int(last_id)]
        assert [event for event in whole if event["type"] != "status_changed"] == rest
