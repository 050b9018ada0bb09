"""Clients of hosted sessions that ask for what cannot be, hang up, or come at once, over HTTP; and servers that are
stopped and killed under them. Nothing is left of any of it."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.faults.hosting import PATIENCE_S, PRICE, Host, hosting, warm
from tests.http.conftest import database_url
from tests.http.hosting import events, told, turning, until, watching
from tests.http.serving import is_problem
from websockets.sync.client import connect

BOUNDS = {"max_turns": 1_000, "ephemeral_retention_ms": 3_600_000}
SILENT = {"adjourn.http.stream.HEARTBEAT_S": 3_600}
"""Who hangs up is noticed by that, not by what cannot be sent any more."""
RACES = 100
"""On each database."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    folder = tmp_path_factory.mktemp("hosted")
    with hosting(database_url(request.param, folder), folder, hosting=BOUNDS, patches=SILENT) as host:
        yield warm(host)


@pytest.fixture
def host(servers: Host) -> Generator[Host]:
    """Nothing is left after any test."""
    yield servers
    try:
        servers.at_rest()
    finally:
        servers.forget()


# --- what cannot be ---------------------------------------------------------------------------------------------------

AGENT = {"pattern": "hybrid", "runner": "loose"}
REFUSED: dict[str, tuple[dict[str, Any], int, str, str, str]] = {
    "runner": ({"pattern": "hybrid", "runner": "lose"}, 422, "runner_refused", "runner", "loose"),
    "pattern": ({"pattern": "hibrid"}, 400, "body_invalid", "pattern", "hybrid"),
    "model": ({**AGENT, "config": {"model": "smal"}}, 422, "runner_refused", "config.model", "small"),
    "tool": (
        {**AGENT, "config": {"allowed_tools": ["lock"]}},
        422,
        "runner_refused",
        "config.allowed_tools[0]",
        "look",
    ),
    "agents": ({**AGENT, "config": {"agents": [{"name": "a"}]}}, 422, "runner_refused", "config.agents", "single_"),
    "negative": ({**AGENT, "limits": {"max_turns": -1}}, 400, "body_invalid", "limits.max_turns", ">= 1"),
    "negative money": ({**AGENT, "limits": {"max_budget_usd": "-1"}}, 400, "body_invalid", "limits", "from 0"),
    "too much": ({**AGENT, "limits": {"max_turns": 1_001}}, 409, "limit_reached", "limits.max_turns", "at most"),
    "no price": ({**AGENT, "limits": {"max_budget_usd": "1"}}, 422, "price_unknown", "price", "declare"),
    "no parent": ({**AGENT, "parent_id": "sess_no"}, 404, "not_found", "parent_id", "check"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(host: Host, what: str) -> None:
    """With the fact, the remedy and the path; nothing is written."""
    new, status, code, path, remedy = REFUSED[what]
    before = host.story()
    answer = host.server.request("POST", "/v1/sessions", json=new)
    assert is_problem(answer, status, code)
    assert answer.json()["path"] == path
    assert remedy in answer.json()["detail"]
    assert host.story() == before


def test_what_cannot_be_done_to_a_session_is_refused(host: Host) -> None:
    """A stale revision, a limit above the server's, an agent that is not there, a message to one that has ended,
    another message with the same key: each changes nothing."""
    many = {"agents": [{"name": "ann"}, {"name": "bob"}]}
    team = host.create("single_container", config=many)
    single, ended = host.create(), host.create("ephemeral")
    assert host.turn(ended)["status"] == "done"
    assert host.say(single, headers={"idempotency-key": "k"}).status_code == 200
    before = host.story()

    def patched(**change: Any) -> httpx.Response:
        return host.server.request("PATCH", f"/v1/sessions/{single['id']}", json=change)

    revision = host.shown(single)["revision"]
    refused = [
        (patched(revision=revision + 7, name="x"), 409, "revision_stale", "revision", "read it again"),
        (patched(revision=revision, limits={"max_turns": 9_999}), 409, "limit_reached", "limits.max_turns", "at most"),
        (host.say(team, agent="eve"), 404, "not_found", "agent", "ann, bob"),
        (host.say(team), 404, "not_found", "agent", "ann, bob"),
        (host.say(ended), 409, "session_ended", "", f"resumed_from: {ended['id']}"),
        (host.do(ended, "complete"), 409, "session_ended", "", "amend"),
        (host.say(single, "other", headers={"idempotency-key": "k"}), 422, "key_reused", "", "own"),
        (host.delete(single), 409, "status_refused", "", "force"),
    ]
    for answer, status, code, path, remedy in refused:
        assert is_problem(answer, status, code)
        assert answer.json().get("path", "") == path
        assert remedy in answer.json()["detail"]
    assert host.story() == before
    assert host.do(team, "terminate").status_code == 200


# --- clients that hang up ---------------------------------------------------------------------------------------------


def hang_up(host: Host, session: Mapping[str, Any], how: str, prompt: str, wish: str) -> None:
    """Ask for a turn, and go once it has cost something."""
    if how == "stream":
        with turning(host.server, session, prompt, on_disconnect=wish) as stream:
            stream.next_of("cost")
    elif how == "json":
        body = json.dumps({"prompt": prompt, "on_disconnect": wish}).encode()
        head = [f"POST /v1/sessions/{session['id']}/messages", f"content-length: {len(body)}"]
        with host.server.socket() as line:
            line.sendall(host.server.head(*head, "content-type: application/json") + body)
            with watching(host.server, session) as stream:
                stream.next_of("cost")
    else:
        address = f"{host.server.url.replace('http', 'ws')}/v1/sessions/{session['id']}/ws"
        with connect(address, additional_headers=host.server.bearer(), proxy=None, open_timeout=PATIENCE_S) as line:
            line.send(json.dumps({"type": "message", "prompt": prompt, "on_disconnect": wish}))
            while json.loads(line.recv(PATIENCE_S))["type"] != "cost":
                pass


@pytest.mark.parametrize("how", ["stream", "json", "socket"])
def test_a_turn_goes_on_without_its_client(host: Host, how: str) -> None:
    """Set to continue, it ends by itself, and is billed whole."""
    session = host.agent()
    hang_up(host, session, how, "stream:20", "continue")
    ended = until(lambda: (now := host.shown(session))["status"] == "idle" and now)
    assert Decimal(ended["cost_usd"]) == Decimal("0.2")
    assert host.balance(session) == 8 * 10**8


@pytest.mark.parametrize("how", ["stream", "json", "socket"])
def test_a_turn_stops_with_its_client(host: Host, how: str) -> None:
    """Set to stop, it does, and is billed what it had told: not less, and nothing of what it would have cost."""
    session = host.agent()
    hang_up(host, session, how, "spend:0.25 wait spend:0.5", "stop")
    ended = until(lambda: (now := host.shown(session))["status"] == "idle" and now)
    assert Decimal(ended["cost_usd"]) == Decimal("0.25")
    (turn,) = [event["data"] for event in events(host.server, session) if event["type"] == "turn_ended"]
    assert turn["status"] == "interrupted"
    assert host.balance(session) == 75 * 10**7


def test_a_client_that_comes_back_gets_exactly_the_rest(host: Host, rng: random.Random) -> None:
    """Cut off anywhere, again and again: with the last id that it saw it goes on behind that; the turn runs once."""
    session = host.agent()
    found: list[dict[str, Any]] = []
    last_id = ""
    while not found or found[-1]["type"] != "turn_ended":
        with turning(host.server, session, "stream:30", key="once", last_id=last_id) as stream:
            wanted = rng.randint(1, 15)
            for message in stream:
                found += [message.data] if message.kind not in ("comment", "mark") else []
                wanted -= 1
                if not wanted:
                    break
            last_id = stream.last_id
    assert [event["seq"] for event in found] == list(range(found[0]["seq"], found[0]["seq"] + len(found)))
    assert "".join(e["data"]["text"] for e in found if e["type"] == "text_delta") == found[-1]["data"]["text"]
    assert host.shown(session)["usage"]["turns"] == 1


# --- callers that come at once ----------------------------------------------------------------------------------------


def test_of_those_that_send_at_once_one_wins(host: Host) -> None:
    """The others are told which turn runs, and on which node."""
    session = host.agent()
    with ThreadPoolExecutor(6) as pool:
        sent = [pool.submit(host.say, session, "spend:0.25 wait") for _ in range(6)]
        until(lambda: sum(each.done() for each in sent) == 5)
        turn_id = host.shown(session)["turn_id"]
        with watching(host.server, session) as stream:
            stream.next_of("cost")
        assert host.do(session, "interrupt").status_code == 200
    won = [answer for each in sent if (answer := each.result()).status_code == 200]
    assert [answer.json()["turn"]["turn_id"] for answer in won] == [turn_id]
    for each in sent:
        if each.result() is not won[0]:
            assert is_problem(each.result(), 409, "turn_running")
            assert turn_id in each.result().json()["detail"]
            assert "node" in each.result().json()["detail"]
    assert host.balance(session) == 75 * 10**7


def test_the_same_call_at_once_is_one_turn(host: Host) -> None:
    """With one Idempotency-Key, all get the same answer; and the same session, where they make one."""
    session = host.agent()
    key = {"idempotency-key": "same"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: host.say(session, "spend:0.25 say:once", headers=key), range(6)))
        new = {"pattern": "hybrid", "name": "one"}
        made = list(pool.map(lambda _: host.server.request("POST", "/v1/sessions", json=new, headers=key), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert (host.shown(session)["usage"]["turns"], host.balance(session)) == (1, 75 * 10**7)
    assert sorted(answer.status_code for answer in made) == [200] * 5 + [201]
    (session_id,) = {answer.json()["id"] for answer in made}
    host.made.append(session_id)


VERBS = ("interrupt", "terminate", "complete", "delete", "send", "resume", "patch")


def race(host: Host, rng: random.Random) -> None:
    """A turn, and whatever may end it, at times that nobody chose."""
    pattern = rng.choice(["ephemeral", "long_running", "hybrid"])
    echo = {"options": {"chunks": 4, "chunk_ms": rng.choice([0, 5]), "cost_usd": "0.1", "hang": rng.random() < 0.3}}
    program = rng.random() < 0.1  # its opening takes a while
    new = {"runner": "loose"} if program else {"config": echo}
    session = host.create(pattern, **new, price=PRICE, limits={"max_budget_usd": "1"})
    prompt = "spend:0.1 wait" if program else "hello"

    def verb(name: str, delay_s: float) -> httpx.Response:
        time.sleep(delay_s)
        if name == "delete":
            return host.delete(session, force=True)
        if name == "send":
            return host.say(session, prompt, queue=True)
        if name == "patch":
            revision = {"revision": 1, "name": "new"}
            return host.server.request("PATCH", f"/v1/sessions/{session['id']}", json=revision)
        return host.do(session, name)

    verbs = [*rng.sample(VERBS, rng.randint(1, 3)), rng.choice(["terminate", "delete"])]
    with ThreadPoolExecutor(8) as pool:
        turn = pool.submit(host.say, session, prompt)
        done = [pool.submit(verb, name, rng.choice([0, 0.003, 0.01, 0.03, 0.1])) for name in verbs]
    for name, answer in zip(["send", *verbs], [turn.result(), *(each.result() for each in done)], strict=True):
        assert answer.status_code in (200, 201, 204, 404, 409), (name, answer.text)
        resumed = answer.json()["id"] if name == "resume" and answer.status_code == 201 else ""
        if resumed:
            host.made.append(resumed)


def test_whatever_ends_a_turn_the_table_is_kept(host: Host, rng: random.Random) -> None:
    """Turns that begin, run and are settled while others interrupt, complete, terminate and delete their sessions: each
    step is one of the table, each session has one completion, no money is lost, and nobody is told of an error."""
    seeds = [rng.randrange(2**32) for _ in range(RACES)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: race(host, random.Random(seed)), seeds))
    for session_id in list(host.made):
        assert host.delete({"id": session_id}, force=True).status_code in (204, 404)


# --- keys and servers that end ----------------------------------------------------------------------------------------


def test_a_key_that_is_revoked_ends_its_streams(tmp_path: Path) -> None:
    """Within a heartbeat, in words; the turn goes on for its session."""
    patches = {"adjourn.http.stream.HEARTBEAT_S": 0.2}
    with hosting(f"sqlite:///{tmp_path}/a.db", tmp_path, patches=patches) as host:
        warm(host)
        made = host.server.request("POST", "/v1/keys", json={"name": "short", "role": "admin"}).json()
        host.server.keys["acme/short"] = made["secret"]
        session = host.agent()
        turn = threading.Thread(target=host.say, args=(session, "spend:0.25 wait"))
        with watching(host.server, session, who="acme/short") as stream:
            turn.start()
            stream.next_of("cost")
            assert host.server.request("DELETE", f"/v1/keys/{made['key']['id']}").status_code == 204
            assert "the key was revoked" in [message.data for message in stream if message.kind == "comment"]
        assert host.shown(session)["status"] == "active"
        host.do(session, "interrupt")
        turn.join(PATIENCE_S)
        assert host.balance(session) == 75 * 10**7
        host.at_rest()


LEFT = {"ephemeral": "error", "long_running": "active", "hybrid": "idle"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("death", ["SIGTERM", "SIGKILL"])
def test_a_server_that_ends_leaves_no_program(kind: str, death: str, tmp_path: Path) -> None:
    """Told to stop or killed, amid turns whose programs hang and have forked: all of them are gone, each session is
    ended or parked by its pattern, what was told is charged, and who is deleted in time takes the workspace along."""
    url = database_url(kind, tmp_path)
    bounds = {"ephemeral_retention_ms": 1_000}
    with hosting(url, tmp_path, hosting=bounds, server={"drain_ms_max": 5_000}) as host:
        sessions = {}
        streams = []
        for number, pattern in enumerate(LEFT):
            session = sessions[pattern] = host.agent("boxed" if number % 2 else "loose", pattern)
            deeds = "write:mine fork daemon ignore spend:0.25 hang"
            streams.append(threading.Thread(target=_follow, args=(host, session, deeds)))
            streams[-1].start()
        until(lambda: all(host.balance(session) <= 75 * 10**7 for session in sessions.values()))  # it is held durably
        assert len(host.processes()) >= 9
        if death == "SIGTERM":
            host.server.terminate()
            assert host.server.process.wait(PATIENCE_S) == 0
        else:
            host.server.kill()
        for thread in streams:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        until(lambda: not host.processes())
        keys, made, mark = host.server.keys, host.made, host.mark
    with hosting(url, tmp_path, hosting=bounds, keys=keys, mark=mark) as host:
        host.made = made
        for pattern, session in sessions.items():
            now = until(
                lambda s=session: (n := host.server.get(f"/v1/sessions/{s['id']}")).json().get("turn_id") is None and n
            )
            if now.status_code == 404:
                assert pattern == "ephemeral"  # deleted by now
                continue
            assert now.json()["status"] == LEFT[pattern]
            assert Decimal(now.json()["cost_usd"]) >= Decimal("0.25")
            assert pattern == "ephemeral" or host.turn(session)["status"] == "done"
        gone = sessions.pop("ephemeral")
        until(lambda: host.server.get(f"/v1/sessions/{gone['id']}").status_code == 404)
        assert not list(host.workspaces.glob(f"*/{gone['id']}"))
        for session in sessions.values():
            assert host.do(session, "terminate").status_code == 200
        host.settle()
        host.at_rest()


def _follow(host: Host, session: Mapping[str, Any], prompt: str) -> None:
    try:
        with turning(host.server, session, prompt) as stream:
            told(stream)
    except httpx.TransportError:
        pass  # it was killed
