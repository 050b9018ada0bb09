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


class Refusal(msgspec.Struct, frozen=True):
    """One event that the destination will not take, while it takes others. `index` is its place in the batch.

    `permanent` refusals are not tried again."""

    index: int
    code: str
    reason: str
    permanent: bool = True


class Destination(Protocol):
    """An outage is the destination's, a refusal is the event's: `send` raises `DestinationOutage` when nothing can
    be said of single events, and returns refusals for those that it will not take. What it did not refuse is
    durable there when `send` returns. Sending a batch again changes nothing."""

    async def open(self) -> None:
        """Prepare (connect, create and migrate tables, open files). Raises DestinationOutage. Idempotent."""
        ...

    async def send(self, batch: Batch) -> Sequence[Refusal]: ...

    async def probe(self) -> None:
        """Reach the destination without leaving an event there. Raises DestinationOutage with fact and remedy."""
        ...

    async def close(self) -> None:
        """Release everything. Idempotent, complete on return."""
        ...
