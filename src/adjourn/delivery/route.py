"""Which events a destination wants. Pure: the same event gives the same answer on every node and on every replay."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from adjourn.events import StoredEvent, decode_identity
from adjourn.log import Slice


class Routed(msgspec.Struct, frozen=True):
    """A stretch of the log, as one destination sees it. Every event is in `wanted` or counted in `sampled_out`."""

    wanted: list[StoredEvent]
    sampled_out: int


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


def route(events: Sequence[StoredEvent], *, sampling_rate: float) -> Routed:
    if sampling_rate >= 1.0:
        return Routed(list(events), 0)
    wanted = [event for event in events if sampled(decode_identity(event.body).session.session_id, sampling_rate)]
    return Routed(wanted, len(events) - len(wanted))


def sampled(session_id: str, rate: float) -> bool:
    """By session: a sample holds whole sessions, the same ones at every destination, and more at higher rates."""
    point = int.from_bytes(hashlib.blake2b(session_id.encode(), digest_size=8).digest(), "big")
    return point < rate * 2**64
