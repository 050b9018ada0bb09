"""A table of events in an SQLite file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path

from adjourn.destination import Refusal
from adjourn.destinations.database_rows import (
    COMPLETIONS,
    ON_CONFLICT,
    PRIMARY_KEY,
    TABLE_VERSION,
    Row,
    Shape,
)
from adjourn.errors import DestinationOutage
from adjourn.forks import Guard

BUSY_TIMEOUT_MS = 5_000
CHECKPOINT_PAGES = 16_000
"""64 MiB. The key's index is written in random places: the longer the log, the more often a page is written once for
many rows."""

# sqlite3 lets go of the GIL and takes it back for every statement, and against a busy event loop each return costs a
# switch interval: 500 statements took 160 ms, one of 256 rows and the few that follow take 17. Fixed sizes keep
# the statements in the driver's cache.
_ROWS_PER_STATEMENT = (256, 64, 16, 4, 1)

_TYPES = {"text": "TEXT", "integer": "INTEGER", "time": "TEXT", "json": "TEXT"}

# Exact at any size: text made of integers, never of a float. Virtual: computed when read, free to write.
_COST_USD = (
    "cost_usd TEXT GENERATED ALWAYS AS (CASE WHEN cost_nanousd < 0 THEN '-' ELSE '' END"
    " || abs(cost_nanousd / 1000000000) || '.' || substr('00000000' || abs(cost_nanousd % 1000000000), -9)) VIRTUAL"
)

_REMEDIES = {
    "SQLITE_BUSY": "another process holds its lock; end that process's long transaction",
    "SQLITE_LOCKED": "another connection holds its lock; end that connection's long transaction",
    "SQLITE_FULL": "free some space on its disk",
    "SQLITE_READONLY": "give Adjourn's user write permission on the file and its directory",
    "SQLITE_PERM": "give Adjourn's user write permission on the file and its directory",
    "SQLITE_AUTH": "give Adjourn's user write permission on the file and its directory",
    "SQLITE_CANTOPEN": "check that its directory exists and that Adjourn's user may write there",
    "SQLITE_IOERR": "check its disk: space, quota, and the kernel's log",
    "SQLITE_CORRUPT": "restore it from a backup, or move it away and a new one is begun",
    "SQLITE_NOTADB": "it is not an SQLite file; name another",
    "SQLITE_INTERRUPT": "it took too long; check its disk",
    "SQLITE_ERROR": "the table or a column was altered or dropped; restore it (a missing table is created again)",
}


_of_parent: list[sqlite3.Connection] = []
"""Kept from the collector, in a child."""


class SqliteTable:
    def __init__(self, name: str, path: str, table: str, shape: Shape = COMPLETIONS) -> None:
        self._shape = shape
        self._inserts: dict[int, str] = {}
        self.busy_timeout_ms = BUSY_TIMEOUT_MS
        self._name = name
        self._path = path
        self._name_of_table = table
        self._table = f'"{table}"'
        self._meta = f'"{table}_meta"'
        self._connection: sqlite3.Connection | None = None
        self.guard: AbstractContextManager[object] = Guard(self.close, self._forget)
        self._inode = 0

    def open(self) -> None:
        if self._connection is not None and self._inode != _inode(self._path):
            # Moved or deleted behind our back: rows written through the old handle would go where nobody looks.
            self.close()
        if self._connection is not None:
            return
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._connection = connection
        connection.execute(f"PRAGMA busy_timeout = {self.busy_timeout_ms}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._migrate(connection)
        self._inode = _inode(self._path)

    @contextmanager
    def transaction(self) -> Generator[None]:
        connection = self._open_connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # some errors have rolled back already
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def savepoint(self) -> Generator[None]:
        connection = self._open_connection()
        connection.execute("SAVEPOINT piece")
        try:
            yield
        except BaseException:
            connection.execute("ROLLBACK TO piece")
            connection.execute("RELEASE piece")
            raise
        connection.execute("RELEASE piece")

    def insert(self, rows: Sequence[Row]) -> None:
        connection = self._open_connection()
        start = 0
        for size in _ROWS_PER_STATEMENT:
            while len(rows) - start >= size:
                values = tuple(chain.from_iterable(rows[start : start + size]))
                connection.execute(self._insert_sql(size), values)
                start += size

    def probe(self) -> None:
        with self.transaction():
            self._open_connection().execute(
                f"{self._insert_head()} SELECT {self._shape.column_list} FROM {self._table} LIMIT 0"
            )

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _forget(self) -> None:
        """In the child of a fork, if the connection was too busy to be closed before it: closing it here would drop the
        parent's locks."""
        if self._connection is not None:
            _of_parent.append(self._connection)
            self._connection = None

    def interrupt(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def judge(self, error: Exception) -> Refusal | DestinationOutage | None:
        if isinstance(error, sqlite3.IntegrityError):
            # A constraint or trigger that someone added to the table: it may be taken away again.
            reason = f"the table's own rules refuse the event: {error}; relax them or correct the event"
            return Refusal(index=0, code="constraint_violated", reason=reason, permanent=False)
        if isinstance(error, OverflowError | UnicodeError | sqlite3.DataError | sqlite3.InterfaceError):
            reason = f"SQLite cannot hold a value of the event: {error}; correct it and send it again"
            return Refusal(index=0, code="value_unstorable", reason=reason)
        if isinstance(error, sqlite3.Error):
            symbol = str(getattr(error, "sqlite_errorname", "SQLITE_ERROR"))
            primary = "_".join(symbol.split("_")[:2])
            return self._outage(str(error), _REMEDIES.get(primary, "check the file"))
        if isinstance(error, OSError):
            return self._outage(str(error), "check that its directory exists and that Adjourn's user may write there")
        return None

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._version(connection) == TABLE_VERSION:
            return
        with self.transaction():
            version = self._version(connection)  # again, under the lock: another process may have done it
            present = {str(r[1]) for r in connection.execute(f"PRAGMA table_xinfo({self._table})")}
            if version is None and present:
                raise self._outage(f"table {self._table} exists and is not Adjourn's", "set another `table`")
            if version is None:
                connection.execute(f"CREATE TABLE {self._table} ({_column_definitions(self._shape)})")
                connection.execute(f"CREATE TABLE IF NOT EXISTS {self._meta} (version INTEGER NOT NULL)")
            elif version > TABLE_VERSION:
                raise self._outage(f"table {self._table} was made by a newer version of Adjourn", "upgrade Adjourn")
            else:
                for column in self._shape.columns:
                    if column.name not in present:
                        connection.execute(
                            f'ALTER TABLE {self._table} ADD COLUMN "{column.name}" {_TYPES[column.kind]}'
                        )
            for suffix, definition in self._shape.indexes.items():
                index = f'"{self._name_of_table}_{suffix}"'
                connection.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {self._table} {definition}")
            connection.execute(f"DELETE FROM {self._meta}")
            connection.execute(f"INSERT INTO {self._meta} VALUES ({TABLE_VERSION})")

    def _version(self, connection: sqlite3.Connection) -> int | None:
        """Of the table as it is; None if there is none, or none of ours."""
        tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)"
        if connection.execute(tables, (self._name_of_table, f"{self._name_of_table}_meta")).fetchone()[0] < 2:
            return None
        found: tuple[int] | None = connection.execute(f"SELECT version FROM {self._meta}").fetchone()
        return found[0] if found else None

    def _insert_head(self) -> str:
        return f"INSERT INTO {self._table} ({self._shape.column_list})"

    def _insert_sql(self, count: int) -> str:
        """Up to 40 kB of text, the same for every batch."""
        sql = self._inserts.get(count)
        if sql is None:
            places = f"({', '.join('?' * len(self._shape.columns))})"
            sql = f"{self._insert_head()} VALUES {', '.join([places] * count)} {ON_CONFLICT}"
            self._inserts[count] = sql
        return sql

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise self._outage("not open", "open the destination first")
        return self._connection

    def _outage(self, fact: str, remedy: str) -> DestinationOutage:
        return DestinationOutage(f"destination '{self._name}': SQLite file {self._path}: {fact}; {remedy}")


def _column_definitions(shape: Shape) -> str:
    columns = [f'"{c.name}" {_TYPES[c.kind]}{" NOT NULL" if c.required else ""}' for c in shape.columns]
    return ", ".join([*columns, *([_COST_USD] if shape.priced else []), PRIMARY_KEY])


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0
