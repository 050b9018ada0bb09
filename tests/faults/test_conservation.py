"""Random traffic, random trouble at every destination, random SIGKILLs: in the end the judge finds nothing wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.rigs import Nursery, Sender, mapping, settings_of, url_of

from adjourn.node import Node
from adjourn.testing.judge import Arrivals, judge
from adjourn.testing.unreliable import Judged, UnreliableReceiver

SERVING = """
def run(argument, pipe):
    async def ready(url):
        os.write(pipe, b"ready\\n")
    asyncio.run(adjourn.http.server.serve(Node(settings), on_ready=ready))
"""
PATHS = {"single": "/single", "batched": "/batched", "sampled": "/sampled"}


def ids_of(body: bytes) -> Sequence[str]:
    found = json.loads(body)
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
            names = [f"{self.name}-{self.batches}-{number}" for number in range(5)]
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


def whole(line: bytes) -> list[str]:
    """The id in a line; nothing in one that a kill has cut off: its batch was written again behind it."""
    try:
        return [json.loads(line)["event_id"]]
    except json.JSONDecodeError:
        return []


def destinations(directory: Path, receiver: UnreliableReceiver) -> list[dict[str, object]]:
    hook = {"type": "webhook", "allow_http": True, "allow_networks": ["127.0.0.0/8"], "timeout_ms": 400}
    return [
        {"type": "database", "connection_string": f"sqlite:///{directory}/out.db"},
        {"type": "logfile", "log_path": str(directory / "out.jsonl"), "filter": "usage.input_tokens != 12"},
        {**hook, "name": "single", "url": receiver.url(PATHS["single"]), "concurrency": 4},
        {**hook, "name": "batched", "url": receiver.url(PATHS["batched"]), "batch_size": 20, "compression": "none"},
        {**hook, "name": "sampled", "url": receiver.url(PATHS["sampled"]), "sampling_rate": 0.4, "concurrency": 2},
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 12), ("postgresql", 8)])
def test_after_any_trouble_every_event_is_in_one_place(
    tmp_path: Path, rng: random.Random, kind: str, kills: int
) -> None:
    """Per destination: none missing, none in two places, order per session kept, doubles only under the same id; and
    what destinations have beyond them is what the account says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with UnreliableReceiver(rng, ids_of, judged) as receiver:
        routing = {
            "destinations": destinations(tmp_path, receiver),
            "retry_attempts": 3,
            "retry_delay_ms": 5,
            "retry_delay_ms_max": 200,
        }
        mapped = mapping(tmp_path, url_of(kind, tmp_path), server={"port": port}, routing=routing)
        senders = [Talkative(port, f"s{number}") for number in range(2)]
        for path in PATHS.values():
            receiver.trouble(path)
        with Nursery(SERVING, mapped) as nursery:
            for sender in senders:
                sender.start()
            for _ in range(kills):
                nursery.kill_one(after_s=rng.uniform(0.2, 1.2), once_it_spoke=True)
            for sender in senders:
                sender.finish.set()
            while any(sender.is_alive() for sender in senders):
                nursery.kill_one(after_s=2.0, once_it_spoke=True)
        receiver.calm()
        problems, found = asyncio.run(judgement(mapped, tmp_path, receiver))
    accepted = {each for sender in senders for each in sender.acknowledged}
    print(f"{kind}: {kills} kills, {len(accepted)} events, {found}")
    assert not problems, "\n".join(problems)
    assert len(accepted) > 300
    assert found["dead_lettered"] > 0


async def trickle(node: Node) -> None:
    for number in itertools.count():
        one = {"event_id": f"other-{number}", "session": {"session_id": f"other-{number}"}}
        await node.ingest.take("default", [json.dumps(one).encode()], source="test")
        await asyncio.sleep(0.1)


async def judgement(
    mapped: dict[str, object], directory: Path, receiver: UnreliableReceiver
) -> tuple[list[str], dict[str, int]]:
    async with Node(settings_of(mapped)) as node:
        # An event that breaks its receiver is told from an outage by others that pass.
        others = asyncio.create_task(trickle(node))
        async with asyncio.timeout(120):
            await node.delivery.drained()
            others.cancel()
            await asyncio.gather(others, return_exceptions=True)
            await node.delivery.drained()
        with closing(sqlite3.connect(directory / "out.db")) as connection:
            rows = [str(row[0]) for row in connection.execute("SELECT event_id FROM session_completions")]
        lines = [found for line in (directory / "out.jsonl").read_bytes().splitlines() for found in whole(line)]
        beyond = {
            "database": Arrivals(rows, ordered=False, repeats=False),
            "logfile": Arrivals(lines),
            **{name: Arrivals(receiver.acknowledged(path)) for name, path in PATHS.items()},
        }
        problems = await judge(node, beyond)
        balances = await node.delivery.balances()
    return problems, {
        "dead_lettered": sum(balance.dead_lettered for balance in balances),
        "filtered": sum(balance.filtered for balance in balances),
        "sampled_out": sum(balance.sampled_out for balance in balances),
    }
