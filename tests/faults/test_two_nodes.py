"""Two nodes on one PostgreSQL: what one is told, both obey; what one leaves behind, the other finishes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import pytest
from tests.faults.rigs import Nursery, mapping, raw, settings_of, url_of

from adjourn.node import Node
from adjourn.testing.account import written
from adjourn.testing.judge import Arrivals, judge
from adjourn.testing.unreliable import Judged, UnreliableReceiver

DEADLINE_S = 60
REFUSED = "0.1"
"""The end of the ids of those over which the receiver breaks: the second event of every tenth session."""


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.02)


class Traffic:
    """`send(number)` again and again, until it is stopped."""

    def __init__(self, send: Callable[[int], Awaitable[None]]) -> None:
        self._send = send
        self._finish = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        for number in itertools.count():
            await self._send(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finish.wait(), 0.02)
            if self._finish.is_set():
                return

    async def stop(self) -> None:
        self._finish.set()
        await self._task


def test_a_pause_given_at_one_node_is_obeyed_by_the_other(tmp_path: Path) -> None:
    """The other one delivers, and events come to both: within seconds it has stopped, and while they go on coming
    nothing more arrives; resumed at the node that does not deliver, all of it does."""
    out = tmp_path / "out.jsonl"
    destination = {"type": "logfile", "name": "file", "log_path": str(out)}
    mapped = mapping(tmp_path, url_of("postgresql", tmp_path), routing={"destinations": [destination]})
    taken: list[str] = []

    async def run() -> None:
        async with Node(settings_of(mapped)) as one, Node(settings_of(mapped)) as other:

            async def send(number: int) -> None:
                await (one, other)[number % 2].ingest.take("default", [raw(f"s{number}")], source="test")
                taken.append(f"s{number}")

            coming = Traffic(send)
            await until(lambda: out.exists() and len(written(out)) > 20)
            leads, follows = (one, other) if one.delivery.stats["file"].sent else (other, one)
            assert follows.delivery.stats["file"].sent == 0
            await follows.delivery.pause("file", "a move")
            await until(lambda: leads.delivery.gates["file"] == "paused")
            await until(lambda: leads.delivery.stats["file"].sent == leads.delivery.stats["file"].success)
            there, came = written(out), len(taken)
            await until(lambda: len(taken) > came + 50)
            await asyncio.sleep(2.5)  # the pauses are looked at every second: none of these looks lets anything go
            assert written(out) == there
            assert {s.waiting for n in (one, other) for s in await n.delivery.standings()} == {"paused: a move"}
            assert await follows.delivery.resume("file")
            await coming.stop()
            async with asyncio.timeout(DEADLINE_S):
                await one.delivery.drained()
            assert set(written(out)) == set(taken)

    asyncio.run(run())


LEADING = """
def run(argument, pipe):
    async def main():
        async with Node(settings) as node:
            while node.delivery.stats["hook"].success == 0:
                await asyncio.sleep(0.01)
            while (await node.delivery.standings())[0].parked < argument["parked"]:
                await asyncio.sleep(0.01)
            os.write(pipe, b"parked\\n")
            await asyncio.sleep(3600)
    asyncio.run(main())
"""


def ids_of(body: bytes) -> Sequence[str]:
    found = json.loads(body)
    return [one["event_id"] for one in found.get("events", [found])]


def judged(event_id: str) -> Judged:
    return "breaks" if event_id.endswith(REFUSED) else "fine"


async def take(node: Node, numbers: Iterable[int], parts: int = 3) -> list[str]:
    """So many events of each session; their ids."""
    ids: list[str] = []
    for number in numbers:
        names = [f"s{number}.{part}" for part in range(parts)]
        amending = {"event_type": "session.amended", "amends": names[0]}
        events = [raw(f"s{number}", event_id=name, **(amending if name != names[0] else {})) for name in names]
        results = await node.ingest.take("default", events, source="test")
        assert {result.status for result in results} == {"accepted"}
        ids += names
    return ids


async def finished_by(node: Node, receiver: UnreliableReceiver, taken: Sequence[str]) -> None:
    """Nothing is pending, and every event is where it belongs, once."""
    assert await judge(node, {"hook": Arrivals(receiver.acknowledged("/hook"))}) == []
    dead = await node.database.read(lambda r: r.rows("SELECT event_id FROM held_events WHERE state = 'dead'"))
    assert sorted(str(event_id) for (event_id,) in dead) == sorted(one for one in taken if one.endswith(REFUSED))
    assert set(receiver.acknowledged("/hook")) == {one for one in taken if not one.endswith(REFUSED)}


@pytest.mark.timeout(300)
def test_what_a_killed_node_was_trying_again_is_finished_by_the_other(tmp_path: Path, rng: random.Random) -> None:
    """A receiver breaks over some events, which are tried again while others flow; the node that delivers is killed
    meanwhile, and events keep coming to the other: it takes over, per session nothing overtakes what was parked before
    it, nothing is missing, and what is refused to the end is one dead letter each."""
    with UnreliableReceiver(rng, ids_of, judged) as receiver:
        hook = {"name": "hook", "type": "webhook", "allow_http": True, "url": receiver.url("/hook")}
        quick = {"retry_attempts": 3, "retry_delay_ms": 200, "retry_delay_ms_max": 500}
        routing = {**quick, "destinations": [{**hook, "allow_networks": ["127.0.0.0/8"]}]}
        mapped = mapping(tmp_path, url_of("postgresql", tmp_path), routing=routing)

        async def run() -> None:
            async with Node(settings_of({**mapped, "routing": {"destinations": []}})) as first:
                taken = await take(first, range(40))
            with Nursery(LEADING, mapped) as nursery:
                kill = asyncio.to_thread(nursery.kill_one, after_s=0.0, once_it_spoke=True, parked=2)
                killing = asyncio.create_task(kill)
                await until(lambda: receiver.acknowledged("/hook"))
                async with Node(settings_of(mapped)) as other:

                    async def send(number: int, parts: int) -> None:
                        taken.extend(await take(other, [number], parts))

                    coming = Traffic(lambda number: send(1000 + number, 3))
                    assert await killing == (True, ["parked"])
                    await until(lambda: other.delivery.stats["hook"].success > 50)
                    await coming.stop()
                    others = Traffic(lambda number: send(100_000 + number, 1))
                    async with asyncio.timeout(DEADLINE_S):
                        await other.delivery.drained()  # by what passes meanwhile the receiver is known to be there
                        await others.stop()
                        await other.delivery.drained()
                    await finished_by(other, receiver, taken)

        asyncio.run(run())
