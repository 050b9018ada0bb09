"""The contract of the database: two verbs, `read` and `write`, over SQLite or PostgreSQL.

A **lane** is one thread with one connection. It takes every write that is waiting, runs them in one transaction,
commits once, and only then resolves their futures (group commit; no timers: the next batch gathers while the last one
commits).

What a function handed to `write` must keep to:

- it is a function of `tx` alone: no I/O, no waiting, nothing outside touched; it may run more than once;
- it never locks rows that other sessions share: it calls `tx.debit`, which the lane applies at the batch's end;
- it appends events with `tx.append`; what became of them is known when `write` returns, not before.

SQL is written with `?` for parameters on both databases. `adjourn.testing.exercise_database` is the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, Protocol, TypeVar

import msgspec

from adjourn.events import Record

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement

P = ParamSpec("P")
T = TypeVar("T")

Dialect = Literal["sqlite", "postgresql"]
Value = str | bytes | int | float | None
Row = tuple[Value, ...]
Verdict = Literal["accepted", "duplicate", "conflict"]

LEASE_MS = 10_000
"""How long a node's counter may stand still before others take what it holds."""


class Fence(msgspec.Struct, frozen=True):
    """The write holds only while lease `name` is at `epoch`; otherwise it fails with `Fenced` and changes nothing."""

    name: str
    epoch: int


class Appended(msgspec.Struct):
    """What became of the records of one `tx.append`; complete when the write that held it has returned."""

    records: Sequence[Record]
    producer: str = ""
    partition: int = 0
    first_offset: int = -1
    """Accepted records have consecutive offsets from here."""
    verdicts: list[Verdict] | None = None
    """One for each record; None means that every one was accepted."""


class Reader(Protocol):
    """What a function handed to `read` sees. Rows are tuples of str, bytes, int, float or None."""

    @property
    def dialect(self) -> Dialect: ...

    def rows(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> list[Row]:
        """Run SQL text (with `?`) or a SQLAlchemy Core statement, and fetch everything."""
        ...


class Tx(Reader, Protocol):
    """What a function handed to `write` sees: a transaction that it shares with the rest of its batch."""

    def run(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> int:
        """Run a statement; the number of rows that it changed."""
        ...

    def append(self, records: Sequence[Record], *, producer: str = "") -> Appended:
        """Put events into the log at the batch's end. `producer`: known sender, exact by `Record.sequence`."""
        ...

    def debit(self, account: str, amount: int, *, forced: bool = False) -> None:
        """Take `amount` from an account at the batch's end (negative: give). Refused: the write fails with
        `DebitRefused`, and the rest of the batch goes on. Only taking is refused, where less than nothing would be left
        (what the same write gives, or forces, counts first) or there is no such account; `forced`: only that."""
        ...

    def attempt(self) -> AbstractContextManager[None]:
        """A nested savepoint: an error inside undoes what was done inside, and passes on."""
        ...


class Appender(Protocol):
    """The log's part in a batch; the lane calls it, in its own thread."""

    def append(self, tx: Tx, partition: int, pending: Sequence[Appended]) -> None:
        """Last before COMMIT: judge, number and write all that the batch appended. May run again for one batch."""
        ...

    def committed(self, partition: int) -> None:
        """The last `append` is durable: memory may follow."""
        ...

    def discarded(self, partition: int) -> None:
        """The last `append` did not happen: forget it."""
        ...


class Health(msgspec.Struct, frozen=True):
    """`ok`: writes commit. `waiting_events`: queued and running. `detail`: fact and remedy when not ok."""

    ok: bool
    dialect: Dialect
    waiting_events: int
    queue_events_max: int
    detail: str = ""


class Finding(msgspec.Struct, frozen=True):
    """One thing that `check` found wrong. `saved`: what can still be read, or how to mend it."""

    what: str
    saved: str


class Database(Protocol):
    """One database and its lanes. `partitions` is the number of lanes, fixed when the database is made."""

    @property
    def partitions(self) -> int: ...

    async def open(self, appender: Appender) -> None:
        """Connect, migrate, start the lanes. Raises DatabaseTooNew, DatabaseCorrupt, Unavailable."""
        ...

    async def close(self, timeout_s: float | None = None) -> None:
        """Finish what is queued, stop, release. Idempotent, complete on return. What is not written after `timeout_s`
        (by default, what one write may take) is given up, and its callers are told."""
        ...

    async def read(self, fn: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn(reader, …)` on a reader's connection, in its own thread. Raises Unavailable."""
        ...

    async def write(
        self, fn: Callable[..., T], *args: object, key: str = "", fence: Fence | None = None, weight: int = 1
    ) -> T:
        """Run `fn(tx, …)` in a transaction; returns its value after COMMIT. `key` (the root session) chooses the lane;
        `weight` is how many events it brings. Raises what `fn` raises, TooBusy, Unavailable, StorageFull, Fenced,
        DebitRefused. Cancelling the caller neither undoes the write nor hangs its batch."""
        ...

    def partition_of(self, key: str) -> int:
        """Which lane, and so which partition of the log, a key belongs to."""
        ...

    def health(self) -> Health: ...
