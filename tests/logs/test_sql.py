"""The log contract on tables, on both databases, and what is special to tables: damage done to rows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.databases.rigs import KINDS, query
from tests.logs.rigs import LogRig

from adjourn.clock import ManualClock
from adjourn.log import Slice
from adjourn.testing import exercise_log as suite
from adjourn.testing.exercise_log import append, event
from adjourn.testing.exercise_tail import exercise_tail

DAMAGE = {
    "body": "UPDATE log_blocks SET body = ? WHERE first_offset = 20",
    "keys": "UPDATE log_blocks SET keys = ? WHERE first_offset = 20",
    "checksum": "UPDATE log_blocks SET checksum = ? WHERE first_offset = 20",
    "count_lower": "UPDATE log_blocks SET count = 3 WHERE first_offset = 20",
    "count_higher": "UPDATE log_blocks SET count = 1000 WHERE first_offset = 20",
    "count_zero": "UPDATE log_blocks SET count = 0 WHERE first_offset = 20",
    "count_negative": "UPDATE log_blocks SET count = -7 WHERE first_offset = 20",
    "codec": "UPDATE log_blocks SET codec = 9 WHERE first_offset = 20",
    "time": "UPDATE log_blocks SET max_ts = max_ts + 1 WHERE first_offset = 20",
    "deleted": "DELETE FROM log_blocks WHERE first_offset = 20",
}


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_the_suite(kind: str, check: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check of the conformance suite holds on both databases."""
    monkeypatch.setattr(suite, "CHECKS", (check,))
    asyncio.run(suite.exercise_log(lambda: LogRig(kind, tmp_path)))


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_the_suite_of_its_tail(kind: str, tmp_path: Path) -> None:
    """What was just appended is at hand, and nobody who waits for more misses any, on both databases."""
    asyncio.run(exercise_tail(lambda: LogRig(kind, tmp_path)))


async def read_on(node: suite.Node, offset: int, head: int) -> tuple[list[int], set[int]]:
    """Offsets delivered and offsets reported lost, by a reader that goes on to the head."""
    delivered: list[int] = []
    lost: set[int] = set()
    while offset < head:
        found: Slice = await node.log.read(0, offset, count=15)
        assert offset < found.next_offset <= head, (offset, found)
        for entry in found.lost:
            lost.update(range(entry.first_offset, entry.first_offset + entry.count))
        delivered.extend(e.offset for e in found.events)
        offset = found.next_offset
    return delivered, lost


@pytest.mark.parametrize("place", ["inside", "newest"])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_block_is_reported_and_skipped(kind: str, damage: str, place: str, tmp_path: Path) -> None:
    """Whatever column is damaged, and where the row is gone: the rest is delivered, the loss is reported and recorded,
    exactly, and a cursor never passes the head."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        clock = ManualClock()
        node = await rig.open(clock)
        key = next(k for k in map(str, range(100)) if node.database.partition_of(k) == 0)

        async def add(number: int) -> None:
            await append(node, clock, *(event(f"e{number}:{n}") for n in range(10)), key=key)

        for number in range(3 if place == "newest" else 5):
            await add(number)
        statement = DAMAGE[damage]
        query(rig.url, statement, *([b"\x00damaged\xff"] if "?" in statement else []))
        head = 30 if place == "newest" else 50
        for start in (0, 20, 25):
            delivered, lost = await read_on(node, start, head)
            assert lost == set(range(max(start, 20), 30)), f"from {start}"
            assert delivered == [n for n in range(start, head) if n not in lost]
        found = await node.log.read(0, head, count=5)
        assert (found.next_offset, list(found.events)) == (head, [])
        await add(9)
        assert (await read_on(node, head, head + 10))[0] == list(range(head, head + 10))
        assert sum(row[0] for row in query(rig.url, "SELECT count FROM log_lost WHERE first_offset = 20")) == 10
        assert await node.log.find("org", "e1:3") is not None
        assert await node.log.find("org", "e2:3") is None
        await rig.shut(node)
        again = await rig.open(clock)
        assert await append(again, clock, event("e1:3"), event("new"), key=key) == ["duplicate", "accepted"]
        await rig.shut(again)

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_an_arrival_wakes_its_waiters(kind: str, tmp_path: Path) -> None:
    """`arrived` returns when something was appended, in every waiting task, and after its timeout when nothing was."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        node = await rig.open(ManualClock())
        await asyncio.wait_for(node.log.arrived(0.01), 5)
        waiters = [asyncio.ensure_future(node.log.arrived(60)) for _ in range(3)]
        await asyncio.sleep(0)
        await append(node, ManualClock(), event("a"))
        await asyncio.wait_for(asyncio.gather(*waiters), 5)
        await rig.shut(node)

    asyncio.run(run())


def test_nothing_is_at_hand_after_a_transaction_that_failed(tmp_path: Path) -> None:
    """Where a lane lost its transaction, what was committed before is read from the database again, not from memory."""

    async def run() -> None:
        rig = LogRig("sqlite", tmp_path)
        node = await rig.open(clock := ManualClock())
        await append(node, clock, *[event(f"e{number}") for number in range(3)])
        assert node.log.at_hand(0, 0) is not None
        node.appender.discarded(0)
        assert node.log.at_hand(0, 0) is None
        assert len((await node.log.read(0, 0, count=10)).events) == 3
        await rig.shut(node)

    asyncio.run(run())
