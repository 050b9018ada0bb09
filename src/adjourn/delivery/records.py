"""Delivery records: for each stretch of the log that a destination dealt with, when, in how many attempts, and what
became of each event. Stretches that follow one another closely share a row, so that single deliveries cost no table."""

from __future__ import annotations

import msgspec

from adjourn.database import Reader, Tx
from adjourn.delivery import fates
from adjourn.typed import convert

JOIN_MS = 1_000
JOIN_BYTES = 2_000
JOIN_EVENTS = 20_000
REACH_EVENTS = 200_000
"""How far back the row of an event may begin; more than any batch is long."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Events [first_offset, next_offset) of one partition. `fates`: see `adjourn.delivery.fates`."""

    destination: str
    partition: int
    first_offset: int
    next_offset: int
    attempts: int
    began_ms: int
    settled_ms: int
    fates: bytes

    def fate_of(self, offset: int) -> fates.Fate:
        return fates.fate_at(self.fates, offset - self.first_offset)


def joined(last: Record | None, new: Record) -> Record | None:
    """One record for both, where `new` goes on right behind `last`, soon, and alike; else None."""
    if (
        last is None
        or last.next_offset != new.first_offset
        or last.attempts != new.attempts
        or new.settled_ms - last.began_ms > JOIN_MS
        or len(last.fates) > JOIN_BYTES
        or new.next_offset - last.first_offset > JOIN_EVENTS
    ):
        return None
    return msgspec.structs.replace(
        last, next_offset=new.next_offset, settled_ms=new.settled_ms, fates=fates.joined(last.fates, new.fates)
    )


def write(tx: Tx, last: Record | None, new: Record) -> None:
    """Write `new`, in the row of `last` if the two can be joined: not where that row is gone, or tells something else
    by now, as when its only event was parked and has been dealt with."""
    both = joined(last, new)
    extended = 0
    if both is not None and last is not None:
        extended = tx.run(
            "UPDATE delivery_records SET next_offset = ?, settled_ms = ?, fates = ? "
            "WHERE destination = ? AND partition = ? AND first_offset = ? AND next_offset = ? AND fates = ?",
            (
                both.next_offset,
                both.settled_ms,
                both.fates,
                last.destination,
                last.partition,
                last.first_offset,
                last.next_offset,
                last.fates,
            ),
        )
    if not extended:
        tx.run(
            "INSERT INTO delivery_records (destination, partition, first_offset, next_offset, attempts, began_ms, "
            "settled_ms, fates) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (destination, partition, first_offset, "
            "next_offset) DO UPDATE SET attempts = excluded.attempts, began_ms = excluded.began_ms, "
            "settled_ms = excluded.settled_ms, fates = excluded.fates",
            msgspec.structs.astuple(new),
        )


def of_event(reader: Reader, destination: str, partition: int, offset: int) -> Record | None:
    """The record of an event: one of its own, if it was parked and dealt with since, else that of its stretch."""
    rows = reader.rows(
        "SELECT destination, partition, first_offset, next_offset, attempts, began_ms, settled_ms, fates "
        "FROM delivery_records WHERE destination = ? AND partition = ? AND first_offset <= ? AND first_offset > ? "
        "AND next_offset > ? ORDER BY first_offset DESC, next_offset LIMIT 1",
        (destination, partition, offset, offset - REACH_EVENTS, offset),
    )
    return convert(rows[0], Record) if rows else None


def forget_retained(tx: Tx) -> int:
    """Delete the records of what the log does not hold any more; how many went."""
    return tx.run(
        "DELETE FROM delivery_records WHERE next_offset <= "
        "(SELECT tail_offset FROM log_heads h WHERE h.partition = delivery_records.partition)"
    )


def forget(tx: Tx, destination: str, since_ms: int) -> int:
    """Delete a destination's records from before `since_ms`; how many went."""
    return tx.run("DELETE FROM delivery_records WHERE destination = ? AND settled_ms < ?", (destination, since_ms))
