"""The contract of a destination: where events are routed. `adjourn.testing.exercise_destination` is its suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from adjourn.events import StoredEvent


class Batch(msgspec.Struct, frozen=True):
    """Events of one partition, in order. A resent batch has the same id and the same events."""

    id: str
    events: Sequence[StoredEvent]


BEHIND = "behind"


class Refusal(msgspec.Struct, frozen=True):
    """One event that the destination will not take, while it takes others. `index` is its place in the batch.

    `permanent` refusals are not tried again. What is refused for now is tried alone, later; the later events of its
    session in the batch are not delivered before it: they are refused for now as well, with the code `BEHIND`."""

    index: int
    code: str
    reason: str
    permanent: bool = True


class Destination(Protocol):
    """An outage is the destination's, a refusal is the event's: `send` raises `DestinationOutage` when nothing can
    be said of single events, and returns refusals, by rising index, for those that it will not take. What it did not
    refuse is durable there when `send` returns. Sending a batch again changes nothing. Batches of one partition come
    one after another, those of several partitions at once."""

    async def open(self) -> None:
        """Prepare (connect, create and migrate tables, open files). Raises DestinationOutage. Idempotent."""
        ...

    async def send(self, batch: Batch) -> Sequence[Refusal]: ...

    async def probe(self) -> None:
        """Reach the destination without leaving a session's event there; what must send something sends it marked as a
        probe. Raises DestinationOutage with fact and remedy."""
        ...

    async def close(self) -> None:
        """Release everything. Idempotent, complete on return."""
        ...
