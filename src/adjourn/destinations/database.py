"""The `database` destination: one row a completion, in a table of SQLite or PostgreSQL that anyone can query.

The primary key is (tenant, session_id, event_id) and inserts do nothing on conflict: a batch may be sent again at will.
A batch is one transaction. An event that the database refuses is isolated by halving; the rest of its batch is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ParamSpec, Protocol, TypeVar

from adjourn.destination import Batch, Refusal
from adjourn.destinations.database_rows import Row, rows
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

    def __init__(self, *, name: str, connection_string: str, table: str, timeout_ms: int = 60_000) -> None:
        if not _TABLE_NAME.fullmatch(table):
            raise ConfigInvalid(
                f"destination '{name}': {table!r} cannot be a table's name; use up to 56 letters, digits and "
                "underscores, beginning with no digit",
                path="table",
            )
        self._table = _connect_to(name, connection_string, table)
        self._worker = Worker(name, timeout_s=timeout_ms / 1000, interrupt=self._table.interrupt)

    async def open(self) -> None:
        await self._worker.run(self._at_rest_for_forks, self._guarded_open)

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        return await self._worker.run(self._at_rest_for_forks, self._send, batch)

    async def probe(self) -> None:
        await self._worker.run(self._at_rest_for_forks, self._probe)

    async def close(self) -> None:
        await self._worker.stop(self._table.close)

    def _at_rest_for_forks(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._table.guard:
            return fn(*args, **kwargs)

    def _send(self, batch: Batch) -> list[Refusal]:
        readable, refusals = rows(batch.events)
        try:
            self._table.open()
            refusals += store(self._table, readable)
        except Exception as error:
            raise self._failed(error) from error
        return sorted(refusals, key=lambda refusal: refusal.index)

    def _guarded_open(self) -> None:
        try:
            self._table.open()
        except Exception as error:
            raise self._failed(error) from error

    def _probe(self) -> None:
        try:
            self._table.open()
            self._table.probe()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> Exception:
        # After any failure the connection's state is unknown: the next call begins with a new one.
        self._table.close()
        verdict = error if isinstance(error, DestinationOutage) else self._table.judge(error)
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


def _connect_to(name: str, connection_string: str, table: str) -> Table:
    scheme, separator, rest = connection_string.partition("://")
    if separator and scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        try:
            from adjourn.destinations.database_postgres import PostgresTable
        except ImportError as error:
            raise ExtraMissing(
                f"destination '{name}' writes to PostgreSQL, which needs psycopg; pip install 'adjourn[postgres]'"
            ) from error
        return PostgresTable(name, f"postgresql://{rest}", table)
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
    return SqliteTable(name, path, table)
