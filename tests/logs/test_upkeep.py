"""Merging blocks changes nothing that can be read, and goes on beside retention and readers."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from tests.databases.rigs import KINDS, query
from tests.logs.rigs import LogRig, SqlNode

from adjourn.clock import ManualClock
from adjourn.logs import block as blocks
from adjourn.logs import upkeep
from adjourn.logs.append import as_block
from adjourn.testing.exercise_log import append, event

ROWS = (
    "SELECT partition, first_offset, count, min_ts, max_ts, codec, body, keys, checksum FROM log_blocks "
    "ORDER BY partition, first_offset"
)


def contents(url: str) -> tuple[list[Any], bytes, int]:
    """Events, keys (all with 24 bytes) and the number of blocks."""
    found = [as_block(row) for row in query(url, ROWS)]
    events = [event for b in found for event in blocks.decode(b)]
    wide = blocks.Block(0, 0, 1, 0, 0, 1, b"", b"w" * 24, b"")
    keys = b"".join(blocks.join_keys([b, wide])[:-24] for b in found)
    return events, keys, len(found)


def mergeable(found: list[blocks.Block]) -> list[int]:
    """Offsets of small blocks whose neighbour is small too, and that together are not too large: none but in the run at
    the end, which may be shorter than a merge."""
    small = [b.count < upkeep.SMALL_EVENTS and len(b.body) < upkeep.SMALL_BYTES for b in found]
    end = len(found)
    while end > 0 and small[end - 1] and len(found) - end < upkeep.MERGE_FROM - 1:
        end -= 1
    return [
        found[n].first_offset
        for n in range(end - 1)
        if small[n]
        and small[n + 1]
        and found[n].count + found[n + 1].count <= upkeep.MERGED_EVENTS
        and len(found[n].body) + len(found[n + 1].body) <= upkeep.MERGED_BYTES
    ]


async def fill(node: SqlNode, clock: ManualClock, rng: random.Random, appends: int) -> None:
    for number in range(appends):
        size = rng.choice((1, 1, 2, 5, 30, 600)) if rng.random() < 0.9 else 1
        records = [event(f"e{number}:{n}", text="x" * rng.randint(0, 40)) for n in range(size)]
        if rng.random() < 0.3:
            for record in rng.sample(records, rng.randint(1, size)):
                record.dedupe_hash = rng.randbytes(8)
        await append(node, clock, *records)
        clock.advance(1)


async def compact_all(node: SqlNode) -> None:
    for partition in range(node.database.partitions):
        offset = 0
        while (following := await upkeep.compact(node.database, partition, offset)) != offset:
            offset = following


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", range(3))
def test_merging_keeps_every_bit(kind: str, part: int, tmp_path: Path, rng: random.Random) -> None:
    """After merging blocks of random sizes, with narrow and wide keys mixed, there are fewer of them, and every event,
    offset and key is what it was; merging again changes nothing."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        clock = ManualClock()
        node = await rig.open(clock)
        await fill(node, clock, rng, 120)
        events, keys, count = contents(rig.url)
        await compact_all(node)
        merged = contents(rig.url)
        assert merged[:2] == (events, keys)
        assert merged[2] < count
        left = mergeable([as_block(row) for row in query(rig.url, ROWS)])
        assert not left, f"{left} could have been merged with what follows them"
        rows = query(rig.url, ROWS)
        await compact_all(node)
        assert query(rig.url, ROWS) == rows
        await rig.shut(node)

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_block_stays_where_it_is(kind: str, tmp_path: Path, rng: random.Random) -> None:
    """Merging leaves a damaged block alone, whatever its count says, and goes on behind it."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        clock = ManualClock()
        node = await rig.open(clock)
        for number in range(200):
            await append(node, clock, *(event(f"e{number}:{n}") for n in range(20)))
        for first, count in ((200, 10**6), (1000, 3), (2000, 0), (3000, -5)):
            query(rig.url, "UPDATE log_blocks SET count = ? WHERE first_offset = ?", count, first)
        await compact_all(node)
        rows = query(rig.url, "SELECT first_offset, count FROM log_blocks ORDER BY first_offset")
        assert {(200, 10**6), (1000, 3), (2000, 0), (3000, -5)} <= set(rows)
        assert len(rows) < 200
        partition = node.database.partition_of("s")
        found = await node.log.read(partition, 0, count=10_000)
        assert len(found.events) == 4_000 - 80
        assert [(entry.first_offset, entry.count) for entry in found.lost] == [(n, 20) for n in (200, 1000, 2000, 3000)]
        await rig.shut(node)

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_retention_does_not_believe_a_damaged_count(kind: str, tmp_path: Path) -> None:
    """A damaged count deletes no block that is not old enough, and moves the tail no further than the head."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        clock = ManualClock()
        node = await rig.open(clock)
        await append(node, clock, event("a"), event("b"))
        query(rig.url, "UPDATE log_blocks SET count = 1000")
        clock.advance(100)
        await append(node, clock, event("c"))
        assert await node.log.retain(age_ms_max=50_000, bytes_max=None) == 2
        partition = node.database.partition_of("s")
        assert [e.offset for e in (await node.log.read(partition, 0, count=9)).events] == [2]
        await rig.shut(node)

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_upkeep_goes_on_beside_everything(kind: str, tmp_path: Path, rng: random.Random) -> None:
    """Two nodes that both merge and retain, while others append and read: a reader with a live cursor gets every event
    once and in order, and nothing is reported lost."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        clock = ManualClock()
        nodes = [await rig.open(clock, name) for name in "ab"]
        reader = nodes[0]
        partition = reader.database.partition_of("s")
        await reader.database.write(reader.register, "c", partition, None)
        done = asyncio.Event()
        seen: list[int] = []

        async def keep_house(node: SqlNode) -> None:
            while not done.is_set():
                await compact_all(node)
                await node.log.retain(age_ms_max=20_000, bytes_max=None)
                await asyncio.sleep(0)

        async def follow() -> None:
            offset = 0
            while True:
                finished = done.is_set()
                found = await reader.log.read(partition, offset, count=rng.randint(1, 200))
                assert not found.lost, found.lost
                seen.extend(e.offset for e in found.events)
                offset = found.next_offset
                await reader.database.write(reader.log.advance, "c", partition, offset, {})
                if finished and not found.events:
                    return

        async def produce() -> None:
            await fill(nodes[1], clock, rng, 150)
            done.set()

        await asyncio.gather(produce(), follow(), *(keep_house(node) for node in nodes))
        assert seen == list(range((await reader.log.heads())[partition]))
        tail = query(rig.url, "SELECT tail_offset FROM log_heads WHERE partition = ?", partition)[0][0]
        assert tail > 0, "retention did its part"
        for node in nodes:
            await rig.shut(node)

    asyncio.run(run())
