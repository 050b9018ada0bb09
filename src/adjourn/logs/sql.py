"""The log on tables of SQLite or PostgreSQL: reading, cursors, retention. Appending is in `append.py`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from adjourn.clock import Clock
from adjourn.database import Database, Reader, Tx
from adjourn.errors import BlockCorrupt
from adjourn.eventlog import get_logger
from adjourn.events import Record, StoredEvent
from adjourn.log import Lost, Slice
from adjourn.logs import block as blocks
from adjourn.logs import upkeep
from adjourn.logs.append import BLOCK_COLUMNS, as_block
from adjourn.logs.find import find, find_all
from adjourn.logs.fresh import Fresh

IdHash = Callable[[str, str], bytes]
"""(tenant, event id) → 8 bytes; from whoever knows the installation's secret."""

BLOCKS_AT_ONCE = 32
READ_BYTES = 8 * 1024 * 1024
"""Of bodies: a read ends with the block that reaches it, however few events that is."""
FIND_S = 2.0
"""How long one look-up may search what the index does not have yet."""
_MISSING = "the block that held these events is missing"
_logger = get_logger("adjourn.log")


class SqlLog:
    def __init__(self, database: Database, clock: Clock, *, id_hash: IdHash) -> None:
        self._database = database
        self._clock = clock
        self._id_hash = id_hash
        self._waiters: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}
        self._waiters_lock = threading.Lock()
        self._fresh = Fresh()
        self.appended = 0

    async def read(self, partition: int, offset: int, *, count: int) -> Slice:
        found = await self._database.read(_read, partition, offset, count)
        if found.lost:
            for lost in found.lost:
                _logger.error("block_corrupt", **msgspec.structs.asdict(lost))
            await self._database.write(_record_lost, found.lost, self._clock.wall_ms())
        return found

    def at_hand(self, partition: int, offset: int) -> Slice | None:
        events = self._fresh.since(partition, offset)
        return Slice(events, offset + len(events)) if events else None

    async def find(self, tenant: str, event_id: str) -> StoredEvent | None:
        id_hash = self._id_hash(tenant, event_id)
        until_s = self._clock.monotonic() + FIND_S
        return await self._database.read(find, id_hash, tenant, event_id, lambda: self._clock.monotonic() > until_s)

    async def find_all(
        self, partition: int, tenant: str, event_ids: Collection[str], *, since_ms: int = 0
    ) -> Mapping[str, StoredEvent]:
        wanted: dict[bytes, list[str]] = {}
        for event_id in event_ids:
            wanted.setdefault(self._id_hash(tenant, event_id), []).append(event_id)
        return await self._database.read(find_all, partition, tenant, wanted, since_ms)

    async def heads(self) -> Sequence[int]:
        return await self._database.read(_heads)

    async def cursor(self, consumer: str, partition: int) -> int:
        return await self._database.read(_cursor, consumer, partition)

    def advance(self, tx: Tx, consumer: str, partition: int, offset: int, counts: Mapping[str, int]) -> None:
        tx.run(
            "INSERT INTO cursors (consumer, partition, next_offset, live) VALUES (?, ?, ?, 1) "
            "ON CONFLICT (consumer, partition) DO UPDATE SET next_offset = excluded.next_offset",
            (consumer, partition, offset),
        )
        add_counts(tx, consumer, partition, counts)

    async def arrived(self, timeout_s: float, *, since: int | None = None) -> None:
        loop = asyncio.get_running_loop()
        with self._waiters_lock:
            if since is not None and since != self.appended:
                return
            event = self._waiters.setdefault(loop, asyncio.Event())
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return

    def announce(self, partition: int, first_offset: int, records: Sequence[Record]) -> None:
        """Called by lanes after COMMIT, with what they appended: wake whoever waits in `arrived`."""
        if not records:
            return
        self._fresh.add(partition, first_offset, records)
        with self._waiters_lock:
            self.appended += 1
            waiters, self._waiters = self._waiters, {}
        for loop, event in waiters.items():
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # that loop is closed, and so is whoever waited in it
                continue

    def distrust(self) -> None:
        """Called by lanes whose transaction failed: a server that crashed with `synchronous_commit` off has lost what
        it said was committed, and from memory none of that must go out as if it were still there."""
        self._fresh.clear()

    async def retain(self, *, age_ms_max: int | None, bytes_max: int | None) -> int:
        self._fresh.clear()  # what is deleted is not at hand
        return await upkeep.retain(self._database, self._clock, age_ms_max=age_ms_max, bytes_max=bytes_max)


def register(tx: Tx, consumer: str, partition: int, *, drop_after_ms: int | None) -> None:
    """Make a consumer known, so that retention waits for it. A new one begins at the tail: it gets all that is kept."""
    tx.run(
        "INSERT INTO cursors (consumer, partition, next_offset, live) SELECT ?, partition, tail_offset, 1 "
        "FROM log_heads WHERE partition = ? ON CONFLICT (consumer, partition) DO NOTHING",
        (consumer, partition),
    )
    tx.run(
        "UPDATE cursors SET live = 1, drop_after_ms = ? WHERE consumer = ? AND partition = ?",
        (drop_after_ms, consumer, partition),
    )
    tx.run(
        "INSERT INTO consumer_counts (consumer, partition, kind, count) "
        "SELECT consumer, partition, 'before', next_offset FROM cursors WHERE consumer = ? AND partition = ? "
        "ON CONFLICT (consumer, partition, kind) DO NOTHING",
        (consumer, partition),
    )


def add_counts(tx: Tx, consumer: str, partition: int, counts: Mapping[str, int]) -> None:
    for kind, count in counts.items():
        if count:
            tx.run(
                "INSERT INTO consumer_counts (consumer, partition, kind, count) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (consumer, partition, kind) DO UPDATE SET count = consumer_counts.count + excluded.count",
                (consumer, partition, kind, count),
            )


def _read(reader: Reader, partition: int, offset: int, count: int) -> Slice:
    """Whole blocks from the one that holds `offset`, until `count` events or `READ_BYTES` are there."""
    events: list[StoredEvent] = []
    lost: list[Lost] = []
    tail, head = _bounds(reader, partition)
    position, size = max(offset, tail), 0
    first = _block_start(reader, partition, position)
    at_once = 1  # a full block is enough for most readers; where blocks are small, many are fetched at a time
    while position < head and len(events) < count and size < READ_BYTES:
        rows = reader.rows(
            f"SELECT {BLOCK_COLUMNS} FROM log_blocks WHERE partition = ? AND first_offset >= ? AND first_offset < ? "
            "ORDER BY first_offset LIMIT ?",
            (partition, first, head, at_once),
        )
        for row in rows:
            start = int(row[1] or 0)
            if start > position:
                lost.append(Lost(partition, position, start - position, _MISSING))
                position = start
            first = start + 1
            try:
                decoded = blocks.decode(as_block(row))
            except BlockCorrupt as error:
                end = _next_start(reader, partition, start, head)
                if end > position:
                    lost.append(Lost(partition, position, end - position, error.message))
            else:
                end = start + len(decoded)
                events.extend(decoded[position - start :])
                size += sum([len(event.body) for event in decoded])
            position = max(position, end)
            if len(events) >= count or size >= READ_BYTES:
                break
        else:
            if len(rows) < at_once and position < head:
                lost.append(Lost(partition, position, head - position, _MISSING))
                position = head
        at_once = min(2 * at_once, BLOCKS_AT_ONCE)
    return Slice(events, position, lost)


def _bounds(reader: Reader, partition: int) -> tuple[int, int]:
    rows = reader.rows("SELECT tail_offset, next_offset FROM log_heads WHERE partition = ?", (partition,))
    return (int(rows[0][0] or 0), int(rows[0][1] or 0)) if rows else (0, 0)


def _block_start(reader: Reader, partition: int, offset: int) -> int:
    rows = reader.rows(
        "SELECT first_offset FROM log_blocks WHERE partition = ? AND first_offset <= ? "
        "ORDER BY first_offset DESC LIMIT 1",
        (partition, offset),
    )
    return int(rows[0][0] or 0) if rows else 0


def _next_start(reader: Reader, partition: int, start: int, head: int) -> int:
    """Where a damaged block ends: its own count is not to be believed."""
    rows = reader.rows(
        "SELECT first_offset FROM log_blocks WHERE partition = ? AND first_offset > ? ORDER BY first_offset LIMIT 1",
        (partition, start),
    )
    return min(int(rows[0][0] or 0), head) if rows else head


def _record_lost(tx: Tx, lost: Sequence[Lost], now_ms: int) -> None:
    for entry in lost:
        tx.run(
            "INSERT INTO log_lost (partition, first_offset, count, reason, found_ms) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (partition, first_offset) DO NOTHING",
            (entry.partition, entry.first_offset, entry.count, entry.reason, now_ms),
        )


def _heads(reader: Reader) -> list[int]:
    return [int(row[0] or 0) for row in reader.rows("SELECT next_offset FROM log_heads ORDER BY partition")]


def _cursor(reader: Reader, consumer: str, partition: int) -> int:
    rows = reader.rows("SELECT next_offset FROM cursors WHERE consumer = ? AND partition = ?", (consumer, partition))
    return int(rows[0][0] or 0) if rows else 0
