"""Settling beside sending: in order, gathered, bounded, and whoever sends hears when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.delivery.scripted import Scripted, delivering, put, settled

from adjourn.database import Tx
from adjourn.delivery.records import Record
from adjourn.delivery.settle import Settlement, merged
from adjourn.delivery.settle_service import UNSETTLED_BYTES_MAX, UNSETTLED_EVENTS_MAX, Settler
from adjourn.errors import Unavailable
from adjourn.events import StoredEvent


def stretch(first: int, count: int = 1, delivered: Sequence[StoredEvent] = (), **more: Any) -> Settlement:
    return Settlement(
        partition=0,
        first_offset=first,
        next_offset=first + count,
        delivered=delivered,
        held=[],
        counts={"delivered": count},
        records=[Record("d", 0, first, first + count, 1, 1000, 1001, b"d" * count)],
        **more,
    )


class Slow:
    """Settles when it is let, or fails as it is told."""

    def __init__(self, *, open_: bool = True) -> None:
        self.settled: list[Settlement] = []
        self.gate = asyncio.Event()
        if open_:
            self.gate.set()
        self.error: Exception | None = None

    async def __call__(self, settlement: Settlement) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.settled.append(settlement)


def spans(settled: Sequence[Settlement]) -> list[tuple[int, int]]:
    return [(one.first_offset, one.next_offset) for one in settled]


def run(go: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(go(), 60))


def test_what_waits_is_settled_at_once_and_in_order() -> None:
    """While one transaction is under way others wait, and the next one settles all of them as one stretch."""

    async def go() -> None:
        slow = Slow(open_=False)
        settler = Settler(slow)
        await settler.add(stretch(0))
        await asyncio.sleep(0.05)
        for offset in range(1, 9):
            await settler.add(stretch(offset))
        slow.gate.set()
        await settler.settled()
        assert spans(slow.settled) == [(0, 1), (1, 9)]
        assert slow.settled[1].counts == {"delivered": 8}

    run(go)


def test_a_bound_makes_sending_wait() -> None:
    """No more than a bounded number of events are unsettled: whoever sends waits until there is room."""

    async def go() -> None:
        slow = Slow(open_=False)
        settler = Settler(slow)
        await settler.add(stretch(0, UNSETTLED_EVENTS_MAX + 1))
        adding = asyncio.create_task(settler.add(stretch(UNSETTLED_EVENTS_MAX + 1)))
        await asyncio.sleep(0.05)
        assert not adding.done()
        slow.gate.set()
        await adding
        await settler.settled()
        assert spans(slow.settled)[-1][1] == UNSETTLED_EVENTS_MAX + 2

    run(go)


def test_large_events_wait_in_bounded_memory() -> None:
    """While the database stands still, few large events are unsettled, however many small ones may be."""

    async def go() -> None:
        slow = Slow(open_=False)
        settler = Settler(slow)
        large = StoredEvent(0, 0, "org", b"x" * (UNSETTLED_BYTES_MAX // 4), 1, None, "")
        for offset in range(5):
            await settler.add(stretch(offset, delivered=[large]))
        adding = asyncio.create_task(settler.add(stretch(5, delivered=[large])))
        await asyncio.sleep(0.05)
        assert not adding.done()
        slow.gate.set()
        await adding
        await settler.settled()
        assert spans(slow.settled)[-1][1] == 6

    run(go)


def test_a_failure_reaches_whoever_sends() -> None:
    """What settling raised is raised by the next call, and by whoever waits; nothing behind it is settled."""

    async def go() -> None:
        slow = Slow()
        slow.error = Unavailable("gone")
        settler = Settler(slow)
        await settler.add(stretch(0))
        with pytest.raises(Unavailable):
            await settler.settled()
        with pytest.raises(Unavailable):
            settler.check()
        with pytest.raises(Unavailable):
            await settler.add(stretch(1))
        await settler.close()
        assert slow.settled == []

    run(go)


def test_close_lets_what_is_under_way_end() -> None:
    """What is under way is settled, or cut off if that is asked for; what waits is left to whoever reads it again."""

    async def go() -> None:
        for cut_off, expected in ((False, [(0, 1)]), (True, [])):
            slow = Slow(open_=False)
            settler = Settler(slow)
            await settler.add(stretch(0))
            await asyncio.sleep(0.05)
            await settler.add(stretch(1))
            asyncio.get_running_loop().call_later(0.05, slow.gate.set)
            await settler.close(cut_off=cut_off)
            assert spans(slow.settled) == expected

    run(go)


def test_a_merged_settlement_is_the_sum_of_its_parts() -> None:
    """Counts are added, records that follow one another closely are joined, others stay apart."""
    late = Record("d", 0, 4, 6, 2, 9000, 9001, b"dd")
    parts = [stretch(0, 2), stretch(2, 2), Settlement(
        partition=0, first_offset=4, next_offset=6, delivered=[], held=[], counts={"delivered": 2}, records=[late]
    )]  # fmt: skip
    whole = merged(parts)
    assert (whole.first_offset, whole.next_offset) == (0, 6)
    assert whole.counts == {"delivered": 6}
    assert [(r.first_offset, r.next_offset) for r in whole.records] == [(0, 4), (4, 6)]
    assert whole.records[1] == late


def test_little_is_sent_again_while_nothing_can_be_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database refuses to write down what was delivered, one stretch is sent again and again, and not all
    that may be unsettled; then all of it is delivered."""

    def refuse(tx: Tx) -> None:
        tx.run("CREATE TRIGGER full BEFORE UPDATE ON cursors BEGIN SELECT RAISE(ABORT, 'it is full'); END")

    def allow(tx: Tx) -> None:
        tx.run("DROP TRIGGER full")

    async def go() -> None:
        destination = Scripted()
        async with delivering(tmp_path, monkeypatch, destination, batch_size=1) as node:
            await node.database.write(refuse)
            sessions = await put(node, 20)
            while len(destination.calls) < 3:
                await asyncio.sleep(0.01)
            assert set(destination.taken) == {"s0"}
            await node.database.write(allow)
            await settled(node)
            assert list(dict.fromkeys(destination.taken)) == sessions
            (balance,) = await node.delivery.balances()
            assert (balance.delivered, balance.difference) == (20, 0)

    run(go)
