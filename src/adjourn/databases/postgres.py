"""The database seam on PostgreSQL: 2–4 lanes, statements of a batch pipelined, no savepoints."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

from adjourn.database import Dialect, Row, Value
from adjourn.databases.driver import Failure, compiled
from adjourn.errors import ExtraMissing

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.sql import ClauseElement

LOCK_TIMEOUT_MS = 5_000
IDLE_TIMEOUT_MS = 15_000
TRANSACTION_TIMEOUT_MS = 30_000

_FULL = {"53100"}
_CORRUPT = {"XX001", "XX002"}
_REPLAY = {"40001", "40P01", "55P03", "57014"}
_LOST_CLASSES = ("08", "57P", "53", "25P")
_ABORTED = "25P02"  # of class 25P alone no timeout: an earlier statement failed and its function went on
_LITERALS_AND_MARKS = re.compile(r"'[^']*'|\"[^\"]*\"|[?%]")
_translated: dict[str, str] = {}


class PostgresDriver:
    dialect: Dialect = "postgresql"
    members_max = 64
    savepoints = False

    def __init__(self, url: str) -> None:
        self._url = url
        self.guard: AbstractContextManager[object] = nullcontext()  # a socket may cross a fork unused
        self._connection: psycopg.Connection[Row] | None = None
        self._pipeline: psycopg.Pipeline | None = None
        self._entered: Any = None

    def connect(self) -> None:
        self._connection = open_connection(self._url)

    def close(self) -> None:
        """At once: a pipeline that is still open would wait for a server that may be silent, so it goes second."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._end_pipeline(quiet=True)

    def interrupt(self) -> None:
        """By its socket: a server that does not answer would not read a request to cancel either."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        with suppress(OSError, self._psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def turn(self) -> Generator[None, None, None]:
        yield

    def begin(self) -> None:
        self._entered = self._live.pipeline()
        self._pipeline = self._entered.__enter__()
        self._live.execute("BEGIN")

    def begin_read(self) -> None:
        self._live.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def commit(self) -> None:
        done = self._live.execute("COMMIT")
        self._end_pipeline()
        if done.statusmessage != "COMMIT":  # PostgreSQL answers "ROLLBACK" and calls that a success
            raise self._psycopg.errors.InFailedSqlTransaction(
                "a statement failed and its function went on; let the error pass, or undo it with tx.attempt()"
            )
        if self.in_transaction:
            raise RuntimeError("COMMIT left the transaction open")

    def rollback(self) -> None:
        self._end_pipeline(quiet=True)
        if self._live.closed:
            raise self._psycopg.OperationalError("the connection is closed")
        if self.in_transaction:
            self._live.execute("ROLLBACK")

    @property
    def in_transaction(self) -> bool:
        if self._pipeline is not None:
            return True
        return self._live.info.transaction_status.name in ("INTRANS", "INERROR", "ACTIVE")

    def rows(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> list[Row]:
        cursor = self._execute(sql, params)
        try:
            return cursor.fetchall()
        except Exception:
            self._revive()
            raise

    def run(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> int:
        cursor = self._execute(sql, params)
        if self._pipeline is not None:
            self._pipeline.sync()
        return cursor.rowcount

    def push(self, sql: str, params: Sequence[Value] = ()) -> None:
        self._execute(sql, params)

    def settled(self, lane: str) -> int | None:
        """FOR UPDATE waits for the old backend, should it still be committing."""
        row = self._live.execute("SELECT seq FROM lanes WHERE lane = %s FOR UPDATE", (lane,)).fetchone()
        return None if row is None else cast(int, row[0])

    def rest(self) -> None:
        """The server checkpoints by itself."""

    def classify(self, error: BaseException) -> Failure:
        import psycopg

        if not isinstance(error, psycopg.Error):
            return Failure.MEMBER
        state = error.sqlstate or ""
        if state in _FULL:
            return Failure.FULL
        if state in _CORRUPT:
            return Failure.CORRUPT
        if state in _REPLAY:
            return Failure.REPLAY
        if state == _ABORTED or isinstance(error, psycopg.errors.PipelineAborted):
            return Failure.MEMBER
        if state.startswith(_LOST_CLASSES) or (not state and isinstance(error, psycopg.OperationalError)):
            return Failure.LOST
        return Failure.LOST if self._connection is None or self._connection.closed else Failure.MEMBER

    def _execute(self, sql: str | ClauseElement, params: Sequence[Value]) -> psycopg.Cursor[Row]:
        if not isinstance(sql, str):
            text, params = compiled(sql, "postgresql")
        else:
            text = _translated.get(sql) or _translated.setdefault(sql, translated(sql))
        return self._live.execute(text.encode(), params)

    def _revive(self) -> None:
        """After an error the server skips all that follows in the pipeline, ROLLBACK TO too, up to the next sync."""
        if self._pipeline is not None:
            with suppress(self._psycopg.Error):
                self._pipeline.sync()

    def _end_pipeline(self, *, quiet: bool = False) -> None:
        entered, self._entered, self._pipeline = self._entered, None, None
        if entered is None:
            return
        try:
            entered.__exit__(None, None, None)
        except Exception:
            if not quiet:
                raise

    @property
    def _live(self) -> psycopg.Connection[Row]:
        if self._connection is None:
            raise self._psycopg.OperationalError("the connection is closed")
        return self._connection

    @property
    def _psycopg(self) -> Any:
        import psycopg

        return psycopg


def translated(sql: str) -> str:
    """`?` outside quotes becomes the driver's mark; percent signs stay what they are."""
    return _LITERALS_AND_MARKS.sub(lambda found: "%s" if found[0] == "?" else found[0].replace("%", "%%"), sql)


def open_connection(url: str) -> psycopg.Connection[Row]:
    """Autocommit (transactions are begun by hand), READ COMMITTED, and every timeout set: nothing waits for ever."""
    try:
        import psycopg
    except ImportError as error:
        raise ExtraMissing("PostgreSQL needs its driver; run: pip install 'adjourn[postgres]'") from error
    connection = cast("psycopg.Connection[Row]", psycopg.connect(url, autocommit=True, connect_timeout=5))
    connection.execute("SET default_transaction_isolation = 'read committed'")
    connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}".encode())
    connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}".encode())
    connection.execute(f"SET statement_timeout = {TRANSACTION_TIMEOUT_MS}".encode())
    if connection.info.server_version >= 170000:
        connection.execute(f"SET transaction_timeout = {TRANSACTION_TIMEOUT_MS}".encode())
    return connection
