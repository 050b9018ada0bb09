"""Where an event is, for each destination: read from the cursors, from what is held, and from the delivery records."""

from __future__ import annotations

from typing import Literal

import msgspec

from adjourn.database import Reader
from adjourn.delivery import held, records
from adjourn.delivery.conservation import CONSUMER_PREFIX

Place = Literal[
    "pending",
    "retrying",
    "delivered",
    "filtered",
    "sampled_out",
    "dead_lettered",
    "discarded",
    "expired",
    "lost",
    "settled",
]

_PLACES: dict[str, Place] = {"d": "delivered", "f": "filtered", "s": "sampled_out", "c": "discarded", "l": "lost"}


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """`settled`: it is done with, and how was deleted by age (`retention_days`). `attempts` of a delivered event are
    those of its batch; 0 where nothing was tried. `next_ms`: when a retrying one is tried again."""

    destination: str
    place: Place
    attempts: int = 0
    since_ms: int | None = None
    next_ms: int | None = None
    code: str = ""
    reason: str = ""


def whereabouts(reader: Reader, partition: int, offset: int) -> list[Whereabouts]:
    """One for each destination that was ever configured, by name."""
    cursors = reader.rows("SELECT consumer, next_offset FROM cursors WHERE partition = ? ORDER BY 1", (partition,))
    found: list[Whereabouts] = []
    for consumer, position in cursors:
        name = str(consumer)
        if name.startswith(CONSUMER_PREFIX):
            name = name.removeprefix(CONSUMER_PREFIX)
            found.append(_at(reader, name, partition, offset, int(position or 0)))
    return found


def _at(reader: Reader, name: str, partition: int, offset: int, position: int) -> Whereabouts:
    waits = held.of_event(reader, name, partition, offset)
    if waits is not None:
        parked = waits.state == "parked"
        return Whereabouts(
            destination=name,
            place="retrying" if parked else "dead_lettered",
            attempts=waits.attempts_total,
            since_ms=waits.held_ms,
            next_ms=waits.next_ms if parked else None,
            code=waits.code,
            reason=waits.reason,
        )
    if offset >= position:
        return Whereabouts(destination=name, place="pending")
    record = records.of_event(reader, name, partition, offset)
    if record is None:
        return Whereabouts(destination=name, place="settled")
    fate = record.fate_of(offset)
    return Whereabouts(
        destination=name,
        place=_PLACES.get(fate, "expired"),  # it was a dead letter, and is none any more
        attempts=record.attempts if fate in "dc" else 0,
        since_ms=record.settled_ms,
    )
