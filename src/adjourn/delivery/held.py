"""Events that a destination holds up: parked ones, which are tried again alone, and dead letters, which are not.

A row is there exactly as long as the event is in neither of the other places: what is parked is pending, a dead letter
is counted as `dead_lettered` until it is redriven, discarded or deleted by age. Whole events are kept, as the log holds
them: it may be gone there by the time that somebody looks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from adjourn.database import Reader, Row, Tx
from adjourn.delivery import records
from adjourn.delivery.conservation import CONSUMER_PREFIX, consumer_of
from adjourn.delivery.records import Record
from adjourn.errors import NotFound
from adjourn.events import StoredEvent
from adjourn.typed import convert

State = Literal["parked", "dead"]

_COLUMNS = (
    "destination, partition, event_offset, state, tenant, session_id, event_id, received_ms, cost_nanousd, price_ref, "
    "code, reason, attempts, held_ms, next_ms, body, attempts_before"
)
_INSERT = f"INSERT INTO held_events ({_COLUMNS}) VALUES ({', '.join('?' * 17)})"
AT_ONCE = 200
"""Rows that one transaction deletes."""
_ID = re.compile(r"([^:]+):([0-9]{1,9}):([0-9]{1,18})")
_PLACE = "destination = ? AND partition = ? AND event_offset = ?"
_AS_BEFORE = f"{_PLACE} AND state = ? AND attempts = ? AND held_ms = ?"
_COUNT = (
    "INSERT INTO consumer_counts (consumer, partition, kind, count) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (consumer, partition, kind) DO UPDATE SET count = consumer_counts.count + excluded.count"
)


class Held(msgspec.Struct, frozen=True, array_like=True):
    """`attempts` are those since it was parked or redriven, `attempts_before` those until then. `held_ms`: when it came
    here; `next_ms`: when a parked one may be tried again."""

    destination: str
    partition: int
    offset: int
    state: State
    tenant: str
    session_id: str
    event_id: str
    received_ms: int
    cost_nanousd: int | None
    price_ref: str
    code: str
    reason: str
    attempts: int
    held_ms: int
    next_ms: int
    body: bytes
    attempts_before: int = 0

    @property
    def id(self) -> str:
        return f"{self.destination}:{self.partition}:{self.offset}"

    @property
    def attempts_total(self) -> int:
        return self.attempts_before + self.attempts

    def event(self) -> StoredEvent:
        return StoredEvent(
            self.partition,
            self.offset,
            self.tenant,
            self.body,
            self.received_ms,
            self.cost_nanousd,
            self.price_ref,
        )


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """A parked event, as little of it as tells whose turn it is."""

    offset: int
    tenant: str
    session_id: str
    attempts: int
    next_ms: int

    @property
    def session(self) -> tuple[str, str]:
        return self.tenant, self.session_id


def hold(tx: Tx, held: Iterable[Held]) -> None:
    for one in held:
        tx.run(_INSERT, msgspec.structs.astuple(one))


def parked(reader: Reader, destination: str, partition: int) -> list[Parked]:
    """In the order of the log, so that the first of each session is the one that the others wait for."""
    rows = reader.rows(
        "SELECT event_offset, tenant, session_id, attempts, next_ms FROM held_events "
        "WHERE destination = ? AND state = 'parked' AND partition = ? ORDER BY event_offset",
        (destination, partition),
    )
    return [convert(row, Parked) for row in rows]


def waiting(reader: Reader, destination: str) -> bool:
    """Whether anything is parked there."""
    sql = "SELECT 1 FROM held_events WHERE destination = ? AND state = 'parked' LIMIT 1"
    return bool(reader.rows(sql, (destination,)))


def at(reader: Reader, destination: str, partition: int, offsets: Sequence[int]) -> list[Held]:
    """Those of the parked events that are still there, whole, in order."""
    marks = ", ".join("?" * len(offsets))
    rows = reader.rows(
        f"SELECT {_COLUMNS} FROM held_events WHERE destination = ? AND state = 'parked' AND partition = ? "
        f"AND event_offset IN ({marks}) ORDER BY event_offset",
        (destination, partition, *offsets),
    )
    return [_held(row) for row in rows]


def tried(tx: Tx, before: Held, one: Held) -> bool:
    """Its new state, attempts, reason and times are those of `one`. False if it is not as `before` any more: another
    session, or a write whose outcome was not known, has dealt with it."""
    return bool(
        tx.run(
            f"UPDATE held_events SET state = ?, code = ?, reason = ?, attempts = ?, attempts_before = ?, held_ms = ?, "
            f"next_ms = ? WHERE {_AS_BEFORE}",
            (
                one.state,
                one.code,
                one.reason,
                one.attempts,
                one.attempts_before,
                one.held_ms,
                one.next_ms,
                *_as_before(before),
            ),
        )
    )


def release(tx: Tx, one: Held) -> bool:
    """False if it is not as `one` any more."""
    return bool(tx.run(f"DELETE FROM held_events WHERE {_AS_BEFORE}", _as_before(one)))


def at_places(reader: Reader, places: Iterable[tuple[str, int, int]]) -> list[Held]:
    """The dead letters that are there still, whole."""
    sql = f"SELECT {_COLUMNS} FROM held_events WHERE state = 'dead' AND {_PLACE}"
    return [_held(row) for place in places for row in reader.rows(sql, place)]


def parked_count(reader: Reader, destination: str, most: int) -> int:
    """How many are parked there; counted no farther than to `most`."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM held_events WHERE destination = ? AND state = 'parked' LIMIT ?) AS few"
    return int(reader.rows(sql, (destination, most))[0][0] or 0)


def show(reader: Reader, tenant: str | None, letter_id: str) -> Held:
    """One dead letter, whole. Raises NotFound."""
    place = _parsed(letter_id)
    found = at_places(reader, [place] if place else [])
    if not found or tenant not in (None, found[0].tenant):
        raise _no_letter(letter_id)
    return found[0]


def redrive(tx: Tx, tenant: str | None, letter_id: str, now_ms: int) -> Held:
    """Give a dead letter back to its destination: the same event, under the same id, with all its attempts anew; those
    that it had stay counted. Raises NotFound."""
    letter = show(tx, tenant, letter_id)
    if not tx.rows("SELECT 1 FROM cursors WHERE consumer = ? AND live = 1", (consumer_of(letter.destination),)):
        raise NotFound(
            f"destination {letter.destination} is not configured any more; configure it again, or discard {letter.id}"
        )
    again = msgspec.structs.replace(
        letter, state="parked", attempts=0, attempts_before=letter.attempts_total, held_ms=now_ms, next_ms=now_ms
    )
    if not tried(tx, letter, again):
        raise _no_letter(letter_id)
    count(tx, letter, {"dead_lettered": -1})
    return again


def discard(tx: Tx, tenant: str | None, letter_id: str, now_ms: int) -> Held:
    """Delete a dead letter for good; it is counted as discarded. Raises NotFound."""
    letter = show(tx, tenant, letter_id)
    if not release(tx, letter):
        raise _no_letter(letter_id)
    record = Record(*_place(letter), letter.offset + 1, letter.attempts_total, now_ms, now_ms, b"c")
    records.write(tx, None, record)
    count(tx, letter, {"dead_lettered": -1, "discarded": 1})
    return letter


def forget_letters(tx: Tx, destination: str, since_ms: int) -> int:
    """Delete dead letters of a destination from before `since_ms` (its `retention_days`), `AT_ONCE` at most; how many
    have expired."""
    rows = tx.rows(
        "SELECT partition, event_offset FROM held_events WHERE destination = ? AND state = 'dead' AND held_ms < ? "
        "ORDER BY held_ms LIMIT ?",
        (destination, since_ms, AT_ONCE),
    )
    return _expire(tx, destination, "dead", rows, {"dead_lettered": -1, "expired": 1})


def give_up(tx: Tx, now_ms: int) -> int:
    """Delete parked events that the log does not hold any more and whose destination's `drop_after_ms` has passed, as
    retention does with a backlog; `AT_ONCE` at most of each destination and partition. How many have expired."""
    gone = 0
    for consumer, partition, drop_after_ms, tail in tx.rows(
        "SELECT c.consumer, c.partition, c.drop_after_ms, h.tail_offset FROM cursors c "
        "JOIN log_heads h ON h.partition = c.partition "
        "WHERE c.live = 1 AND c.drop_after_ms IS NOT NULL AND h.tail_offset > 0 ORDER BY 1, 2"
    ):
        destination = str(consumer).removeprefix(CONSUMER_PREFIX)
        rows = tx.rows(
            "SELECT partition, event_offset FROM held_events WHERE destination = ? AND state = 'parked' "
            "AND partition = ? AND received_ms <= ? AND event_offset < ? LIMIT ?",
            (destination, partition, now_ms - int(drop_after_ms or 0), tail, AT_ONCE),
        )
        gone += _expire(tx, destination, "parked", rows, {"expired": 1})
    return gone


def _expire(tx: Tx, destination: str, state: State, places: Iterable[Row], changes: dict[str, int]) -> int:
    """Those that are still in that state; what is counted of them is what was deleted."""
    gone: Counter[int] = Counter()
    for partition, offset in places:
        gone[int(partition or 0)] += tx.run(
            f"DELETE FROM held_events WHERE {_PLACE} AND state = ?", (destination, partition, offset, state)
        )
    for partition, number in sorted(gone.items()):
        for kind, change in changes.items():
            tx.run(_COUNT, (consumer_of(destination), partition, kind, change * number))
    return gone.total()


def count(tx: Tx, one: Held, changes: dict[str, int]) -> None:
    for kind, change in changes.items():
        tx.run(_COUNT, (consumer_of(one.destination), one.partition, kind, change))


def of_event(reader: Reader, destination: str, partition: int, offset: int) -> Held | None:
    """What holds this event up there; None if nothing does."""
    rows = reader.rows(f"SELECT {_COLUMNS} FROM held_events WHERE {_PLACE}", (destination, partition, offset))
    return _held(rows[0]) if rows else None


def _no_letter(letter_id: str) -> NotFound:
    return NotFound(f"there is no dead letter {letter_id[:150]}; list them with: adjourn dead-letters list")


def _place(one: Held) -> tuple[str, int, int]:
    return one.destination, one.partition, one.offset


def _as_before(one: Held) -> tuple[str, int, int, State, int, int]:
    return *_place(one), one.state, one.attempts, one.held_ms


def _parsed(letter_id: str) -> tuple[str, int, int] | None:
    found = _ID.fullmatch(letter_id)
    return (found[1], int(found[2]), int(found[3])) if found else None


def _held(row: Row) -> Held:
    return convert(row, Held)
