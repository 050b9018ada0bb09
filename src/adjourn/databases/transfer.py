"""Whole tables between PostgreSQL and a SQLite file, streamed by COPY: memory stays flat however long a table is."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from adjourn.database import Dialect, Row, Value
from adjourn.databases.driver import Failure, compiled
from adjourn.databases.files import FileReader, quoted
from adjourn.databases.migrate import ADVISORY_LOCK
from adjourn.databases.postgres import PostgresDriver, open_connection
from adjourn.databases.upgrade import engine_for, migrate
from adjourn.errors import AdjournError, AlreadyExists, DatabaseCorrupt, StorageFull, Unavailable
from adjourn.migrations import HEAD
from adjourn.secret import mask

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.sql import ClauseElement

_TIMEOUTS = ("statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout")


class PostgresReader:
    """A `Reader` of one snapshot, without a lane's time limits. Raises Unavailable, ExtraMissing, and DatabaseCorrupt
    where pages cannot be read."""

    dialect: Dialect = "postgresql"

    def __init__(self, url: str) -> None:
        self._driver = PostgresDriver(url)
        try:
            self.connection = open_connection(url)
        except AdjournError:
            raise
        except Exception as error:
            raise Unavailable(f"{mask(url)} cannot be reached ({error}); check the URL, and that it runs") from error
        unlimited(self.connection)
        self._begin()

    def rows(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> list[Row]:
        sql, params = (sql.replace("?", "%s"), params) if isinstance(sql, str) else compiled(sql, "postgresql")
        try:
            return self.connection.execute(sql.encode(), params).fetchall()
        except Exception as error:
            failure = self._driver.classify(error)
            if failure is Failure.CORRUPT:
                self.connection.execute("ROLLBACK")
                self._begin()
                raise DatabaseCorrupt(f"PostgreSQL cannot read its pages ({error}); restore the last backup") from error
            if self.connection.closed:
                raise Unavailable(f"the connection was lost ({error}); run it again") from error
            raise

    def close(self) -> None:
        self.connection.close()

    def _begin(self) -> None:
        self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")


def unlimited(connection: psycopg.Connection[Row]) -> None:
    """Whole tables take longer than any statement of a lane may."""
    found = connection.execute("SELECT name FROM pg_settings WHERE name = ANY(%s)", (list(_TIMEOUTS),)).fetchall()
    for (name,) in found:
        connection.execute(f"SET {name} = 0".encode())


def copy_out(source: psycopg.Connection[Row], target: sqlite3.Connection, table: str, columns: Sequence[str]) -> None:
    """One table of the snapshot that `source` is in, into the same table of a SQLite file."""
    names = quoted(columns)
    insert = f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(columns))})'
    query = f'COPY (SELECT {names} FROM "{table}") TO STDOUT (FORMAT BINARY)'
    types = _types(source, table, columns)
    import psycopg

    try:
        with source.cursor().copy(query.encode()) as copy:
            copy.set_types(types)
            target.executemany(insert, copy.rows())
    except psycopg.Error as error:
        raise Unavailable(f"PostgreSQL could not hand over the table {table} ({error}); run it again") from error


def copy_in(source: FileReader, url: str, version: str, *, skip: Sequence[str]) -> None:
    """Every table of a backup into an empty PostgreSQL database, and its upgrade, all in one transaction.
    Raises AlreadyExists, StorageFull, Unavailable."""
    PostgresReader(url).close()  # says clearly what is wrong, should it not be reachable or have no driver here
    import psycopg

    tables = {table: columns for table, columns in source.tables().items() if table != "alembic_version"}
    engine = engine_for(url)
    try:
        with engine.begin() as connection:
            target = cast("psycopg.Connection[Row]", connection.connection.driver_connection)
            unlimited(target)
            target.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            _refuse_occupied(target, [*tables, "alembic_version"])
            migrate(connection, version)
            for table, columns in tables.items():
                if table not in skip:
                    _copy_table(source.connection, target, table, columns)
            if version != HEAD:
                migrate(connection)
    except psycopg.errors.DiskFull as error:
        raise StorageFull("PostgreSQL's disk is full; free some space. Nothing was restored") from error
    except psycopg.Error as error:
        raise Unavailable(f"PostgreSQL refused the backup ({error}); nothing was restored") from error
    finally:
        engine.dispose()


def _refuse_occupied(target: psycopg.Connection[Row], tables: Sequence[str]) -> None:
    found = target.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename = ANY(%s) LIMIT 1",
        (list(tables),),
    ).fetchone()
    if found is not None:
        raise AlreadyExists(
            f"the database has a table {found[0]} already; restore into an empty one: CREATE DATABASE makes it"
        )


def _copy_table(
    source: sqlite3.Connection, target: psycopg.Connection[Row], table: str, columns: Sequence[str]
) -> None:
    names = quoted(columns)
    types = _types(target, table, columns)
    try:
        with target.cursor().copy(f'COPY "{table}" ({names}) FROM STDIN (FORMAT BINARY)'.encode()) as copy:
            copy.set_types(types)
            for row in source.execute(f'SELECT {names} FROM "{table}"'):
                copy.write_row(tuple(_storable(value) for value in row))
    except (TypeError, ValueError, OverflowError, struct.error, sqlite3.Error) as error:
        # SQLite keeps any type in any column, so a file may hold what its own check does not mind.
        raise DatabaseCorrupt(f"the backup's table {table} has a bad row ({error}); nothing was restored") from error


def _storable(value: Value) -> Value:
    """PostgreSQL's text cannot hold NUL. Identifiers never have one; a message that quotes a sender's bytes may."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


def _types(connection: psycopg.Connection[Row], table: str, columns: Sequence[str]) -> list[str]:
    rows = connection.execute(
        "SELECT column_name, udt_name FROM information_schema.columns "
        "WHERE table_name = %s AND table_schema = current_schema()",
        (table,),
    ).fetchall()
    types = {str(name): str(kind) for name, kind in rows}
    return [types[column] for column in columns]
