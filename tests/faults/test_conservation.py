"""Random traffic, random trouble at every destination, random SIGKILLs: in the end the judge finds nothing wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sqlite3
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.capture_under_kills import Servers
from tests.faults.rigs import Nursery, Sender, mapping, settings_of, url_of
from tests.flipping.rigs import free_port

from adjourn.events import decode_identity
from adjourn.node import Node
from adjourn.testing.account import bodies
from adjourn.testing.judge import Arrivals, judge
from adjourn.testing.unreliable import Judged, Trap, UnreliableNames, UnreliableReceiver, UnreliableWay

SERVING = """
from adjourn.testing.unreliable import UnreliableNames
def run(argument, pipe):
    async def ready(url):
        os.write(pipe, b"ready\\n")
    UnreliableNames(random.Random(argument["seed"]), argument["names"]).install()
    asyncio.run(adjourn.http.server.serve(Node(settings), on_ready=ready))
"""
PATHS = {"single": "/single", "batched": "/batched", "sampled": "/sampled", "analytics": "/v1/batch"}
FLIPPING = "flips.example"
FORBIDDEN, ALLOWED = "127.0.0.1", "127.0.0.2"
NAMES = {FLIPPING: (ALLOWED, ALLOWED, FORBIDDEN, "")}
DEADLINE_S = 200
PACE_S = 0.06
EVENTS_MIN = 1_000


def ids_of(body: bytes) -> Sequence[str]:
    found = json.loads(body)
    if "batch" in found:
        return [one["properties"]["event_id"] for one in found["batch"]]
    return [one["event_id"] for one in found.get("events", [found])]


def judged(event_id: str) -> Judged:
    """Sessions of which receivers refuse an event, and over which they break."""
    if event_id.endswith("-3.0"):
        return "bad"
    if event_id in ("s0-5-1.1", "s0-9-4.0", "s0-9-2.2"):
        return "cuts"
    return "breaks" if "s1-7-" in event_id and event_id.endswith("-2.1") else "fine"


class Talkative(Sender):
    """Three events a session, in one request or in several."""

    def run(self) -> None:
        while not self.finish.is_set():
            self.batches += 1
            names = [f"{self.name}-{self.batches}-{number}" for number in range(25)]
            for part in range(3):
                events = [
                    {
                        "event_id": f"{name}.{part}",
                        "event_type": "session.amended" if part else "session.completed",
                        "session": {"session_id": name},
                        "usage": {"model": "gpt-4o", "input_tokens": 10 * part + number},
                        **({"amends": f"{name}.0"} if part else {}),
                    }
                    for number, name in enumerate(names)
                ]
                while not self._posted(b"\n".join(json.dumps(one).encode() for one in events)):
                    self.tries += 1
                    self.finish.wait(0.005)
                self.acknowledged += [str(one["event_id"]) for one in events]
            self.finish.wait(PACE_S)


def whole(line: bytes) -> list[str]:
    """The id in a line; nothing in one that a kill has cut off: its batch was written again behind it."""
    try:
        return [json.loads(line)["event_id"]]
    except json.JSONDecodeError:
        return []


@dataclass
class World:
    """Everything beyond the node, and what is asked of it."""

    directory: Path
    kind: str
    rng: random.Random
    receiver: UnreliableReceiver
    flipping: UnreliableReceiver
    way: UnreliableWay
    centre: dict[str, object]

    def destinations(self) -> list[dict[str, object]]:
        way = {"allow_http": True, "allow_networks": ["127.0.0.0/8"], "timeout_ms": 400}
        hook = {**way, "type": "webhook", "compression": "none"}
        url, directory = self.receiver.url, self.directory
        flips = f"http://{FLIPPING}:{self.flipping.port}/flips"
        return [
            {"type": "database", "connection_string": f"sqlite:///{directory}/out.db"},
            {"type": "logfile", "log_path": str(directory / "out.jsonl"), "filter": "usage.input_tokens != 12"},
            {**hook, "name": "single", "url": url(PATHS["single"]), "concurrency": 4},
            {**hook, "name": "batched", "url": url(PATHS["batched"]), "batch_size": 20},
            {**hook, "name": "sampled", "url": url(PATHS["sampled"]), "sampling_rate": 0.4, "concurrency": 2},
            {**hook, "name": "flips", "url": flips, "batch_size": 20, "allow_networks": [ALLOWED]},
            {**way, "type": "analytics", "url": url(PATHS["analytics"]), "key": "a-write-key", "batch_size": 50},
            {**way, "type": "upstream", "url": self.way.url(""), "batch_size": 100, "timeout_ms": 3_000},
        ]

    def trouble(self) -> None:
        for path in PATHS.values():
            self.receiver.trouble(path)
        self.flipping.trouble("/flips", ("close", "none"))
        self.way.trouble("/v1/relay")

    def calm(self) -> None:
        for each in (self.receiver, self.flipping, self.way):
            each.calm()

    async def beyond(self) -> dict[str, Arrivals]:
        """While no centre runs."""
        with closing(sqlite3.connect(self.directory / "out.db")) as connection:
            rows = [str(row[0]) for row in connection.execute("SELECT event_id FROM session_completions")]
        lines = [found for line in (self.directory / "out.jsonl").read_bytes().splitlines() for found in whole(line)]
        async with Node(settings_of(self.centre)) as node:
            there = [decode_identity(body).event_id for body in await bodies(node)]
        flipped = self.flipping.acknowledged("/flips")
        return {
            "database": Arrivals(rows, ordered=False, repeats=False),
            "logfile": Arrivals(lines),
            "flips": Arrivals(flipped, refuses=lambda event_id: judged(event_id) != "fine"),
            "upstream": Arrivals(there, repeats=False, refuses=lambda event_id: False),
            **{name: Arrivals(self.receiver.acknowledged(path)) for name, path in PATHS.items()},
        }


class Deaths(threading.Thread):
    """One server after the other, each killed after a while."""

    def __init__(self, nursery: Nursery, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.finish = threading.Event()
        self._nursery = nursery
        self._rng = rng

    def run(self) -> None:
        while not self.finish.is_set():
            after_s = self._rng.uniform(0.3, 2.0)
            self._nursery.kill_one(after_s=after_s, once_it_spoke=True, seed=0, names={})


@contextmanager
def world(directory: Path, kind: str, rng: random.Random, trap: Trap) -> Generator[World]:
    (directory / "centre").mkdir()
    port = free_port()
    centre = mapping(
        directory / "centre",
        url_of(kind, directory / "centre"),
        server={"port": port},
        routing={"destinations": []},
    )
    with (
        UnreliableReceiver(rng, ids_of, judged, redirect_to=trap.url) as receiver,
        UnreliableReceiver(rng, ids_of, judged, host=ALLOWED) as flipping,
        UnreliableWay(rng, f"http://127.0.0.1:{port}", redirect_to=trap.url) as way,
    ):
        yield World(directory, kind, rng, receiver, flipping, way, centre)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 8), ("postgresql", 6)])
def test_after_any_trouble_every_event_is_in_one_place(
    tmp_path: Path, rng: random.Random, kind: str, kills: int
) -> None:
    """Per destination: none missing, none in two places, order per session kept, doubles only under the same id; what
    destinations have beyond them is what the account says; and nothing was sent where nothing may be."""
    trap = Trap(FORBIDDEN)
    with world(tmp_path, kind, rng, trap) as around, closing(Trap(FORBIDDEN, around.flipping.port)) as inside:
        routing = {
            "destinations": around.destinations(),
            "retry_attempts": 3,
            "retry_delay_ms": 5,
            "retry_delay_ms_max": 200,
        }
        port = free_port()
        mapped = mapping(tmp_path, url_of(kind, tmp_path), server={"port": port}, routing=routing)
        senders = [Talkative(port, f"s{number}") for number in range(2)]
        around.trouble()
        begin_s = time.monotonic()
        chaos(mapped, around, senders, kills)
        around.calm()
        calm_s = time.monotonic()
        captured = [each for sender in senders for each in sender.acknowledged]
        problems, found = asyncio.run(judgement(mapped, around, captured))
        sent_inside, followed = inside.connections(), trap.connections()
    trap.close()
    seconds = f"{calm_s - begin_s:.0f} s of trouble, {time.monotonic() - calm_s:.0f} s after it"
    print(f"{kind}: {kills} kills, {len(captured)} events, {found}, {seconds}")
    assert not problems, "\n".join(problems)
    assert (sent_inside, followed) == (0, 0)
    assert len(captured) >= EVENTS_MIN
    assert found["dead_lettered"] > 0


def chaos(mapped: dict[str, object], around: World, senders: Sequence[Talkative], kills: int) -> None:
    """Returns when the last request of the senders was answered."""
    rng = around.rng
    with Nursery(SERVING, around.centre) as centres, Nursery(SERVING, mapped) as nursery:

        def life(after_s: float) -> None:
            nursery.kill_one(after_s=after_s, once_it_spoke=True, seed=rng.random(), names=NAMES)

        deaths = Deaths(centres, random.Random(rng.random()))
        deaths.start()
        for sender in senders:
            sender.start()
        lives = 0
        while lives < kills or sum(len(sender.acknowledged) for sender in senders) < EVENTS_MIN:
            life(rng.uniform(0.2, 1.2))
            lives += 1
        for sender in senders:
            sender.finish.set()
        while any(sender.is_alive() for sender in senders):
            life(2.0)
        deaths.finish.set()
        deaths.join()


async def trickle(node: Node) -> None:
    for number in itertools.count():
        one = {"event_id": f"other-{number}", "session": {"session_id": f"other-{number}"}}
        await node.ingest.take("default", [json.dumps(one).encode()], source="test")
        await asyncio.sleep(0.1)


async def judgement(
    mapped: dict[str, object], around: World, captured: Sequence[str]
) -> tuple[list[str], dict[str, int]]:
    config = around.directory / "centre" / "adjourn.yaml"
    config.write_text(json.dumps(around.centre))
    centre = Servers(config, around.rng)
    centre.start()
    names = UnreliableNames(around.rng, {FLIPPING: (ALLOWED,)})
    names.install()
    try:
        async with Node(settings_of(mapped)) as node:
            # An event that breaks its receiver is told from an outage by others that pass.
            others = asyncio.create_task(trickle(node))
            async with asyncio.timeout(DEADLINE_S):
                await node.delivery.drained()
                others.cancel()
                await asyncio.gather(others, return_exceptions=True)
                await node.delivery.drained()
            centre.kill()
            problems = await judge(node, await around.beyond(), captured)
            balances = await node.delivery.balances()
    finally:
        names.uninstall()
        centre.kill()
    return problems, {
        "dead_lettered": sum(balance.dead_lettered for balance in balances),
        "filtered": sum(balance.filtered for balance in balances),
        "sampled_out": sum(balance.sampled_out for balance in balances),
    }
