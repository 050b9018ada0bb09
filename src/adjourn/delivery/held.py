"""Events that a destination holds up: parked ones, which are tried again alone, and dead letters, which are not.

A row is there exactly as long as the event is in neither of the other places: what is parked is pending, a dead letter
is counted as `dead_lettered` until it is redriven, discarded or deleted by age. Whole events are kept, as the log holds
them: it may be gone there by the time that somebody looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from adjourn.database import Reader, Row, Tx, Value
from adjourn.delivery import records
from adjourn.delivery.conservation import consumer_of
from adjourn.delivery.records import Record
from adjourn.errors import NotFound
from adjourn.events import StoredEvent

State = Literal["parked", "dead"]

_COLUMNS = (
    "destination, partition, event_offset, state, tenant, session_id, event_id, received_ms, cost_nanousd, price_ref, "
    "code, reason, attempts, held_ms, next_ms, body"
)
_INSERT = f"INSERT INTO held_events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ID = re.compile(r"([^:]+):([0-9]{1,9}):([0-9]{1,18})")
_PLACE = "destination = ? AND partition = ? AND event_offset = ?"
_AS_BEFORE = f"{_PLACE} AND state = ? AND attempts = ? AND held_ms = ?"
_COUNT = (
    "INSERT INTO consumer_counts (consumer, partition, kind, count) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (consumer, partition, kind) DO UPDATE SET count = consumer_counts.count + excluded.count"
)


class Held(msgspec.Struct, frozen=True, array_like=True):
    """`held_ms`: when it came here; `next_ms`: when a parked one may be tried again."""

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

    @property
    def id(self) -> str:
        return f"{self.destination}:{self.partition}:{self.offset}"

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


Place = tuple[int, str, int, int]
"""When a dead letter died, and its destination, partition and offset: by these they are in order."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters: every field that is given must fit. Times are when they died; `before` is a page's end."""

    tenant: str | None = None
    destination: str | None = None
    code: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    event_id: str | None = None


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
    return [msgspec.convert(row, Parked) for row in rows]


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
            f"UPDATE held_events SET state = ?, code = ?, reason = ?, attempts = ?, held_ms = ?, next_ms = ? "
            f"WHERE {_AS_BEFORE}",
            (one.state, one.code, one.reason, one.attempts, one.held_ms, one.next_ms, *_as_before(before)),
        )
    )


def release(tx: Tx, one: Held) -> bool:
    """False if it is not as `one` any more."""
    return bool(tx.run(f"DELETE FROM held_events WHERE {_AS_BEFORE}", _as_before(one)))


def select(reader: Reader, wanted: Wanted, *, before: str = "", limit: int) -> list[Held]:
    """Dead letters, newest first; `before` is the id of the last of the page before. Raises NotFound for such an id
    that is not there any more."""
    where, params = _where(wanted)
    if before:
        last = show(reader, wanted.tenant, before)
        where += " AND (held_ms, destination, partition, event_offset) < (?, ?, ?, ?)"
        params += [last.held_ms, *_place(last)]
    rows = reader.rows(
        f"SELECT {_COLUMNS} FROM held_events WHERE {where} "
        "ORDER BY held_ms DESC, destination DESC, partition DESC, event_offset DESC LIMIT ?",
        (*params, limit),
    )
    return [_held(row) for row in rows]


def places(reader: Reader, wanted: Wanted, *, behind: Place | None, limit: int) -> list[Place]:
    """Where dead letters are, newest first, without reading them: there may be many."""
    where, params = _where(wanted)
    if behind is not None:
        where += " AND (held_ms, destination, partition, event_offset) < (?, ?, ?, ?)"
        params += behind
    rows = reader.rows(
        f"SELECT held_ms, destination, partition, event_offset FROM held_events WHERE {where} "
        "ORDER BY held_ms DESC, destination DESC, partition DESC, event_offset DESC LIMIT ?",
        (*params, limit),
    )
    return [msgspec.convert(row, Place) for row in rows]


def place_of(reader: Reader, tenant: str | None, letter_id: str) -> Place:
    """Raises NotFound."""
    letter = show(reader, tenant, letter_id)
    return letter.held_ms, *_place(letter)


def dead(reader: Reader, found: Iterable[Place]) -> list[Held]:
    """Those that are dead letters still, whole, in the order of `found`."""
    sql = f"SELECT {_COLUMNS} FROM held_events WHERE state = 'dead' AND {_PLACE}"
    return [_held(row) for _, *place in found for row in reader.rows(sql, place)]


def show(reader: Reader, tenant: str | None, letter_id: str) -> Held:
    """One dead letter, whole. Raises NotFound."""
    place = _parsed(letter_id)
    rows = reader.rows(f"SELECT {_COLUMNS} FROM held_events WHERE state = 'dead' AND {_PLACE}", place) if place else []
    found = [_held(row) for row in rows]
    if not found or tenant not in (None, found[0].tenant):
        raise _no_letter(letter_id)
    return found[0]


def redrive(tx: Tx, tenant: str | None, letter_id: str, now_ms: int) -> Held:
    """Give a dead letter back to its destination: the same event, under the same id, with all its attempts anew.
    Raises NotFound."""
    letter = show(tx, tenant, letter_id)
    if not tx.rows("SELECT 1 FROM cursors WHERE consumer = ? AND live = 1", (consumer_of(letter.destination),)):
        raise NotFound(
            f"destination {letter.destination} is not configured any more; configure it again, or discard {letter.id}"
        )
    again = msgspec.structs.replace(letter, state="parked", attempts=0, held_ms=now_ms, next_ms=now_ms)
    if not tried(tx, letter, again):
        raise _no_letter(letter_id)
    count(tx, letter, {"dead_lettered": -1})
    return again


def discard(tx: Tx, tenant: str | None, letter_id: str, now_ms: int) -> Held:
    """Delete a dead letter for good; it is counted as discarded. Raises NotFound."""
    letter = show(tx, tenant, letter_id)
    if not release(tx, letter):
        raise _no_letter(letter_id)
    record = Record(
        letter.destination, letter.partition, letter.offset, letter.offset + 1, letter.attempts, now_ms, now_ms, b"c"
    )
    records.write(tx, None, record)
    count(tx, letter, {"dead_lettered": -1, "discarded": 1})
    return letter


def forget_letters(tx: Tx, destination: str, since_ms: int) -> int:
    """Delete a destination's dead letters from before `since_ms` (its `retention_days`); how many have expired."""
    dead = "destination = ? AND state = 'dead' AND held_ms < ?"
    gone = 0
    for (partition,) in tx.rows(f"SELECT DISTINCT partition FROM held_events WHERE {dead}", (destination, since_ms)):
        number = tx.run(f"DELETE FROM held_events WHERE {dead} AND partition = ?", (destination, since_ms, partition))
        for kind, change in (("dead_lettered", -number), ("expired", number)):
            tx.run(_COUNT, (consumer_of(destination), partition, kind, change))
        gone += number
    return gone


def count(tx: Tx, one: Held, changes: dict[str, int]) -> None:
    for kind, change in changes.items():
        tx.run(_COUNT, (consumer_of(one.destination), one.partition, kind, change))


def of_event(reader: Reader, partition: int, offset: int) -> list[Held]:
    """What holds this event up, at every destination."""
    rows = reader.rows(
        f"SELECT {_COLUMNS} FROM held_events WHERE partition = ? AND event_offset = ?", (partition, offset)
    )
    return [_held(row) for row in rows]


def _where(wanted: Wanted) -> tuple[str, list[Value]]:
    tests: list[tuple[str, Value]] = [
        ("tenant = ?", wanted.tenant),
        ("destination = ?", wanted.destination),
        ("code = ?", wanted.code),
        ("held_ms >= ?", wanted.since_ms),
        ("held_ms < ?", wanted.until_ms),
        ("event_id = ?", wanted.event_id),
    ]
    given = [(test, value) for test, value in tests if value is not None]
    return " AND ".join(["state = 'dead'", *(test for test, _ in given)]), [value for _, value in given]


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
    return msgspec.convert(row, Held)
