"""The database seam on SQLite: one lane, write-ahead log, fsync at every commit.

Several processes may share the file. Their lanes take turns by a lock beside it, and each gathers its batch after it
has the lock, so that what piles up while another process commits goes into one transaction.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from adjourn.database import Dialect, Row, Value
from adjourn.databases.driver import Failure, compiled
from adjourn.errors import ConfigInvalid
from adjourn.forks import Guard

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement

CHECKPOINT_BYTES = 16 * 1024 * 1024
WAL_FILE_BYTES_MAX = 2 * CHECKPOINT_BYTES
"""Past it, the file is cut when it is begun anew."""
PAGE_BYTES = 4096
_MX_FRAME = struct.Struct("=I")
BUSY_MS = 1_000
CHECKPOINT_BUSY_MS = 50
LOOK_EVERY_BATCHES = 16

_LOST = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOTFOUND}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REPLAY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

_libc = ctypes.PyDLL(None)


def _flock(descriptor: int, operation: int) -> int:
    """flock(2) without giving the interpreter lock away: 0, or -1 if it would block.

    `fcntl.flock` gives it away twice a batch, and a busy event loop is slow to give it back."""
    return int(_libc.flock(descriptor, operation))


_of_parent: list[sqlite3.Connection] = []
"""Kept from the collector, in a child."""


class SqliteDriver:
    dialect: Dialect = "sqlite"
    members_max = 1024
    savepoints = True

    def __init__(self, path: Path, *, durability: str) -> None:
        self._path = path
        self._wal_index = f"{path}-shm"
        self._durability = durability
        self._connection: sqlite3.Connection | None = None
        self._forked = False  # closed for a fork, to be opened again when it is used
        self.guard: AbstractContextManager[object] = Guard(self._rest_for_fork, self._forget)
        self._lock = -1
        self._checkpoint_at = CHECKPOINT_BYTES
        self._busy_checkpoints = 0
        self._batches = 0

    def connect(self) -> None:
        connection = open_connection(self._path, durability=self._durability)
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute(f"PRAGMA journal_size_limit={WAL_FILE_BYTES_MAX}")
        if self._lock < 0:
            self._lock = os.open(f"{self._path}.lane", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._connection = connection
        self._forked = False

    def close(self) -> None:
        self._forked = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            _close_if_gone(self._wal_index)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    @contextmanager
    def turn(self) -> Generator[None, None, None]:
        lock = self._lock
        if lock >= 0 and _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with self.guard:  # after the lock: a fork does not wait for other processes
                yield
        finally:
            if lock >= 0 and lock == self._lock:  # a reconnect inside the turn closed it, and so released it
                _flock(lock, fcntl.LOCK_UN)

    def begin(self) -> None:
        self._live.execute("BEGIN IMMEDIATE")

    def begin_read(self) -> None:
        self._live.execute("BEGIN")

    def commit(self) -> None:
        self._live.execute("COMMIT")

    def rollback(self) -> None:
        if self._live.in_transaction:
            self._live.execute("ROLLBACK")

    @property
    def in_transaction(self) -> bool:
        return self._live.in_transaction

    def rows(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> list[Row]:
        if not isinstance(sql, str):
            sql, params = compiled(sql, "sqlite")
        return self._live.execute(sql, params).fetchall()

    def run(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> int:
        if not isinstance(sql, str):
            sql, params = compiled(sql, "sqlite")
        return self._live.execute(sql, params).rowcount

    def push(self, sql: str, params: Sequence[Value] = ()) -> None:
        self._live.execute(sql, params)

    def settled(self, lane: str) -> int | None:
        """After an error in COMMIT the frames may stand in the WAL without having reached the disk, and a second fsync
        would lie about them. So the WAL is first copied into the database and synced there, or this raises."""
        busy, _, _ = self._live.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            # Readers hold the WAL: what it holds is visible but may not be durable. Rewriting it waits for them.
            raise sqlite3.OperationalError("the write-ahead log cannot be checkpointed while readers hold it")
        row = self._live.execute("SELECT seq FROM lanes WHERE lane = ?", (lane,)).fetchone()
        return None if row is None else row[0]

    def rest(self) -> None:
        """A checkpoint when the WAL is big. Readers that hold it put that off until it has grown as much again."""
        self._batches += 1
        if self._batches % LOOK_EVERY_BATCHES:
            return
        size = self._wal_bytes()
        if size < self._checkpoint_at:
            if size < CHECKPOINT_BYTES:  # another process began it anew
                self._checkpoint_at, self._busy_checkpoints = CHECKPOINT_BYTES, 0
            return
        # Readers that overlap one another would put it off for ever: the longer it was, the longer it waits for them.
        patience_ms = min(CHECKPOINT_BUSY_MS * (1 + self._busy_checkpoints), BUSY_MS)
        with self.turn():
            try:
                self._live.execute(f"PRAGMA busy_timeout={patience_ms}")
                busy, _, _ = self._live.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                self._live.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        self._busy_checkpoints = self._busy_checkpoints + 1 if busy else 0
        self._checkpoint_at = size + CHECKPOINT_BYTES if busy else CHECKPOINT_BYTES

    def _wal_bytes(self) -> int:
        """How much of the WAL is in use: `mxFrame` in the header of its index (https://sqlite.org/walformat.html, 2.1).
        Its file is longer: it is written over from the beginning, which syncs faster than a file that grows."""
        try:
            head = os.pread(_index(self._wal_index), 20, 0)
        except OSError:
            return 0
        return 0 if len(head) < 20 else int(_MX_FRAME.unpack_from(head, 16)[0]) * PAGE_BYTES

    def classify(self, error: BaseException) -> Failure:
        if not isinstance(error, sqlite3.Error):
            return Failure.MEMBER
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return (
                Failure.LOST
                if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error)
                else Failure.MEMBER
            )
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_FULL:
            return Failure.FULL
        if primary in _CORRUPT:
            return Failure.CORRUPT
        if primary in _REPLAY:
            return Failure.REPLAY
        return Failure.LOST if primary in _LOST else Failure.MEMBER

    def _rest_for_fork(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._forked = True

    def _forget(self) -> None:
        """In the child: the lock is the parent's, and a copy of its descriptor would keep it after the parent's death;
        a connection that did not come to rest must not be closed here, which would drop the parent's locks."""
        if self._connection is not None:
            _of_parent.append(self._connection)
            self._connection = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def _live(self) -> sqlite3.Connection:
        if self._forked:
            self.connect()
        if self._connection is None:
            raise sqlite3.ProgrammingError("the connection is closed")
        return self._connection


_indexes: dict[str, int] = {}
"""Descriptors of the indexes of write-ahead logs. None is closed as long as its file is there: that would end all locks
which this process has on it (https://sqlite.org/howtocorrupt.html, 2.2), and whoever came next would begin the index
anew, under the memory of those who have it mapped."""


def _index(path: str) -> int:
    """Raises OSError."""
    _close_if_gone(path)
    if path not in _indexes:
        _indexes.setdefault(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    return _indexes[path]


def _close_if_gone(path: str) -> None:
    kept = _indexes.get(path)
    with suppress(OSError):  # another thread closed it
        if kept is not None and os.fstat(kept).st_nlink == 0 and _indexes.pop(path, None) is not None:
            os.close(kept)


def _write_ahead(connection: sqlite3.Connection) -> str:
    """Turns WAL mode on; returns the mode. Two processes that turn a fresh file over together: SQLite refuses one of
    them at once, without its busy timeout, since both hold a read lock that the other waits for."""
    give_up = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.005)


def open_connection(path: Path, *, durability: str) -> sqlite3.Connection:
    """A connection in WAL mode whose durability is asserted, not assumed. A new file is its owner's alone: it holds
    the installation's secret and all events; SQLite gives its other files the same mode."""
    if str(path) != ":memory:" and not path.exists():
        with suppress(OSError):  # SQLite will say it
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path,
        timeout=BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        mode = _write_ahead(connection)
        connection.execute(f"PRAGMA synchronous={durability.upper()}")
        connection.execute("PRAGMA secure_delete=ON")
        level = connection.execute("PRAGMA synchronous").fetchone()[0]
    except BaseException:
        connection.close()
        raise
    if mode != "wal" or level != (2 if durability == "full" else 1):
        connection.close()
        raise ConfigInvalid(
            f"{path} cannot be opened as a durable database (journal mode {mode}, synchronous {level}); "
            "put it on a local disk that SQLite's write-ahead log works on",
            path="database.url",
        )
    return connection
