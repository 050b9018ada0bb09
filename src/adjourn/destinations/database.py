"""The `database` destination: one row a completion, in a table of SQLite or PostgreSQL that anyone can query. Changes
of status, where they are wanted, have a table of their own beside it.

The primary key is (tenant, session_id, event_id) and inserts do nothing on conflict: a batch may be sent again at will.
What a batch has for a table is one transaction. An event that the database refuses is isolated by halving; the rest of
its batch is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ParamSpec, Protocol, TypeVar

from adjourn.destination import Batch, Refusal
from adjourn.destinations.database_rows import COMPLETIONS, STATUS_CHANGES, STATUS_SUFFIX, Row, Shape, rows
from adjourn.destinations.database_sqlite import SqliteTable
from adjourn.destinations.worker import Worker
from adjourn.errors import ConfigInvalid, DestinationOutage, ExtraMissing

P = ParamSpec("P")
T = TypeVar("T")

# PostgreSQL cuts names at 63 characters, and the longest suffix of an index takes seven.
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,55}")


class Table(Protocol):
    """One connection to one table. All calls but `interrupt` come from one thread; errors are the driver's own."""

    guard: AbstractContextManager[object]
    """Held while the connection is used: a fork waits for it."""

    def open(self) -> None:
        """Connect if not connected; create or migrate the table if it is not of TABLE_VERSION."""
        ...

    def transaction(self) -> AbstractContextManager[object]: ...

    def savepoint(self) -> AbstractContextManager[object]: ...

    def insert(self, rows: Sequence[Row]) -> None: ...

    def probe(self) -> None: ...

    def close(self) -> None: ...

    def interrupt(self) -> None:
        """From another thread: make the running call fail."""
        ...

    def judge(self, error: Exception) -> Refusal | DestinationOutage | None:
        """Whose fault a driver's error is: the event's, the database's, or (None) a bug. A refusal's index is 0."""
        ...


class DatabaseDestination:
    """`connection_string`: `sqlite:///file.db`, a plain path, or `postgresql://…` (needs the extra `postgres`)."""

    def __init__(
        self,
        *,
        name: str,
        connection_string: str,
        table: str,
        timeout_ms: int = 60_000,
        status_changes: bool = False,
    ) -> None:
        """`status_changes`: it is to receive some, so that their table is made at once, and not with the first."""
        if not _TABLE_NAME.fullmatch(table):
            raise ConfigInvalid(
                f"destination '{name}': {table!r} cannot be a table's name; use up to 56 letters, digits and "
                "underscores, beginning with no digit",
                path="table",
            )
        self._completions = _connect_to(name, connection_string, table, COMPLETIONS)
        self._status_changes = _connect_to(name, connection_string, table + STATUS_SUFFIX, STATUS_CHANGES)
        self._wanted = [self._completions, *([self._status_changes] if status_changes else [])]
        self._in_use = self._completions
        self._worker = Worker(name, timeout_s=timeout_ms / 1000, interrupt=lambda: self._in_use.interrupt())

    async def open(self) -> None:
        await self._worker.run(self._at_rest_for_forks, self._open)

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        return await self._worker.run(self._at_rest_for_forks, self._send, batch)

    async def probe(self) -> None:
        await self._worker.run(self._at_rest_for_forks, self._probe)

    async def close(self) -> None:
        await self._worker.stop(self._close)

    def _at_rest_for_forks(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._completions.guard, self._status_changes.guard:
            return fn(*args, **kwargs)

    def _send(self, batch: Batch) -> list[Refusal]:
        found = rows(batch.events)
        with self._using(self._completions) as table:
            found.refusals.extend(store(table, found.completions))
        if found.status_changes:
            with self._using(self._status_changes) as table:
                found.refusals.extend(store(table, found.status_changes))
        return sorted(found.refusals, key=lambda refusal: refusal.index)

    def _open(self) -> None:
        for table in self._wanted:
            with self._using(table):
                continue

    def _probe(self) -> None:
        for table in self._wanted:
            with self._using(table):
                table.probe()

    def _close(self) -> None:
        self._completions.close()
        self._status_changes.close()

    @contextmanager
    def _using(self, table: Table) -> Generator[Table]:
        self._in_use = table
        try:
            table.open()
            yield table
        except Exception as error:
            raise self._failed(table, error) from error

    def _failed(self, table: Table, error: Exception) -> Exception:
        # After any failure the connection's state is unknown: the next call begins with a new one.
        table.close()
        verdict = error if isinstance(error, DestinationOutage) else table.judge(error)
        if isinstance(verdict, Refusal):
            return DestinationOutage(f"{verdict.reason}; the whole batch is sent again")
        return verdict or error


def store(table: Table, readable: Sequence[tuple[int, Row]]) -> list[Refusal]:
    """Insert the rows in one transaction; those that the database will not have come back as refusals."""
    if not readable:
        return []
    refusals = _store_whole(table, readable, table.transaction())
    if refusals is None:
        with table.transaction():
            return _store_by_halves(table, readable)
    return refusals


def _store_by_halves(table: Table, readable: Sequence[tuple[int, Row]]) -> list[Refusal]:
    """More rows than one, within a transaction: each bad one costs about 2·log2(n) statements, and the good ones are
    never in doubt."""
    middle = len(readable) // 2
    refusals: list[Refusal] = []
    for half in (readable[:middle], readable[middle:]):
        found = _store_whole(table, half, table.savepoint())
        refusals += _store_by_halves(table, half) if found is None else found
    return refusals


def _store_whole(
    table: Table, readable: Sequence[tuple[int, Row]], undone: AbstractContextManager[object]
) -> list[Refusal] | None:
    """All or nothing; None where one of several rows is bad. An error undoes what was done within `undone`."""
    try:
        with undone:
            table.insert([row for _, row in readable])
        return []
    except Exception as error:
        verdict = table.judge(error)
        if not isinstance(verdict, Refusal):
            raise
        return [_at(readable[0][0], verdict)] if len(readable) == 1 else None


def _at(index: int, verdict: Refusal) -> Refusal:
    return Refusal(index=index, code=verdict.code, reason=verdict.reason, permanent=verdict.permanent)


def _connect_to(name: str, connection_string: str, table: str, shape: Shape) -> Table:
    scheme, separator, rest = connection_string.partition("://")
    if separator and scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        try:
            from adjourn.destinations.database_postgres import PostgresTable
        except ImportError as error:
            raise ExtraMissing(
                f"destination '{name}' writes to PostgreSQL, which needs psycopg; pip install 'adjourn[postgres]'"
            ) from error
        return PostgresTable(name, f"postgresql://{rest}", table, shape)
    if separator and scheme != "sqlite":
        # The string itself may hold a password: only its scheme is repeated.
        raise ConfigInvalid(
            f"destination '{name}': no database is known for '{scheme}://'; use sqlite:///… or postgresql://…",
            path="connection_string",
        )
    path = rest.removeprefix("/") if separator else connection_string
    if path in ("", ":memory:"):
        raise ConfigInvalid(
            f"destination '{name}': a database in memory would lose every event; name a file, as in sqlite:///out.db",
            path="connection_string",
        )
    return SqliteTable(name, path, table, shape)
