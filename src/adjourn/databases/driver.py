"""What a lane needs of one database: a connection, and a name for each way in which it can fail."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Protocol, cast

from adjourn.database import Dialect, Row, Value

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement
    from sqlalchemy.sql.compiler import SQLCompiler


class Failure(Enum):
    """What an exception from the database says about the batch that met it."""

    MEMBER = "member"  # this statement or function is wrong; the transaction may still stand
    REPLAY = "replay"  # deadlock, serialization: nothing is wrong, run it again
    LOST = "lost"  # the connection, or trust in it, is gone: reconnect and ask what happened
    FULL = "full"  # the disk or a quota is full
    CORRUPT = "corrupt"  # the file fails its own checks


class Driver(Protocol):
    """One connection, used by one thread."""

    dialect: Dialect
    members_max: int
    """Most functions in one transaction."""
    guard: AbstractContextManager[object]
    """Hold while the connection is used outside a turn: a fork waits for it."""
    savepoints: bool
    """True: a failed member is undone alone. False: the batch is rolled back and replayed one by one."""

    def connect(self) -> None: ...

    def close(self) -> None: ...

    def interrupt(self) -> None:
        """From any thread: a statement that is under way fails soon. Nothing may be asked of the connection after."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """Hold while a batch gathers and commits: processes that share a file take turns by it."""
        ...

    def begin(self) -> None: ...

    def begin_read(self) -> None:
        """A transaction that only reads, all of it at one instant."""
        ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    @property
    def in_transaction(self) -> bool: ...

    def rows(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> list[Row]: ...

    def run(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> int: ...

    def push(self, sql: str, params: Sequence[Value] = ()) -> None:
        """Run a statement whose count nobody needs; PostgreSQL sends it without waiting for the answer."""
        ...

    def settled(self, lane: str) -> int | None:
        """After a failed COMMIT, on a new connection: the sequence that the lane's row holds, read under lock."""
        ...

    def rest(self) -> None:
        """After each batch: the moment for checkpoints and the like."""
        ...

    def classify(self, error: BaseException) -> Failure: ...


_WHOLE = {"render_postcompile": True}  # lists of `IN` too, which SQLAlchemy else writes out only when it executes


def compiled(statement: ClauseElement, dialect: Dialect) -> tuple[str, tuple[Value, ...]]:
    """A Core statement as SQL text with positional parameters, for the DBAPI cursor."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import pysqlite

        found = statement.compile(dialect=pysqlite.dialect(paramstyle="qmark"), compile_kwargs=_WHOLE)
    else:
        from sqlalchemy.dialects.postgresql import psycopg

        found = statement.compile(dialect=psycopg.dialect(paramstyle="format"), compile_kwargs=_WHOLE)
    result = cast("SQLCompiler", found)  # what every statement but DDL compiles to
    values = result.params
    return result.string, tuple(values[name] for name in result.positiontup or ())
