"""Events that another Adjourn hands on: whatever order they come in, each is in the log once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from tests.faults.rigs import mapping, raw, settings_of, url_of

from adjourn.clock import ManualClock
from adjourn.completion.relay_service import Cost
from adjourn.node import Node
from adjourn.testing.account import bodies, logged

BOTH = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
EVENTS = [raw(f"s{n % 7}", event_id=f"evt_{n}") for n in range(40)]


def with_node(tmp_path: Path, kind: str, work: Callable[[Node, ManualClock], Awaitable[None]]) -> None:
    async def main() -> None:
        mapped = mapping(tmp_path, url_of(kind, tmp_path), routing={"destinations": []})
        clock = ManualClock()
        async with Node(settings_of(mapped), clock=clock) as node:
            await work(node, clock)

    asyncio.run(main())


async def relay(
    node: Node, places: Sequence[int], events: Sequence[bytes] = EVENTS, producer: str = "edge/up/0"
) -> list[str]:
    """What is said of these events, numbered by their places."""
    results = await node.ingest.take(
        "acme",
        [events[place] for place in places],
        source="test",
        producer=producer,
        sequences=[place + 1 for place in places],
        costs=[Cost(7, "sent") for _ in places],
    )
    return [result.status for result in results]


def forgotten(clock: ManualClock) -> None:
    """The dedupe window must not be what makes this exact: a day passes."""
    clock.advance(86_400)


@BOTH
def test_a_resend_is_known_after_the_window(tmp_path: Path, kind: str) -> None:
    """A batch whose answer got lost is sent again, with more behind it: what was there is a duplicate, the rest is
    taken, in order."""

    async def work(node: Node, clock: ManualClock) -> None:
        assert await relay(node, range(20)) == ["accepted"] * 20
        forgotten(clock)
        assert await relay(node, range(30)) == ["duplicate"] * 20 + ["accepted"] * 10
        forgotten(clock)
        assert await relay(node, range(30)) == ["duplicate"] * 30
        assert Counter(await bodies(node)) == Counter(EVENTS[:30])

    with_node(tmp_path, kind, work)


@BOTH
def test_what_was_held_back_is_taken_though_its_number_is_old(tmp_path: Path, kind: str) -> None:
    """An event that comes after later ones (it was parked, or filtered when they went) is not lost as a duplicate; and
    sent twice, it is there once."""

    async def work(node: Node, clock: ManualClock) -> None:
        late = [3, 8, 9]
        assert await relay(node, [n for n in range(20) if n not in late]) == ["accepted"] * 17
        forgotten(clock)
        assert await relay(node, [8]) == ["accepted"]
        assert await relay(node, late) == ["accepted", "duplicate", "accepted"]
        forgotten(clock)
        assert await relay(node, late) == ["duplicate"] * 3
        assert Counter(await bodies(node)) == Counter(EVENTS[:20])

    with_node(tmp_path, kind, work)


@BOTH
def test_a_node_that_numbers_anew_loses_nothing(tmp_path: Path, kind: str) -> None:
    """After it was restored from a backup, a node gives old numbers to new events. They are taken, before those whose
    numbers are new; and what it sends again is known."""
    anew = [*EVENTS[:10], *(raw("s1", event_id=f"evt_new_{n}") for n in range(15))]

    async def work(node: Node, clock: ManualClock) -> None:
        assert await relay(node, range(20)) == ["accepted"] * 20
        forgotten(clock)
        assert await relay(node, range(25), anew) == ["duplicate"] * 10 + ["accepted"] * 15
        assert (await bodies(node))[-15:] == anew[10:] or node.database.partitions > 1
        assert Counter(await bodies(node)) == Counter([*EVENTS[:20], *anew[10:]])

    with_node(tmp_path, kind, work)


@BOTH
def test_the_same_at_once_is_there_once(tmp_path: Path, kind: str) -> None:
    """A sender that gives up waiting and sends again while the first request is still being taken doubles nothing; nor
    do parked events that are sent twice at once."""

    async def work(node: Node, clock: ManualClock) -> None:
        late = [5, 6, 7]
        flow = [n for n in range(40) if n not in late]
        told = await asyncio.gather(*(relay(node, flow) for _ in range(5)))
        assert sorted(map(set, told), key=str) == sorted([{"accepted"}, *[{"duplicate"}] * 4], key=str)
        told = await asyncio.gather(*(relay(node, late) for _ in range(5)))
        assert Counter(status for one in told for status in one) == {"accepted": 3, "duplicate": 12}
        assert Counter(await bodies(node)) == Counter(EVENTS)

    with_node(tmp_path, kind, work)


def test_a_conflict_stays_one_when_its_answer_got_lost(tmp_path: Path) -> None:
    """An event whose id another one holds is a conflict at every attempt, and is kept in quarantine once."""

    async def work(node: Node, clock: ManualClock) -> None:
        other = [*EVENTS[:3], raw("s3", event_id="evt_3", note="other")]
        assert await relay(node, [3]) == ["accepted"]
        assert await relay(node, range(4), other, "edge/two/0") == ["accepted"] * 3 + ["conflict"]
        forgotten(clock)
        assert await relay(node, range(4), other, "edge/two/0") == ["duplicate"] * 3 + ["conflict"]
        assert len(await logged(node)) == 4
        rows = await node.database.read(lambda reader: reader.rows("SELECT body FROM quarantine"))
        assert [row[0] for row in rows] == [other[3]]

    with_node(tmp_path, "sqlite", work)


def test_its_price_and_its_times_stand(tmp_path: Path) -> None:
    """The cost that came with an event is kept, none too; and a time that this clock finds in the future is taken: the
    node that was there judged it."""

    async def work(node: Node, clock: ManualClock) -> None:
        usage = {"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 1}
        events = [raw(f"s{n}", usage=usage, timestamp="2030-01-01T00:00:00Z") for n in range(3)]
        costs = [Cost(5, "genai-prices/0.0.1:x/y"), Cost(None, ""), Cost(2**63 - 1, "sent")]
        await node.ingest.take("a", events, source="test", producer="p", sequences=[1, 2, 3], costs=costs)
        found = [e for p in range(node.database.partitions) for e in (await node.log.read(p, 0, count=9)).events]
        assert [(e.cost_nanousd, e.price_ref) for e in found] == costs
        assert not node.prices.unknown_models

    with_node(tmp_path, "sqlite", work)
