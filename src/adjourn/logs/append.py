"""Appending: the last step of a batch, in the lane's thread and inside its transaction.

reserve offsets → catch up with other writers → judge → write blocks → fill in what became of each record
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from adjourn.clock import Clock
from adjourn.database import Appended, Row, Tx, Verdict
from adjourn.errors import BlockCorrupt
from adjourn.events import Record, StoredEvent
from adjourn.logs import block as blocks
from adjourn.logs.window import Window, WindowStats
from adjourn.typed import convert

Judge = Callable[[Record, StoredEvent], Verdict]
"""Given a new event and the one that holds its identity: `accepted` means that only their hashes collide."""

OnCommit = Callable[[int, int, Sequence[Record]], None]
"""(partition, offset of the first, what was appended there; maybe nothing)"""

CATCH_UP_BLOCKS = 512
BLOCK_COLUMNS = "partition, first_offset, count, min_ts, max_ts, codec, body, keys, checksum"

_RESERVE = "UPDATE log_heads SET next_offset = next_offset + ? WHERE partition = ? RETURNING next_offset"
_CLAIM = "UPDATE log_heads SET next_offset = ? WHERE partition = ? AND next_offset = ?"
_CORRECT = "UPDATE log_heads SET next_offset = ? WHERE partition = ?"
_INSERT = f"INSERT INTO log_blocks ({BLOCK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

_KEYS_SINCE = (
    "SELECT first_offset, count, keys FROM log_blocks WHERE partition = ? AND first_offset >= "
    "coalesce((SELECT max(first_offset) FROM log_blocks WHERE partition = ? AND first_offset <= ?), 0) "
    "AND first_offset < ? AND max_ts >= ? ORDER BY first_offset LIMIT ?"
)
"""From the block that holds an offset: what was known up to there may have been merged with what follows."""


class Conflict(msgspec.Struct, frozen=True):
    """A record whose identity another event holds, with other content."""

    record: Record
    partition: int
    holder_offset: int


Keep = Callable[[Tx, Sequence[Conflict]], None]
"""Puts conflicting events into quarantine, in the transaction that refuses them."""


class SqlAppender:
    """`adjourn.database.Appender` on tables. One window a partition; each is used by its lane's thread alone."""

    def __init__(
        self,
        *,
        judge: Judge,
        keep: Keep,
        window_s: float,
        window_memory_bytes: int,
        clock: Clock,
        on_commit: OnCommit,
        on_discard: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_discard`: a transaction failed, maybe with its connection, and what was committed before may be gone."""
        self._judge = judge
        self._keep = keep
        self._window_s = window_s
        self._window_memory_bytes = window_memory_bytes
        self._clock = clock
        self._on_commit = on_commit
        self._on_discard = on_discard
        self._windows: dict[int, Window] = {}
        self._staged: dict[int, tuple[int, Sequence[Record]]] = {}

    def append(self, tx: Tx, partition: int, pending: Sequence[Appended]) -> None:
        window = self._window(partition)
        new = _unsent(tx, partition, pending, self._clock.wall_ms())
        flat = [record for records in new for record in records]
        if not flat:
            _fill_in(pending, new, None, partition, 0)  # all of it was sent before, and its senders must hear so
            return
        first = self._reserve(tx, partition, len(flat), expected=window.synced)
        if first != window.synced:
            self._catch_up(tx, window, partition, first)
        identities = [record.dedupe_hash or record.id_hash for record in flat]
        verdicts = self._verdicts(tx, window, partition, first, flat, identities)
        if verdicts is not None:
            flat = [r for r, verdict in zip(flat, verdicts, strict=True) if verdict == "accepted"]
            identities = [record.dedupe_hash or record.id_hash for record in flat]
            tx.run(_CORRECT, (first + len(flat), partition))
        _write(tx, partition, first, flat)
        _fill_in(pending, new, verdicts, partition, first)
        window.stage(identities, first)
        self._staged[partition] = (first, flat)

    def committed(self, partition: int) -> None:
        first, records = self._staged.pop(partition, (0, ()))
        try:
            self._window(partition).commit()
        finally:
            self._on_commit(partition, first, records)

    def discarded(self, partition: int) -> None:
        self._staged.pop(partition, None)
        self._window(partition).discard()
        self._on_discard()

    def window_stats(self) -> list[WindowStats]:
        return [window.stats() for window in list(self._windows.values())]

    def _window(self, partition: int) -> Window:
        window = self._windows.get(partition)
        if window is None:
            window = Window(self._window_s, self._window_memory_bytes, self._clock)
            self._windows[partition] = window
        return window

    def _reserve(self, tx: Tx, partition: int, count: int, *, expected: int) -> int:
        """The row lock on the head is what orders the appends of all nodes; held from here to COMMIT.

        Nearly always nobody else has appended: then one statement without an answer to fetch does it. In SQLite each
        fetch gives the interpreter lock away once more, and a busy event loop is slow to give it back."""
        if expected >= 0 and tx.run(_CLAIM, (expected + count, partition, expected)):
            return expected
        return _int(tx.rows(_RESERVE, (count, partition))[0][0]) - count

    def _catch_up(self, tx: Tx, window: Window, partition: int, head: int) -> None:
        """Read the keys of what others appended since, or of the whole window after a start."""
        since = max(window.synced, 0)
        # What was missed for less than the window is within it, whatever the wall clock was set to meanwhile.
        oldest_ms = 0 if window.missed_s() < self._window_s else self._clock.wall_ms() - int(self._window_s * 1000)
        while True:
            # One statement: blocks that another node merges between two would be seen by neither.
            rows = tx.rows(_KEYS_SINCE, (partition, partition, since, head, oldest_ms, CATCH_UP_BLOCKS))
            for first, count, keys in rows:
                start = _int(first)
                found = blocks.identities(as_bytes(keys), _int(count))
                window.extend(found, start)
                since = start + max(1, len(found))
            if len(rows) < CATCH_UP_BLOCKS:
                break
        window.synced = head

    def _verdicts(
        self,
        tx: Tx,
        window: Window,
        partition: int,
        first: int,
        records: Sequence[Record],
        identities: Sequence[bytes],
    ) -> list[Verdict] | None:
        """None: all are new, which is what nearly every batch finds out here and no further."""
        seen = window.find(identities)
        if not seen and len(set(identities)) == len(identities):
            return None
        holders: dict[bytes, StoredEvent | None] = {}
        held = _events_at(tx, partition, sorted({offset for _, offset in seen}))
        for index, offset in seen:
            holders[identities[index]] = held[offset]
        verdicts: list[Verdict] = []
        conflicts: list[Conflict] = []
        for record, identity in zip(records, identities, strict=True):
            verdict = self._verdict(record, identity, holders)
            verdicts.append(verdict)
            if verdict == "accepted":
                holders.setdefault(identity, _as_stored(record, partition))
            elif verdict == "conflict":
                holder = holders[identity]
                conflicts.append(Conflict(record, partition, holder.offset if holder else -1))
        if conflicts:
            self._keep(tx, conflicts)
        return verdicts if any(v != "accepted" for v in verdicts) else None

    def _verdict(self, record: Record, identity: bytes, holders: dict[bytes, StoredEvent | None]) -> Verdict:
        if identity not in holders:
            return "accepted"
        holder = holders[identity]
        # The holder's block is damaged or already deleted: what it said is not known, so a person must look.
        return self._judge(record, holder) if holder is not None else "conflict"


def _unsent(tx: Tx, partition: int, pending: Sequence[Appended], now_ms: int) -> list[Sequence[Record]]:
    """What each pending append brings that its producer has not sent before."""
    return [
        _after_sequence(tx, partition, appended, now_ms) if appended.producer else appended.records
        for appended in pending
    ]


def _after_sequence(tx: Tx, partition: int, appended: Appended, now_ms: int) -> Sequence[Record]:
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE"
    rows = tx.rows(
        f"SELECT sequence FROM producers WHERE producer = ? AND partition = ?{lock}", (appended.producer, partition)
    )
    last = _int(rows[0][0]) if rows else 0
    new = [record for record in appended.records if record.sequence > last]
    if new:
        tx.run(
            "INSERT INTO producers (producer, partition, sequence, seen_ms) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (producer, partition) DO UPDATE SET sequence = excluded.sequence, seen_ms = excluded.seen_ms",
            (appended.producer, partition, new[-1].sequence, now_ms),
        )
    return new


def _write(tx: Tx, partition: int, first: int, records: Sequence[Record]) -> None:
    for start, end in _cuts(records):
        part = records[start:end]
        keys = blocks.pack_keys(part)
        b = blocks.encode(partition, first + start, part, keys)
        tx.run(
            _INSERT,
            (b.partition, b.first_offset, b.count, b.min_ts, b.max_ts, b.codec, b.body, b.keys, b.checksum),
        )


def _cuts(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Where one block ends and the next begins."""
    cuts: list[tuple[int, int]] = []
    start = size = 0
    for index, record in enumerate(records):
        if index - start == blocks.EVENTS_PER_BLOCK or (size + len(record.body) > blocks.BYTES_PER_BLOCK and size):
            cuts.append((start, index))
            start, size = index, 0
        size += len(record.body)
    if start < len(records):
        cuts.append((start, len(records)))
    return cuts


def _fill_in(
    pending: Sequence[Appended],
    new: Sequence[Sequence[Record]],
    verdicts: list[Verdict] | None,
    partition: int,
    first: int,
) -> None:
    """Tell each append what became of its records. It is read only after COMMIT."""
    place = 0
    for appended, records in zip(pending, new, strict=True):
        appended.partition, appended.first_offset = partition, first
        mine: list[Verdict] = ["accepted"] * len(records)
        if verdicts is not None:
            mine = verdicts[place : place + len(records)]
        place += len(records)
        first += mine.count("accepted")
        resent = len(appended.records) - len(records)
        clean = not resent and "duplicate" not in mine and "conflict" not in mine
        before: list[Verdict] = ["duplicate"] * resent
        appended.verdicts = None if clean else before + mine


def _events_at(tx: Tx, partition: int, offsets: Sequence[int]) -> dict[int, StoredEvent | None]:
    """Each block is read and decoded once, however many of its events are asked for. `offsets` ascend."""
    found: dict[int, StoredEvent | None] = {}
    first, events = 0, list[StoredEvent]()
    for offset in offsets:
        if not first <= offset < first + len(events):
            first, events = _block_of(tx, partition, offset)
        inside = first <= offset < first + len(events)
        found[offset] = events[offset - first] if inside else None
    return found


def _block_of(tx: Tx, partition: int, offset: int) -> tuple[int, list[StoredEvent]]:
    """The block that may hold `offset`: where it begins, and its events; none if it is gone or damaged."""
    rows = tx.rows(
        f"SELECT {BLOCK_COLUMNS} FROM log_blocks WHERE partition = ? AND first_offset <= ? "
        "ORDER BY first_offset DESC LIMIT 1",
        (partition, offset),
    )
    if not rows:
        return 0, []
    try:
        block = as_block(rows[0])
        return block.first_offset, blocks.decode(block)
    except BlockCorrupt:
        return 0, []


def as_block(row: Row) -> blocks.Block:
    """Raises BlockCorrupt for values that no block can have (SQLite keeps any type in any column)."""
    try:
        return convert(row, blocks.Block)
    except msgspec.ValidationError as error:
        raise BlockCorrupt(f"block {row[0]}/{row[1]} is damaged: {error}") from error


def _as_stored(record: Record, partition: int) -> StoredEvent:
    return StoredEvent(
        partition, -1, record.tenant, record.body, record.received_ms, record.cost_nanousd, record.price_ref
    )


def as_bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"expected bytes from the database, got {type(value).__name__}")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an integer from the database, got {value!r}")
    return value
