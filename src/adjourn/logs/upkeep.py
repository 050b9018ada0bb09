"""Housekeeping of the log: merging small blocks, and retention. Both run in the background, under a lease."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from adjourn.clock import Clock
from adjourn.database import Database, Reader, Tx
from adjourn.errors import BlockCorrupt
from adjourn.logs import block as blocks
from adjourn.logs.append import BLOCK_COLUMNS, as_block

SMALL_EVENTS = 512
SMALL_BYTES = 65_536
MERGE_FROM = 32
MERGE_BLOCKS = 128
"""At most at once: other writes wait while it is done."""
MERGED_EVENTS = 2_048
MERGED_BYTES = 1024 * 1024
DELETE_BLOCKS = 256
BIT_S = 0.0003


async def compact(database: Database, partition: int, offset: int) -> int:
    """Merge one run of small blocks at or after `offset`; where to go on. The same offset: nothing to do yet."""
    merged, parts, next_offset = await database.read(_merge, partition, offset)
    if merged is not None:
        try:
            await database.write(_replace, merged, parts)
        except _Gone:
            return offset
    return next_offset


def _merge(reader: Reader, partition: int, offset: int) -> tuple[blocks.Block | None, list[int], int]:
    rows = reader.rows(
        "SELECT first_offset, count, length(body) FROM log_blocks WHERE partition = ? AND first_offset >= ? "
        "ORDER BY first_offset LIMIT ?",
        (partition, offset, MERGE_BLOCKS),
    )
    run: list[tuple[int, int]] = []
    events = size = 0
    for first, count, length in [(int(a or 0), int(b or 0), int(c or 0)) for a, b, c in rows]:
        small = count < SMALL_EVENTS and length < SMALL_BYTES
        if small and events + count <= MERGED_EVENTS and size + length <= MERGED_BYTES:
            run.append((first, count))
            events, size = events + count, size + length
        elif len(run) > 1:
            return _merged(reader, partition, run)
        else:
            # A large block, or one small one between large ones: leave both as they are.
            run, events, size = ([(first, count)], count, length) if small else ([], 0, 0)
            offset = first if small else first + 1
    if len(run) >= MERGE_FROM:
        return _merged(reader, partition, run)
    return None, [], offset


def _merged(
    reader: Reader, partition: int, run: Sequence[tuple[int, int]]
) -> tuple[blocks.Block | None, list[int], int]:
    first, last = run[0][0], run[-1][0]
    rows = reader.rows(
        f"SELECT {BLOCK_COLUMNS} FROM log_blocks WHERE partition = ? AND first_offset >= ? AND first_offset <= ? "
        "ORDER BY first_offset",
        (partition, first, last),
    )
    try:
        parts = [as_block(row) for row in rows]
        events = [event for part in _slowly(parts) for event in blocks.decode(part)]
    except BlockCorrupt:
        return None, [], last + 1  # consumers report it; it stays as it is
    merged = blocks.encode(partition, first, events, blocks.join_keys(parts))
    return merged, [part.first_offset for part in parts], last + 1


def _slowly(parts: Sequence[blocks.Block]) -> Iterator[blocks.Block]:
    """This thread shares the interpreter with those who wait for an answer: it takes a sixth of the time, in bits."""
    began_s = time.monotonic()
    for part in parts:
        yield part
        took_s = time.monotonic() - began_s
        if took_s >= BIT_S:
            time.sleep(5 * min(took_s, 2 * BIT_S))
            began_s = time.monotonic()


def _replace(tx: Tx, merged: blocks.Block, parts: Sequence[int]) -> None:
    """Raises _Gone, and so changes nothing, if a part was deleted meanwhile (retention)."""
    deleted = tx.run(
        "DELETE FROM log_blocks WHERE partition = ? AND first_offset >= ? AND first_offset <= ?",
        (merged.partition, parts[0], parts[-1]),
    )
    if deleted != len(parts):
        raise _Gone
    tx.run(
        f"INSERT INTO log_blocks ({BLOCK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            merged.partition,
            merged.first_offset,
            merged.count,
            merged.min_ts,
            merged.max_ts,
            merged.codec,
            merged.body,
            merged.keys,
            merged.checksum,
        ),
    )


class _Gone(Exception):
    """A part of the run was deleted between reading and replacing."""


async def retain(database: Database, clock: Clock, *, age_ms_max: int | None, bytes_max: int | None) -> int:
    """Delete the oldest blocks past a limit. A live cursor holds them, unless that consumer's own `drop_after` has
    passed: then its cursor moves on and what it missed is counted as `expired`."""
    if age_ms_max is None and bytes_max is None:
        return 0
    deleted = 0
    for partition in range(database.partitions):
        while True:
            gone = await database.write(_retain, partition, clock.wall_ms(), age_ms_max, bytes_max)
            deleted += gone
            if not gone:
                break
    return deleted


def size_bytes(reader: Reader) -> int:
    """Of all blocks, as they are stored: compressed."""
    return int(reader.rows("SELECT sum(length(body) + length(keys)) FROM log_blocks")[0][0] or 0)


def _retain(tx: Tx, partition: int, now_ms: int, age_ms_max: int | None, bytes_max: int | None) -> int:
    """Bounded: at most `DELETE_BLOCKS` a transaction."""
    cursors = tx.rows(
        "SELECT consumer, next_offset, drop_after_ms FROM cursors WHERE partition = ? AND live = 1", (partition,)
    )
    over = 0
    if bytes_max is not None:
        size = tx.rows("SELECT sum(length(body) + length(keys)) FROM log_blocks WHERE partition = ?", (partition,))
        over = int(size[0][0] or 0) - bytes_max // max(1, _partitions(tx))
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE"  # else a block merged meanwhile would go as a whole
    rows = tx.rows(
        "SELECT first_offset, max_ts, length(body) + length(keys) FROM log_blocks WHERE partition = ? "
        f"ORDER BY first_offset LIMIT ?{lock}",
        (partition, DELETE_BLOCKS + 1),
    )
    found = [(int(a or 0), int(b or 0), int(c or 0)) for a, b, c in rows]
    head = tx.rows("SELECT next_offset FROM log_heads WHERE partition = ?", (partition,))
    # A block ends where the next begins: what a damaged row says of its own length is not believed.
    ends = [*(first for first, _, _ in found[1:]), int(head[0][0] or 0)]
    end = -1
    events = 0
    for (first, max_ts, size), following in list(zip(found, ends, strict=False))[:DELETE_BLOCKS]:
        too_old = age_ms_max is not None and max_ts < now_ms - age_ms_max
        if not (too_old or over > 0) or _held(cursors, following, now_ms - max_ts):
            break
        end, events, over = following, events + following - first, over - size
    if end < 0:
        return 0
    _expire(tx, partition, cursors, end)
    tx.run("DELETE FROM log_blocks WHERE partition = ? AND first_offset < ?", (partition, end))
    tx.run("UPDATE log_heads SET tail_offset = ? WHERE partition = ?", (end, partition))
    return events


def _partitions(tx: Tx) -> int:
    return int(tx.rows("SELECT count(*) FROM log_heads")[0][0] or 1)


def _held(cursors: Sequence[tuple[object, ...]], end: int, age_ms: int) -> bool:
    for _, position, drop_after_ms in cursors:
        if int(str(position)) < end and (drop_after_ms is None or age_ms < int(str(drop_after_ms))):
            return True
    return False


def _expire(tx: Tx, partition: int, cursors: Sequence[tuple[object, ...]], end: int) -> None:
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE"  # another node may be moving it
    for consumer, position, _ in cursors:
        if int(str(position)) >= end:
            continue
        place = "consumer = ? AND partition = ?"
        now = tx.rows(f"SELECT next_offset FROM cursors WHERE {place}{lock}", (str(consumer), partition))
        missed = end - int(now[0][0] or 0)
        if missed > 0:
            tx.run(
                "UPDATE cursors SET next_offset = ? WHERE consumer = ? AND partition = ?",
                (end, str(consumer), partition),
            )
            tx.run(
                "INSERT INTO consumer_counts (consumer, partition, kind, count) VALUES (?, ?, 'expired', ?) "
                "ON CONFLICT (consumer, partition, kind) DO UPDATE SET count = consumer_counts.count + excluded.count",
                (str(consumer), partition, missed),
            )
