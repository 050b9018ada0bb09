"""Backups: one SQLite file with every table, made while writers write, restored into SQLite or PostgreSQL.

A SQLite database is copied by VACUUM INTO: one statement, one snapshot, at its own pace, while others write and
checkpoint (the write-ahead log only cannot be cut back past the snapshot until it is done). The backup API would start
over whenever another connection writes between two of its steps, and so might never finish; taken in one step it holds
the same snapshot, but copies free pages and page-level damage along. A PostgreSQL database is copied table by table out
of one REPEATABLE READ snapshot, streamed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from adjourn.database import Row
from adjourn.databases.check import check_pages, check_tables
from adjourn.databases.choose import sqlite_path, store_for
from adjourn.databases.files import FileReader, beside, discard, publish, quoted, told
from adjourn.databases.transfer import PostgresReader, copy_in, copy_out
from adjourn.databases.upgrade import upgrade
from adjourn.errors import AlreadyExists, ConfigInvalid, DatabaseCorrupt, DatabaseTooNew, NotFound
from adjourn.migrations import HEAD

OF_PROCESSES = ("lanes", "leases")
"""These rows belong to processes that run, or ran; a backup has none of them."""

_MEND = (
    # Heads that are lost, or behind the blocks, would make the next append collide with what is there.
    "INSERT INTO log_heads (partition, next_offset, tail_offset) SELECT partition, 0, min(first_offset) "
    "FROM log_blocks WHERE partition NOT IN (SELECT partition FROM log_heads) GROUP BY partition",
    "UPDATE log_heads SET next_offset = max(next_offset, (SELECT coalesce(max(first_offset + count), 0) "
    "FROM log_blocks WHERE log_blocks.partition = log_heads.partition))",
    # A new secret: events from before are not recognised when they are sent again, but nothing else needs the old one.
    "INSERT INTO installation (id, secret, partitions, created_ms) SELECT 1, randomblob(32), "
    "(SELECT max(1, coalesce(max(partition) + 1, 1)) FROM log_heads), strftime('%s', 'now') * 1000 "
    "WHERE NOT EXISTS (SELECT 1 FROM installation)",
)


class Copied(msgspec.Struct, frozen=True):
    """What a backup or a restored database holds. `skipped`: stretches of rows that could not be read, by table."""

    version: str
    events: int
    rows: dict[str, int]
    file_bytes: int
    skipped: dict[str, int] = {}


def backup(url: str, path: Path, *, force: bool = False, salvage: bool = False) -> Copied:
    """Write a consistent backup to `path`, whole or not at all, synced. `force` overwrites; `salvage` takes what can be
    read of a damaged SQLite file. Raises AlreadyExists, DatabaseCorrupt, DatabaseTooNew, NotFound, StorageFull,
    Unavailable."""
    source = sqlite_path(url)
    _refuse_target(path, source, force=force)
    if salvage and source is None:
        raise ConfigInvalid("only a SQLite file can be salvaged; of PostgreSQL, restore the last backup")
    skipped: dict[str, int] = {}
    with _temporary(path) as temporary:
        if source is None:
            _from_postgres(url, temporary)
        elif salvage:
            skipped = _salvage(source, temporary)
        else:
            _vacuum(source, temporary)
        copied = _read_back(temporary, skipped)
        publish(temporary, path, overwrite=force)
    return copied


def restore(path: Path, url: str) -> Copied:
    """Put a backup into a new SQLite file or an empty PostgreSQL database, and bring it to this version. It is verified
    first; an error leaves nothing behind. Raises AlreadyExists, ConfigInvalid, DatabaseCorrupt, DatabaseTooNew,
    NotFound, StorageFull, Unavailable."""
    version = _verify(path)
    target = sqlite_path(url)
    if target is None:
        store_for(url)  # refuses what is no URL of a database
        with closing(FileReader(path)) as reader:
            copy_in(reader, url, version, skip=OF_PROCESSES)
    else:
        _refuse_occupied(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as temporary:
            _vacuum(path, temporary)
            if version != HEAD:
                upgrade(f"sqlite:///{temporary}")
            publish(temporary, target, overwrite=target.exists())
    return _summary(path, {})


def _read_back(temporary: Path, skipped: dict[str, int]) -> Copied:
    """What cannot be read back now is no backup."""
    with closing(FileReader(temporary)) as reader:
        damage = check_pages(reader)
    if damage is not None:
        raise DatabaseCorrupt(f"the backup came out damaged ({damage.what}); check the disk that it is written to")
    return _summary(temporary, skipped)


def _refuse_target(path: Path, source: Path | None, *, force: bool) -> None:
    if source is not None and path.resolve() == source.resolve():
        raise AlreadyExists(f"{path} is the database itself; name another file for its backup")
    if beside(path, "wal").exists():
        raise AlreadyExists(f"{path} is a database in use (it has a write-ahead log); name another file")
    if path.exists() and not force:
        raise AlreadyExists(f"{path} exists already; name another file, or overwrite it with --force")


def _refuse_occupied(target: Path) -> None:
    """An old write-ahead log would be replayed over what is restored, and ruin it."""
    for path in (target, beside(target, "wal"), beside(target, "journal")):
        if path.exists() and path.stat().st_size:
            raise AlreadyExists(f"{path} exists already; restore into a new file, or move that one away first")


@contextmanager
def _temporary(path: Path) -> Generator[Path, None, None]:
    """A name beside `path`, so that one rename puts it in place."""
    if not path.parent.is_dir():
        raise NotFound(f"there is no directory {path.parent}; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part").absolute()
    with told(path):
        discard(temporary)
        try:
            yield temporary
        finally:
            discard(temporary)


def _vacuum(source: Path, temporary: Path) -> None:
    with closing(FileReader(source)) as reader:
        _version(source, reader)
    with closing(_open(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(temporary),))
    with closing(_open(temporary)) as connection:
        for table in OF_PROCESSES:
            connection.execute(f"DELETE FROM {table}")


def _open(path: Path) -> sqlite3.Connection:
    """Read-write, as SQLite removes its own files beside the database again only then; nothing is written to it."""
    mode = "rw" if os.access(path, os.W_OK) else "ro"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=10)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _version(path: Path, reader: FileReader) -> str:
    """The version of a file. Raises DatabaseTooNew, ConfigInvalid."""
    version = store_for(f"sqlite:///{path}").version(reader)
    if not version:
        raise ConfigInvalid(f"{path} holds no Adjourn database; check the URL or path")
    return version


def _verify(path: Path) -> str:
    """The version of a backup that is whole."""
    if not path.exists():
        raise NotFound(f"there is no file {path}; name one that adjourn db backup wrote")
    with closing(FileReader(path)) as reader:
        damage = check_pages(reader)
        if damage is not None:
            raise DatabaseCorrupt(f"{path} cannot be restored: {damage.what}; {damage.saved}")
        version = _version(path, reader)
        for finding in check_tables(reader):
            raise DatabaseCorrupt(f"{path} cannot be restored: {finding.what}; restore another backup")
    return version


def _from_postgres(url: str, temporary: Path) -> None:
    store = store_for(url)
    with closing(PostgresReader(url)) as reader:
        version = store.version(reader)
        if not version:
            raise ConfigInvalid("that PostgreSQL database holds no Adjourn database; check the URL")
        upgrade(f"sqlite:///{temporary}", version)
        with closing(_filling(temporary)) as connection:
            for table, columns in _tables(temporary).items():
                copy_out(reader.connection, connection, table, columns)
            connection.execute("COMMIT")


def _salvage(source: Path, temporary: Path) -> dict[str, int]:
    """Every row that can still be read, in tables made anew."""
    skipped: dict[str, int] = {}
    with closing(FileReader(source)) as reader:
        try:
            found = reader.tables()
            version = _version_or_newest(source, reader)
        except DatabaseCorrupt as error:
            raise DatabaseCorrupt(
                f"nothing of {source} can be read ({error.__cause__}); restore the last backup, or try: "
                f"sqlite3 {source} .recover | sqlite3 NEW"
            ) from error
        upgrade(f"sqlite:///{temporary}", version)
        with closing(_filling(temporary)) as connection:
            for table, columns in _tables(temporary).items():
                if table in found:
                    skipped[table] = _save_rows(reader, connection, table, columns)
            for statement in _MEND:
                connection.execute(statement)
            connection.execute("COMMIT")
    return {table: count for table, count in skipped.items() if count}


def _version_or_newest(source: Path, reader: FileReader) -> str:
    try:
        return store_for(f"sqlite:///{source}").version(reader) or HEAD
    except DatabaseCorrupt:
        return HEAD
    except DatabaseTooNew:
        [(found,), *_] = reader.rows("SELECT version_num FROM alembic_version")
        if str(found).isalnum():
            raise
        return HEAD  # not a version at all, but what damage left of one


def _save_rows(reader: FileReader, connection: sqlite3.Connection, table: str, columns: list[str]) -> int:
    skipped = 0

    def good() -> Iterator[Row]:
        nonlocal skipped
        for row in reader.readable(table, columns):
            if row is None:
                skipped += 1
            else:
                yield row

    connection.executemany(_insert(table, columns, verb="INSERT OR IGNORE"), good())
    return skipped


def _tables(path: Path) -> dict[str, list[str]]:
    with closing(FileReader(path)) as reader:
        tables = reader.tables()
    return {name: columns for name, columns in tables.items() if name not in (*OF_PROCESSES, "alembic_version")}


def _filling(path: Path) -> sqlite3.Connection:
    """Synced once, when all is in it: until then it has no name that anybody knows."""
    connection = _open(path)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("BEGIN")
    return connection


def _insert(table: str, columns: list[str], *, verb: str = "INSERT") -> str:
    return f'{verb} INTO "{table}" ({quoted(columns)}) VALUES ({", ".join("?" * len(columns))})'


def _summary(path: Path, skipped: dict[str, int]) -> Copied:
    with closing(FileReader(path)) as reader:
        version = str(reader.rows("SELECT version_num FROM alembic_version")[0][0])
        rows = {table: _count(reader, table) for table in reader.tables() if table not in OF_PROCESSES}
        events = int(reader.rows("SELECT coalesce(sum(count), 0) FROM log_blocks")[0][0] or 0)
    return Copied(version, events, rows, path.stat().st_size, skipped)


def _count(reader: FileReader, table: str) -> int:
    return int(reader.rows(f'SELECT count(*) FROM "{table}"')[0][0] or 0)
