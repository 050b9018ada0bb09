"""Dead letters: events that one destination would not take; kept whole, with the reason, for someone to look at."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adjourn.database import Tx
from adjourn.destination import Refusal
from adjourn.events import StoredEvent, decode_identity


class DeadLetter(msgspec.Struct, frozen=True):
    destination: str
    partition: int
    offset: int
    tenant: str
    event_id: str
    code: str
    reason: str
    attempts: int
    dead_ms: int
    body: bytes

    @classmethod
    def of(cls, destination: str, event: StoredEvent, refusal: Refusal, attempts: int, now_ms: int) -> DeadLetter:
        return cls(
            destination,
            event.partition,
            event.offset,
            event.tenant,
            decode_identity(event.body).event_id,
            refusal.code,
            refusal.reason,
            attempts,
            now_ms,
            event.body,
        )


def bury(tx: Tx, letters: Sequence[DeadLetter]) -> None:
    for letter in letters:
        tx.run(
            "INSERT INTO dead_letters (destination, partition, event_offset, tenant, event_id, code, reason, attempts, "
            "dead_ms, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (destination, partition, event_offset) "
            "DO NOTHING",
            msgspec.structs.astuple(letter),
        )


def forget_letters(tx: Tx, destination: str, since_ms: int) -> int:
    """Delete a destination's dead letters from before `since_ms` (its `retention_days`); how many went."""
    return tx.run("DELETE FROM dead_letters WHERE destination = ? AND dead_ms < ?", (destination, since_ms))
