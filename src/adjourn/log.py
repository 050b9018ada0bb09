"""The contract of the log: append-only, partitioned, read by consumers that each keep a cursor.

Appending is the database's last step in a batch (`adjourn.database.Appender`); this is the reading side.
`adjourn.testing.exercise_log` is the suite, `exercise_tail` that of `Tail`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from adjourn.database import Tx
from adjourn.events import StoredEvent


class Lost(msgspec.Struct, frozen=True):
    """A stretch of the log that cannot be read: its block fails its checksum."""

    partition: int
    first_offset: int
    count: int
    reason: str


class Slice(msgspec.Struct, frozen=True):
    """A stretch of one partition. `next_offset` is where to go on; it is beyond `events` where blocks were lost."""

    events: Sequence[StoredEvent]
    next_offset: int
    lost: Sequence[Lost] = ()


class Lease(msgspec.Struct, frozen=True):
    """The right to run a role, at an epoch that every write made under it is fenced with."""

    name: str
    owner: str
    epoch: int


class Tail(Protocol):
    """The end of the log, as the process knows it that appends there."""

    @property
    def appended(self) -> int:
        """Changes whenever this process appends."""
        ...

    async def arrived(self, timeout_s: float, *, since: int | None = None) -> None:
        """Return when something may have been appended, or after the timeout. A hint: polling alone is correct.
        `since`: what `appended` was before the log was read, so that nothing is missed in between."""
        ...

    def at_hand(self, partition: int, offset: int) -> Slice | None:
        """What this process has just appended, from `offset` on, without asking the database; None: not known here."""
        ...


class Log(Tail, Protocol):
    """Events in partitions: ordered in each, at offsets that never change. Only what is committed is read. What reads
    or deletes raises Unavailable when the database cannot be reached."""

    async def read(self, partition: int, offset: int, *, count: int) -> Slice:
        """Events from `offset` on, in order, whole blocks at a time until there are `count` (a block is decoded once,
        so it is not cut); empty at the head. Below the tail it starts at the tail."""
        ...

    async def find(self, tenant: str, event_id: str) -> StoredEvent | None:
        """One event of a tenant by its id, newest first. Raises Unavailable where that would take too long: an index
        that it needs is not complete yet."""
        ...

    async def find_all(
        self, partition: int, tenant: str, event_ids: Collection[str], *, since_ms: int = 0
    ) -> Mapping[str, StoredEvent]:
        """Those of a tenant's events that one partition holds, by their ids; no farther back than what was received
        since."""
        ...

    async def heads(self) -> Sequence[int]:
        """The next offset of each partition; offsets are dense, so the sum is how many were ever appended."""
        ...

    async def cursor(self, consumer: str, partition: int) -> int:
        """Where a consumer goes on: the first offset that it has not dealt with."""
        ...

    def advance(self, tx: Tx, consumer: str, partition: int, offset: int, counts: Mapping[str, int]) -> None:
        """Move a cursor to `offset` and add to the consumer's counts, in the transaction of the effect."""
        ...

    async def retain(self, *, age_ms_max: int | None, bytes_max: int | None) -> int:
        """Delete the oldest blocks past a limit that every live cursor has passed; how many events went."""
        ...


class Leases(Protocol):
    """Which node runs a role. A holder is judged dead by each observer's monotonic clock, when its counter stands still
    for `LEASE_MS`; never by wall time, so that a clock step expires nothing."""

    async def take(self, name: str) -> Lease | None:
        """Take, keep or renew a role; None while another holder still beats. Call it several times per `LEASE_MS`."""
        ...

    async def release(self, name: str) -> None:
        """Give a role up, so that another may take it at once. Idempotent."""
        ...
