"""A SQLite database as a file: read without being changed, read around its damage, put in its place in one step."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adjourn.database import Dialect, Row, Value
from adjourn.databases.driver import compiled
from adjourn.errors import AlreadyExists, DatabaseCorrupt, NotFound, StorageFull, Unavailable

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement

BUSY_S = 10.0
PROBES_MAX = 20_000
ROWIDS_GUESSED = 1 << 24

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_RAISED = (sqlite3.Error, UnicodeDecodeError)
"""The second: SQLite's message repeats a damaged name, which is no text any more."""


class FileReader:
    """A `Reader` of a file that may be damaged; it never writes. Raises DatabaseCorrupt where pages cannot be read."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise NotFound(f"there is no file {path}; give the path of a database")
        # A file without a write-ahead log beside it is open nowhere, and need not get one for being read.
        unused = not beside(path, "wal").exists()
        self._uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if unused else ''}"
        self.path = path
        self.connection = sqlite3.connect(self._uri, uri=True, timeout=BUSY_S, isolation_level=None)
        self.connection.text_factory = _lenient
        # Else a file that is shorter than its header says is refused whole, although most of it can be read.
        with told(self.path):
            self.connection.execute("PRAGMA writable_schema=ON")
            self.connection.execute("BEGIN")

    def rows(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> list[Row]:
        if not isinstance(sql, str):
            sql, params = compiled(sql, "sqlite")
        try:
            return self.connection.execute(sql, params).fetchall()
        except _RAISED as error:
            if _unreadable(error):
                raise DatabaseCorrupt(f"{self.path} is damaged ({error}); run: adjourn db check") from error
            raise Unavailable(f"{self.path} cannot be read ({error}); check its rights and who locks it") from error

    def refused(self) -> str:
        """Why SQLite would not open the file for anybody but this reader, which goes around a damaged schema; empty if
        it would."""
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=BUSY_S)) as ordinary:
                ordinary.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except _RAISED as error:
            if not _unreadable(error):
                raise Unavailable(f"{self.path} cannot be read ({error}); check its rights and who locks it") from error
            return str(error)
        return ""

    def tables(self) -> dict[str, list[str]]:
        """Each table's columns."""
        names = self.rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY 1")
        return {str(name): [str(row[1]) for row in self.rows(f'PRAGMA table_info("{name}")')] for (name,) in names}

    def readable(self, table: str, columns: Sequence[str]) -> Iterator[Row | None]:
        """Every row that can be read; None for each stretch that cannot."""
        if key := self._key_of(table):
            yield from self._by_key(table, columns, key)
            return
        select = f'SELECT rowid, {quoted(columns)} FROM "{table}" NOT INDEXED WHERE rowid BETWEEN ? AND ? ORDER BY 1'
        ranges = [(0, self._last_rowid(table))]
        probes = 0
        while ranges:
            low, high = ranges.pop()
            try:
                for row in self.connection.execute(select, (low, high)):
                    yield row[1:]
                    low = row[0] + 1
            except _RAISED as error:
                if not _unreadable(error):
                    raise
                probes += 1
                if low >= high or probes > PROBES_MAX:
                    yield None
                else:
                    middle = (low + high) // 2
                    ranges += [(middle + 1, high), (low, middle)]

    def _key_of(self, table: str) -> list[str]:
        """The primary key of a table that has no rowids; empty for one that has."""
        kept = self.rows("SELECT 1 FROM pragma_table_list WHERE name = ? AND schema = 'main' AND wr = 1", (table,))
        info = self.rows(f'PRAGMA table_info("{table}")') if kept else []
        return [str(row[1]) for row in sorted(info, key=lambda row: int(row[5] or 0)) if row[5]]

    def _by_key(self, table: str, columns: Sequence[str], key: Sequence[str]) -> Iterator[Row | None]:
        """From both ends to where the first and the last page are damaged: such a table is its own only index."""
        places = [columns.index(name) for name in key]
        last: Row | None = None
        select = f'SELECT {quoted(columns)} FROM "{table}" ORDER BY '
        try:
            for row in self.connection.execute(select + ", ".join(f'"{name}"' for name in key)):
                last = row
                yield row
            return
        except _RAISED as error:
            if not _unreadable(error):
                raise
        yield None
        reached = None if last is None else tuple(last[place] for place in places)
        try:
            for row in self.connection.execute(select + ", ".join(f'"{name}" DESC' for name in key)):
                if reached is not None and tuple(row[place] for place in places) <= reached:
                    return
                yield row
        except _RAISED as error:
            if not _unreadable(error):
                raise

    def _last_rowid(self, table: str) -> int:
        try:
            return int(self.rows(f'SELECT max(rowid) FROM "{table}"')[0][0] or 0)
        except DatabaseCorrupt:
            return ROWIDS_GUESSED

    def close(self) -> None:
        self.connection.close()


@contextmanager
def told(path: Path) -> Generator[None, None, None]:
    """What SQLite and the system raise, as facts with a remedy."""
    try:
        yield
    except _RAISED as error:
        if isinstance(error, UnicodeDecodeError) or _code(error) in _CORRUPT:
            raise DatabaseCorrupt(f"{path} is damaged ({error}); run: adjourn db check") from error
        if _code(error) == sqlite3.SQLITE_FULL:
            raise StorageFull(f"no space is left beside {path}; free some, or choose another disk") from error
        raise Unavailable(f"{path} cannot be used ({error}); check that it may be read and is not locked") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space is left beside {path}; free some, or choose another disk") from error
        raise Unavailable(f"{path} cannot be written ({error.strerror}); check the directory and its rights") from error


def _code(error: sqlite3.Error) -> int:
    """The primary result code. See https://sqlite.org/rescode.html"""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _unreadable(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """To one who only looks, a table that is not there is damage (to the schema), and so is what the disk refuses."""
    if isinstance(error, UnicodeDecodeError):
        return True
    return _code(error) in (*_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_IOERR)


def quoted(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def beside(path: Path, suffix: str) -> Path:
    return Path(f"{path}-{suffix}")


def publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Synced, then in its place under its name, whole or not at all. Raises AlreadyExists."""
    sync(temporary)
    if overwrite:
        os.replace(temporary, path)
    else:
        try:
            os.link(temporary, path)  # unlike a rename, this fails if another was quicker
        except FileExistsError as error:
            raise AlreadyExists(f"{path} exists already; choose another name") from error
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def discard(temporary: Path) -> None:
    for path in (temporary, beside(temporary, "journal"), beside(temporary, "wal"), beside(temporary, "shm")):
        path.unlink(missing_ok=True)


def _lenient(text: bytes) -> str:
    return text.decode(errors="replace")
