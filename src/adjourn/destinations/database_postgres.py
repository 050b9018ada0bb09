"""A table of events in PostgreSQL. Imported only when such a destination is configured: it needs psycopg."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from adjourn.destination import Refusal
from adjourn.destinations.database_rows import (
    COMPLETIONS,
    ON_CONFLICT,
    PRIMARY_KEY,
    TABLE_VERSION,
    Row,
    Shape,
)
from adjourn.errors import ConfigInvalid, DestinationOutage

# `json`, not `jsonb`: it keeps the sender's bytes, takes \u0000 and numbers of any size, and is cheaper to write.
_TYPES = {"text": "text", "integer": "bigint", "time": "timestamptz", "json": "json"}
_COST_USD = "cost_usd numeric GENERATED ALWAYS AS (cost_nanousd * 0.000000001) STORED"

_STAGE = "pg_temp.adjourn_stage"

_DEFAULTS = {
    "connect_timeout": "10",
    "application_name": "adjourn",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
# Timeouts are always set, but a value of the owner's own stays. `synchronous_commit` may be stronger, never off.
_SESSION = """
    SET client_encoding = 'UTF8'; SET default_transaction_isolation = 'read committed';
    SELECT set_config(name, value, false)
    FROM (VALUES ('statement_timeout', '30s', '0'), ('lock_timeout', '10s', '0'),
                 ('idle_in_transaction_session_timeout', '60s', '0'), ('synchronous_commit', 'on', 'off'))
         AS wanted (name, value, unset)
    WHERE current_setting(name) = unset
"""

# By SQLSTATE, or by its class (two characters).
_REMEDIES = {
    "08": "check that the server runs and can be reached",
    "25006": "this server is a read-only standby; connect to the primary",
    "28": "correct the user or password in connection_string",
    "3D": "create that database, or correct connection_string",
    "42501": "grant its role INSERT and SELECT on the table, TEMP on the database, and CREATE for the first start",
    "42P01": "the table was dropped; it is created again with the next batch",
    "42": "the table was altered; restore its columns",
    "53100": "free some space on the server's disk",
    "53300": "raise max_connections or close other connections",
    "55P03": "another transaction holds a lock on the table; end it",
    "57014": "it took too long; see what the server waits for in pg_stat_activity",
    "57": "the server is stopping or starting",
    "40": "another transaction was in the way",
}


class PostgresTable:
    def __init__(self, name: str, connection_string: str, table: str, shape: Shape = COMPLETIONS) -> None:
        self._shape = shape
        self.guard: AbstractContextManager[object] = nullcontext()  # a socket may cross a fork unused
        self._name = name
        self._table = f'"{table}"'
        self._meta = f'"{table}_meta"'
        self._name_of_table = table
        try:
            given = conninfo_to_dict(connection_string)
            if "@" in str(given.get("host", "")):
                raise ValueError("a part of the password was read as the host")
        except (psycopg.Error, ValueError):
            # libpq's message may repeat a part of the password: it is not passed on.
            raise ConfigInvalid(
                f"destination '{name}': connection_string cannot be read; write "
                "postgresql://user:password@host:port/database, with special characters percent-encoded",
                path="connection_string",
            ) from None
        self._where = f"{given.get('host', 'localhost')}/{given.get('dbname', '')}"
        self._password = str(given.get("password") or "")
        self._conninfo = make_conninfo("", **{**_DEFAULTS, **given})
        self._connection: psycopg.Connection | None = None

    def open(self) -> None:
        if self._connection is not None and not self._connection.closed:
            return
        connection = psycopg.connect(self._conninfo, autocommit=True)
        self._connection = connection
        connection.execute(_SESSION)
        self._migrate(connection)
        stage = ", ".join(f'"{c.name}" {_TYPES[c.kind]}' for c in self._shape.columns)
        connection.execute(_sql(f"CREATE TEMP TABLE adjourn_stage ({stage}) ON COMMIT DELETE ROWS"))

    def transaction(self) -> AbstractContextManager[object]:
        return self._open_connection().transaction()

    @contextmanager
    def savepoint(self) -> Generator[None]:
        connection = self._open_connection()
        with connection.transaction():
            connection.execute(_sql(f"DELETE FROM {_STAGE}"))
            yield

    def insert(self, rows: Sequence[Row]) -> None:
        # COPY into a staging table and one INSERT … SELECT: four times as fast as arrays or many-row VALUES.
        cursor = self._open_connection().cursor()
        with cursor.copy(_sql(f"COPY {_STAGE} ({self._shape.column_list}) FROM STDIN")) as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(_sql(self._insert_from_stage(ON_CONFLICT)))

    def probe(self) -> None:
        # Touches nothing, but asks for the same permissions as a batch.
        self._open_connection().execute(_sql(self._insert_from_stage("LIMIT 0")))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        # A cancel request needs a server that answers. Cutting the line works against one that does not.
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is down already

    def judge(self, error: Exception) -> Refusal | DestinationOutage | None:
        if isinstance(error, UnicodeError | OverflowError):
            return self._unstorable(error)
        if not isinstance(error, psycopg.Error):
            return None
        state = error.sqlstate or ""
        if state[:2] in ("23", "44", "P0"):
            # A constraint or trigger that someone added to the table: it may be taken away again.
            reason = f"the table's own rules refuse the event: {self._fact(error)}; relax them or correct the event"
            return Refusal(index=0, code="constraint_violated", reason=reason, permanent=False)
        if state[:2] in ("22", "54") or (not state and isinstance(error, psycopg.DataError)):
            return self._unstorable(error)
        remedy = _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or _REMEDIES["08"]
        return self._outage(self._fact(error), remedy)

    def _unstorable(self, error: Exception) -> Refusal:
        reason = f"PostgreSQL cannot hold a value of the event: {self._fact(error)}; correct it and send it again"
        return Refusal(index=0, code="value_unstorable", reason=reason)

    def _migrate(self, connection: psycopg.Connection) -> None:
        if self._version(connection) == TABLE_VERSION:
            return
        # Two nodes may start at once, and CREATE … IF NOT EXISTS alone races. The lock is taken before the transaction
        # begins: within one, to_regclass may answer from a catalog cache that is older than the lock.
        lock = f"adjourn:{self._table}"
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (lock,))
        with connection.transaction():
            version = self._version(connection)
            present = {
                str(found[0])
                for found in connection.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0", (self._table,)
                )
            }
            if version is None and present:
                raise self._outage(f"table {self._table} exists and is not Adjourn's", "set another `table`")
            if version is None:
                connection.execute(_sql(f"CREATE TABLE {self._table} ({_column_definitions(self._shape)})"))
                connection.execute(_sql(f"CREATE TABLE IF NOT EXISTS {self._meta} (version integer NOT NULL)"))
            elif version > TABLE_VERSION:
                raise self._outage(f"table {self._table} was made by a newer version of Adjourn", "upgrade Adjourn")
            else:
                for column in self._shape.columns:
                    if column.name not in present:
                        added = f'"{column.name}" {_TYPES[column.kind]}'
                        connection.execute(_sql(f"ALTER TABLE {self._table} ADD COLUMN {added}"))
            for suffix, definition in self._shape.indexes.items():
                index = f'CREATE INDEX IF NOT EXISTS "{self._name_of_table}_{suffix}" ON {self._table} {definition}'
                connection.execute(_sql(index))
            connection.execute(_sql(f"DELETE FROM {self._meta}"))
            connection.execute(_sql(f"INSERT INTO {self._meta} VALUES ({TABLE_VERSION})"))
        # After an error the connection is closed, which lets go of the lock too.
        connection.execute("SELECT pg_advisory_unlock(hashtext(%s))", (lock,))

    def _version(self, connection: psycopg.Connection) -> int | None:
        """Of the table as it is; None if there is none, or none of ours."""
        exist = connection.execute("SELECT to_regclass(%s), to_regclass(%s)", (self._table, self._meta)).fetchone()
        if exist is None or None in exist:
            return None
        found = connection.execute(_sql(f"SELECT version FROM {self._meta}")).fetchone()
        return int(found[0]) if found else None

    def _insert_from_stage(self, ending: str) -> str:
        columns = self._shape.column_list
        return f"INSERT INTO {self._table} ({columns}) SELECT {columns} FROM {_STAGE} {ending}"

    def _open_connection(self) -> psycopg.Connection:
        if self._connection is None:
            raise self._outage("not open", "open the destination first")
        return self._connection

    def _fact(self, error: Exception) -> str:
        text = (error.diag.message_primary if isinstance(error, psycopg.Error) else None) or str(error)
        line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        return line.replace(self._password, "***") if self._password else line

    def _outage(self, fact: str, remedy: str) -> DestinationOutage:
        return DestinationOutage(f"destination '{self._name}': PostgreSQL at {self._where}: {fact}; {remedy}")


def _column_definitions(shape: Shape) -> str:
    columns = [f'"{c.name}" {_TYPES[c.kind]}{" NOT NULL" if c.required else ""}' for c in shape.columns]
    return ", ".join([*columns, *([_COST_USD] if shape.priced else []), PRIMARY_KEY])


def _sql(text: str) -> sql.SQL:
    # Made of the constants above and a table name that was checked to be a plain word: there is nothing to quote.
    return sql.SQL(text)  # pyright: ignore[reportArgumentType]  # psycopg wants literals, these are checked instead
