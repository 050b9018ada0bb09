"""Is the log whole: every block decoded and compared with its checksum, offsets dense, cursors where they may be.

Reads in bounded memory, writes nothing, and goes around what the database itself cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec

from adjourn.database import Finding, Reader
from adjourn.errors import BlockCorrupt, DatabaseCorrupt
from adjourn.logs import block as blocks
from adjourn.logs.append import BLOCK_COLUMNS, as_block

BLOCKS_AT_ONCE = 8
PROBES_MAX = 10_000
LAST_MS = 253_402_300_799_999

SKIPPED = "consumers report these events and go on after them, nothing else is touched; to have them, restore a backup"

Progress = Callable[[int, int], None]
"""(events looked at, events in the log)"""


class _Walk(msgspec.Struct):
    """One partition on its way from tail to head."""

    partition: int
    tail: int
    head: int
    expected: int
    blocks: int = 0
    events: int = 0
    intact_end: int = 0
    unreadable: bool = False
    """Pages between `expected` and the next block cannot be read."""


def check_log(reader: Reader, *, progress: Progress | None = None) -> Iterator[Finding]:
    """What is wrong with the log, found while reading it once; nothing when it is whole. `reader` raises
    DatabaseCorrupt where pages cannot be read."""
    try:
        heads = reader.rows("SELECT partition, tail_offset, next_offset FROM log_heads ORDER BY partition")
        partitions = reader.rows("SELECT partitions FROM installation")
        walks = [_Walk(_int(p), _int(tail), _int(head), expected=_int(tail)) for p, tail, head in heads]
    except DatabaseCorrupt as error:
        yield Finding(f"where the log begins and ends cannot be read ({error.message})", "restore the last backup")
        return
    if [(len(walks),)] != partitions:
        yield Finding(
            f"log_heads has {len(walks)} partitions, the installation says {[row[0] for row in partitions]}",
            "restore the last backup",
        )
    total = sum(walk.head - walk.tail for walk in walks)
    seen = 0
    for walk in walks:
        for finding in _check_partition(reader, walk):
            if isinstance(finding, Finding):
                yield finding
            else:
                seen += finding
                if progress is not None:
                    progress(seen, total)
    yield from _check_outside(reader, walks)
    yield from _check_cursors(reader, walks)
    yield from _check_lost(reader)


def _check_partition(reader: Reader, walk: _Walk) -> Iterator[Finding | int]:
    """Findings, and the number of events of each block that was looked at."""
    damaged = False
    for block in _blocks(reader, walk):
        if block is None:
            walk.unreadable = damaged = True
            continue
        for finding in (_place(walk, block), _content(walk, block)):
            if finding is not None:
                yield finding
        walk.expected = max(walk.expected, block.first_offset + block.count)
        yield block.count
    if walk.expected < walk.head:
        yield _missing(walk, walk.head)
    elif walk.expected > walk.head:
        yield Finding(
            f"partition {walk.partition} has blocks up to {walk.expected}, but its head is {walk.head}",
            "no event is lost, but the next append will be refused; restore the last backup",
        )
    if damaged:
        yield Finding(
            f"pages of partition {walk.partition} cannot be read",
            f"{walk.events} events in {walk.blocks} blocks are intact, the last before offset {walk.intact_end}; save "
            "them with: adjourn db backup --salvage FILE",
        )


def _place(walk: _Walk, block: blocks.Block) -> Finding | None:
    if block.first_offset > walk.expected:
        return _missing(walk, block.first_offset)
    if block.first_offset < walk.expected:
        return Finding(
            f"block {_name(block)} begins before the end of the one before it, at {walk.expected}",
            "events would be delivered twice; restore the last backup",
        )
    return None


def _missing(walk: _Walk, until: int) -> Finding:
    why = "are on pages that cannot be read" if walk.unreadable else "are missing: their block is gone"
    walk.unreadable = False
    return Finding(f"partition {walk.partition}: the events {walk.expected} to {until - 1} {why}", SKIPPED)


def _content(walk: _Walk, block: blocks.Block) -> Finding | None:
    try:
        events = blocks.decode(block)
    except BlockCorrupt as error:
        return Finding(error.message, SKIPPED)
    walk.blocks += 1
    walk.events += block.count
    walk.intact_end = block.first_offset + block.count
    received = [event.received_ms for event in events]
    if (min(received), max(received)) != (block.min_ts, block.max_ts):
        return Finding(
            f"block {_name(block)} says that its events came between {block.min_ts} and {block.max_ts} ms, "
            f"but they did between {min(received)} and {max(received)}",
            "no event is lost, but retention by age may take it too early or too late; restore the last backup",
        )
    return None


def _blocks(reader: Reader, walk: _Walk) -> Iterator[blocks.Block | None]:
    """The blocks of a partition in order; None where pages cannot be read. A range that fails is halved until what can
    be read in it is found."""
    sql = (
        f"SELECT {BLOCK_COLUMNS} FROM log_blocks WHERE partition = ? AND first_offset >= ? AND first_offset < ? "
        f"ORDER BY first_offset LIMIT {BLOCKS_AT_ONCE}"
    )
    ranges = [(walk.tail, walk.head)]
    probes = 0
    while ranges:
        low, high = ranges.pop()
        try:
            rows = reader.rows(sql, (walk.partition, low, high))
        except DatabaseCorrupt:
            probes += 1
            if high - low <= 1 or probes > PROBES_MAX:
                yield None
            else:
                middle = (low + high) // 2
                ranges += [(middle, high), (low, middle)]
            continue
        if len(rows) == BLOCKS_AT_ONCE:
            ranges.append((int(rows[-1][1] or 0) + 1, high))
        for row in rows:
            try:
                yield as_block(row)
            except BlockCorrupt:  # SQLite keeps any type in any column: this row is not one that was written
                yield None


def _check_outside(reader: Reader, walks: list[_Walk]) -> Iterator[Finding]:
    for walk in walks:
        try:
            [(below,)] = reader.rows(
                "SELECT count(*) FROM log_blocks WHERE partition = ? AND first_offset < ?", (walk.partition, walk.tail)
            )
            [(beyond,)] = reader.rows(
                "SELECT count(*) FROM log_blocks WHERE partition = ? AND first_offset >= ?", (walk.partition, walk.head)
            )
        except DatabaseCorrupt:
            continue  # the walk has said so
        if below:
            yield Finding(
                f"partition {walk.partition} has {below} blocks below its tail, {walk.tail}",
                "they were given up by retention and are not read; nothing is lost",
            )
        if beyond:
            yield Finding(
                f"partition {walk.partition} has {beyond} blocks beyond its head, {walk.head}",
                "their events are not delivered, and the next append will be refused; restore the last backup",
            )


def _check_cursors(reader: Reader, walks: list[_Walk]) -> Iterator[Finding]:
    bounds = {walk.partition: walk for walk in walks}
    try:
        rows = reader.rows("SELECT consumer, partition, next_offset, live FROM cursors ORDER BY 1, 2")
        cursors = [(consumer, _int(partition), _int(offset), live) for consumer, partition, offset, live in rows]
    except DatabaseCorrupt as error:
        yield Finding(f"the consumers' cursors cannot be read ({error.message})", "restore the last backup")
        return
    for consumer, partition, offset, live in cursors:
        walk = bounds.get(partition)
        name = f"the cursor of {consumer} in partition {partition}"
        if walk is None:
            yield Finding(f"{name} is in no partition of this installation", "restore the last backup")
        elif offset > walk.head:
            yield Finding(
                f"{name} is at {offset}, beyond the head, {walk.head}",
                f"{consumer} would miss the next {offset - walk.head} events; restore the last backup",
            )
        elif live and offset < walk.tail:
            yield Finding(
                f"{name} is at {offset}, below the tail, {walk.tail}",
                f"{consumer} goes on at the tail; {walk.tail - offset} events were deleted before it had them",
            )


def _check_lost(reader: Reader) -> Iterator[Finding]:
    try:
        rows = reader.rows("SELECT partition, first_offset, count, found_ms, reason FROM log_lost ORDER BY 1, 2")
        lost = [(p, _int(first), _int(count), _int(found_ms), reason) for p, first, count, found_ms, reason in rows]
    except DatabaseCorrupt as error:
        yield Finding(f"what was found lost before cannot be read ({error.message})", "restore the last backup")
        return
    for partition, first, count, found_ms, reason in lost:
        when = datetime.fromtimestamp(min(max(found_ms, 0), LAST_MS) / 1000, UTC).isoformat(timespec="seconds")
        yield Finding(
            f"consumers went past the events {first} to {first + count - 1} of partition {partition}, "
            f"which they could not read: {reason} (first seen {when})",
            "those events were not delivered; find them in a backup, or at their senders, and capture them again",
        )


def _name(block: blocks.Block) -> str:
    return f"{block.partition}/{block.first_offset} of {block.count} events"


def _int(value: object) -> int:
    """SQLite keeps any type in any column: what is no number there is damage."""
    if not isinstance(value, int):
        raise DatabaseCorrupt(f"{value!r} stands where a number must")
    return value
