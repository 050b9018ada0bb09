"""Which events a destination wants, and in which shape. Pure: the same event gives the same answer on every node and on
every replay of one configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import msgspec

from adjourn.delivery.fates import Fate
from adjourn.errors import ShapingFailed
from adjourn.events import COMPLETION_TYPES, EVENT_TYPES, StoredEvent, decode_identity, event_type_of, is_status_changed
from adjourn.log import Slice

ALL = "*"
"""In the list of the types that a destination wants: every one, those of later versions too."""

Session = tuple[str, str]
"""(tenant, session id)"""


Wants = Callable[[bytes], bool]
"""Whether an event is of a type that a destination wants, told from its body."""


class Shapes(Protocol):
    """A filter and a transform; `adjourn.delivery.transform` makes them."""

    def shape(self, event: StoredEvent) -> StoredEvent | None:
        """What the destination gets; None where it does not want the event. Raises ShapingFailed."""
        ...


class Routed(msgspec.Struct):
    """A stretch of the log, as one destination sees it. `fates` has a letter for every event; those that are to be sent
    are `d`, and lie in `wanted` as the log holds them and in `shaped` as they are sent."""

    fates: list[Fate]
    wanted: list[StoredEvent]
    shaped: list[StoredEvent]
    failed: list[tuple[StoredEvent, str]]
    """`x` already: what their filter or transform fails on, and why."""
    behind: list[StoredEvent]
    """`p` already: an earlier event of their session is parked."""

    def extend(self, more: Routed) -> None:
        for field in self.__struct_fields__:
            getattr(self, field).extend(getattr(more, field))


def nothing_routed() -> Routed:
    return Routed([], [], [], [], [])


def pieces(found: Slice, cursor: int, size: int) -> list[Slice]:
    """A stretch of the log that begins at `cursor`, cut into batches of `size`; each loss stays in its own piece."""
    events = found.events
    pieces: list[Slice] = []
    for start in range(0, max(1, len(events)), size):
        end = events[start + size].offset if start + size < len(events) else found.next_offset
        lost = [lost for lost in found.lost if cursor <= lost.first_offset < end]
        pieces.append(Slice(events[start : start + size], end, lost))
        cursor = end
    return pieces


def wants_of(types: Sequence[str]) -> Wants | None:
    """None: all that there are. The types that senders send need no decoding to be told from the others."""
    wanted = frozenset(types)
    if ALL in wanted or wanted.issuperset(EVENT_TYPES):
        return None
    if wanted == frozenset(COMPLETION_TYPES):
        return lambda body: not is_status_changed(body)
    return lambda body: event_type_of(body) in wanted


def route(
    events: Sequence[StoredEvent],
    *,
    shapes: Shapes | None,
    sampling_rate: float,
    waiting: AbstractSet[Session],
    wants: Wants | None = None,
) -> Routed:
    """`waiting`: sessions of which an earlier event is parked; theirs may not overtake it. `wants` None: every type."""
    if shapes is None and sampling_rate >= 1.0 and not waiting:
        wanted = list(events) if wants is None else [event for event in events if wants(event.body)]
        fates = _fates(events, wanted)
        return Routed(fates, wanted, list(wanted), [], [])
    routed = nothing_routed()
    for event in events:
        if wants is not None and not wants(event.body):
            routed.fates.append("f")
        else:
            routed.fates.append(_route_one(routed, event, shapes, sampling_rate, waiting))
    return routed


def _fates(events: Sequence[StoredEvent], wanted: Sequence[StoredEvent]) -> list[Fate]:
    if len(wanted) == len(events):
        return ["d"] * len(events)
    sent = {event.offset for event in wanted}
    return ["d" if event.offset in sent else "f" for event in events]


def _route_one(
    routed: Routed, event: StoredEvent, shapes: Shapes | None, rate: float, waiting: AbstractSet[Session]
) -> Fate:
    session_id = "" if rate >= 1.0 and not waiting else decode_identity(event.body).session.session_id
    try:
        shaped = event if shapes is None else shapes.shape(event)
    except ShapingFailed as error:
        routed.failed.append((event, error.message))
        return "x"
    if shaped is None:
        return "f"
    if rate < 1.0 and not sampled(session_id, rate):
        return "s"
    if waiting and (event.tenant, session_id) in waiting:
        routed.behind.append(event)
        return "p"
    routed.wanted.append(event)
    routed.shaped.append(shaped)
    return "d"


def sampled(session_id: str, rate: float) -> bool:
    """By session: a sample holds whole sessions, the same ones at every destination, and more at higher rates."""
    point = int.from_bytes(hashlib.blake2b(session_id.encode(), digest_size=8).digest(), "big")
    return point < rate * 2**64
