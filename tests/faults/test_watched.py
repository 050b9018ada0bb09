"""Watched sessions when processes die: every session that was begun ends with exactly one completion."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import postgres
from tests.faults.rigs import Nursery, ended, mapping, settings_of, url_of
from tests.http.serving import serving

from adjourn.node import Node
from adjourn.sessions import watch_service
from adjourn.sessions.watch import Begin, Complete
from adjourn.testing.account import bodies
from adjourn.testing.faults import run_python

NO_DESTINATIONS = {"destinations": []}
PATIENCE_S = 120

CLIENT = """
import sys, time
from adjourn.sdk import Client

with Client(sys.argv[1], sys.argv[2]) as client, client.sessions.watch(
    session_id="sess_1", user_id="usr_1", model="gpt-4o", lease_ms=3000
) as session:
    session.add_usage(input_tokens=1000, output_tokens=200)
    print("begun", flush=True)
    time.sleep(600)
"""


def test_a_killed_client_leaves_a_completion_with_its_last_known_usage(tmp_path: Path) -> None:
    """SIGKILL of a program inside a watched session: the server completes it as error/abandoned, priced by the usage
    that the last heartbeat told."""
    with serving(f"sqlite:///{tmp_path}/adjourn.db", tmp_path) as server:
        client = run_python(CLIENT, server.url, server.keys["acme/writer"])
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"begun\n"
            state = wait_until(server, lambda session: session["heard_at"] > session["began_at"])
            assert state["state"] == "open"
        finally:
            ended(client)
        state = wait_until(server, lambda session: session["state"] != "open")
        assert state["state"] == "abandoned"
        found = server.get(f"/v1/events/{state['event_id']}").json()
        assert found["event"]["outcome"] == {"status": "error", "error_code": "abandoned"}
        assert found["event"]["usage"]["input_tokens"] == 1000
        assert found["event"]["user"] == {"user_id": "usr_1"}
        assert found["cost_usd"] == "0.0045"


def wait_until(server: Any, met: Any) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        session = server.get("/v1/watched-sessions/sess_1").json()
        if met(session):
            return session
        assert time.monotonic() < deadline, session
        time.sleep(0.05)


SERVING = """
def run(argument, pipe):
    async def ready(url):
        os.write(pipe, b"ready\\n")
    asyncio.run(adjourn.http.server.serve(Node(settings), on_ready=ready))
"""


class Client(threading.Thread):
    """Begins sessions, beats, and completes them or walks away. Every call is sent until it is answered."""

    def __init__(self, port: int, name: str, rng: random.Random) -> None:
        super().__init__(name=name)
        self.begun: list[str] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.finish = threading.Event()
        self._port = port
        self._rng = rng

    def run(self) -> None:
        while not self.finish.is_set():
            self._session(f"{self.name}-{len(self.begun)}")

    def _session(self, session_id: str) -> None:
        self._call("begin", {"session_id": session_id, "lease_ms": 1000}, key=session_id)
        self.begun.append(session_id)
        for number in range(self._rng.randrange(3)):
            self._call(f"{session_id}/heartbeat", {"usage": {"input_tokens": number}})
        if self._rng.random() < 0.2:
            return  # nobody will hear of it again
        if self._rng.random() < 0.1:
            time.sleep(self._rng.uniform(0.5, 3))  # its lease may end meanwhile, or not
        body = {"usage": {"input_tokens": 7}, "metadata": {"custom_tags": {"by": session_id}}}
        self.answers[session_id] = self._call(f"{session_id}/complete", body)

    def _call(self, path: str, body: dict[str, Any], *, key: str = "") -> dict[str, Any]:
        while True:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
                    headers = {"content-type": "application/json", **({"idempotency-key": key} if key else {})}
                    connection.request("POST", f"/v1/sessions/{path}", json.dumps(body), headers)
                    answer = connection.getresponse()
                    document = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                time.sleep(0.005)
                continue
            if answer.status in (429, 503):
                time.sleep(0.005)
                continue
            assert answer.status in (200, 201) or document["code"] == "session_ended", document
            return document


@pytest.mark.timeout(400)  # the clients' patience, and the kills, on a machine that is loaded
@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 14), ("postgresql", 10)])
def test_however_often_the_server_is_killed_every_begun_session_ends_with_one_completion(
    tmp_path: Path, rng: random.Random, kind: str, kills: int
) -> None:
    """Lives shorter and longer than the leases; clients that complete, that are late, and that never come back."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mapped = mapping(tmp_path, url_of(kind, tmp_path), server={"port": port}, routing=NO_DESTINATIONS)
    clients = [Client(port, f"c{number}", random.Random(rng.random())) for number in range(8)]
    with Nursery(SERVING, mapped) as nursery:
        for client in clients:
            client.start()
        for _ in range(kills):
            nursery.kill_one(after_s=rng.choice((rng.uniform(0.2, 0.9), rng.uniform(1.5, 4.0))))
        for client in clients:
            client.finish.set()
        for after_s in (3.0, 6.0, 12.0, 24.0):
            if any(client.is_alive() for client in clients):
                nursery.kill_one(after_s=after_s)
        for client in clients:
            client.join(30)
    assert not any(client.is_alive() for client in clients)
    begun = [session for client in clients for session in client.begun]
    answers = {name: answer for client in clients for name, answer in client.answers.items()}
    states = asyncio.run(_settled_and_judged(mapped, begun, answers))
    print(f"{kind}: {len(begun)} begun, {states}, {Counter(a.get('status') for a in answers.values())}")
    assert states["completed"] > 0
    assert states["abandoned"] > 0


async def _settled_and_judged(
    mapped: dict[str, Any], begun: list[str], answers: dict[str, dict[str, Any]]
) -> Counter[str]:
    async with Node(settings_of(mapped)) as node:
        deadline = time.monotonic() + PATIENCE_S
        while await node.watched.count_open():
            assert time.monotonic() < deadline, "sessions stay open"
            await asyncio.sleep(0.1)
        events = [json.loads(body) for body in await bodies(node)]
        watched = [await node.watched.get("default", session) for session in begun]
    completions = Counter(e["session"]["session_id"] for e in events if "amends" not in e)
    assert completions == Counter(begun)
    by_id = {event["event_id"]: event for event in events}
    assert len(by_id) == len(events)
    for each in watched:
        abandoned = by_id[each.event_id]["outcome"]["status"] == "error"
        assert abandoned == (each.state in ("abandoned", "amended"))
        assert (each.amendment_id in by_id) == (each.state == "amended")
        # What was answered to be taken is in the log, as a completion or as its amendment.
        answer = answers.get(each.session_id)
        if answer is not None:
            assert by_id[answer["event_id"]]["metadata"]["custom_tags"] == {"by": each.session_id}
    return Counter(each.state for each in watched)


def test_two_nodes_and_the_lease_race_and_one_completion_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    """On PostgreSQL, two nodes that complete the same sessions with different content while their leases end: each has
    one completion, and an amendment only where it had been abandoned; one caller at most is told yes."""
    monkeypatch.setattr(watch_service, "LOOK_EVERY_S", 0.02)
    mapped = mapping(tmp_path, postgres.fresh_database(), routing=NO_DESTINATIONS)
    names = [f"s{number}" for number in range(300)]

    async def race() -> None:
        async with Node(settings_of(mapped)) as one, Node(settings_of(mapped)) as other:

            async def complete(node: Node, name: str, delay_s: float, status: bytes) -> str:
                await asyncio.sleep(delay_s)
                outcome = json.loads(b'{"status": "%b"}' % status)
                given = Complete(outcome={key: _raw(value) for key, value in outcome.items()})
                try:
                    return (await node.watched.complete("default", name, given)).status
                except Exception as error:
                    return getattr(error, "code", repr(error))

            await asyncio.gather(
                *(one.watched.begin("default", Begin(session_id=name, lease_ms=1000)) for name in names)
            )
            delays = [rng.uniform(0.8, 1.3) for _ in names]
            told = await asyncio.gather(
                *(complete(one, name, delay, b"success") for name, delay in zip(names, delays, strict=True)),
                *(complete(other, name, delay, b"timeout") for name, delay in zip(names, delays, strict=True)),
            )
            pairs = list(zip(told[: len(names)], told[len(names) :], strict=True))
            assert {tuple(sorted(pair)) for pair in pairs} <= {
                ("accepted", "session_ended"),
                ("amended", "session_ended"),
            }
            events = [json.loads(body) for body in await bodies(one)]
            assert Counter(e["session"]["session_id"] for e in events if "amends" not in e) == Counter(names)
            amended = Counter(e["session"]["session_id"] for e in events if "amends" in e)
            assert amended == Counter(n for n, pair in zip(names, pairs, strict=True) if "amended" in pair)
            abandoned = [e["outcome"].get("error_code") for e in events].count("abandoned")
            assert abandoned == amended.total()
            print(f"{abandoned} of {len(names)} abandoned before they were completed")

    asyncio.run(race())


def _raw(value: object) -> Any:
    return msgspec.Raw(msgspec.json.encode(value))
