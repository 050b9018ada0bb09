"""Backups are whole, consistent, and come back on either database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from tests.databases.filling import append, contents, fill, findings, new_url, opened, run
from tests.postgres import fresh_database, server

from adjourn.databases.backup import backup, restore
from adjourn.databases.check import reading
from adjourn.databases.files import FileReader
from adjourn.errors import AlreadyExists, ConfigInvalid, DatabaseCorrupt, DatabaseTooNew, NotFound
from adjourn.logs.check import check_log

BOTH = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
@BOTH
def test_a_backup_comes_back_on_either_database(kind: str, target: str, tmp_path: Path) -> None:
    """Every row of every table, the secret and the partitions with them, is the same after backup and restore."""
    source, restored, again = new_url(kind, tmp_path), new_url(target, tmp_path, "b"), new_url(kind, tmp_path, "c")
    asyncio.run(fill(source, 3_000))
    before = contents(source)
    copied = backup(source, tmp_path / "backup")
    assert contents(source) == before
    assert copied.events == 3_000
    assert restore(tmp_path / "backup", restored).rows == copied.rows
    backup(restored, tmp_path / "second")
    restore(tmp_path / "second", again)
    assert contents(restored) == contents(again) == before
    assert findings(restored) == findings(again) == []
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".part", "-wal", "-journal"))]


@BOTH
def test_a_restored_database_goes_on(kind: str, tmp_path: Path) -> None:
    """A server on a restored database appends after the last event of the backup, under new leases."""
    url = new_url(kind, tmp_path, "b")
    asyncio.run(fill(f"sqlite:///{tmp_path}/a.db", 100))
    backup(f"sqlite:///{tmp_path}/a.db", tmp_path / "backup")
    restore(tmp_path / "backup", url)
    assert [len(_rows(url, f"SELECT * FROM {table}")) for table in ("lanes", "leases")] == [0, 0]

    async def go_on() -> None:
        async with opened(url) as database:
            assert database.partitions == 1
            await database.write(append, range(101, 151))

    asyncio.run(go_on())
    assert _rows(url, "SELECT next_offset FROM log_heads") == [(150,)]
    assert findings(url) == []


@BOTH
def test_a_backup_under_writes_is_one_instant(kind: str, tmp_path: Path) -> None:
    """A backup made while a writer appends has dense offsets that end at its heads, and the writer is not held up."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 2_000))

    async def write_meanwhile() -> list[int]:
        written, done = 2_001, threading.Event()
        heads: list[int] = []

        def back_up() -> None:
            try:
                for number in range(3):
                    heads.append(backup(url, tmp_path / f"backup{number}").events)
            finally:
                done.set()

        thread = threading.Thread(target=back_up)
        async with opened(url) as database:
            thread.start()
            while not done.is_set():
                await database.write(append, range(written, written + 20), key=str(written))
                written += 20
        thread.join()
        return [2_000, *heads, written - 1]

    heads = asyncio.run(write_meanwhile())
    assert heads == sorted(heads)
    assert heads[-1] > 2_000
    assert len(heads) == 5
    for number in range(3):
        with reading(f"sqlite:///{tmp_path}/backup{number}") as reader:
            assert list(check_log(reader)) == []
            assert reader.rows("SELECT sum(next_offset - tail_offset) FROM log_heads") == [(heads[number + 1],)]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A backup replaces a file only by force, and never the database itself or one in use."""
    url, path = f"sqlite:///{tmp_path}/a.db", tmp_path / "backup"
    asyncio.run(fill(url, 50))
    path.write_text("mine")
    with pytest.raises(AlreadyExists, match="--force"):
        backup(url, path)
    assert path.read_text() == "mine"
    assert backup(url, path, force=True).events == 50
    with pytest.raises(AlreadyExists, match="the database itself"):
        backup(url, tmp_path / "a.db", force=True)
    (tmp_path / "backup-wal").write_bytes(b"")
    with pytest.raises(AlreadyExists, match="in use"):
        backup(url, path, force=True)


@BOTH
def test_restoring_takes_an_empty_place(kind: str, tmp_path: Path) -> None:
    """A database that holds something is not restored into, nor is a leftover write-ahead log replayed over one."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 50))
    before = contents(url)
    backup(url, tmp_path / "backup")
    with pytest.raises(AlreadyExists):
        restore(tmp_path / "backup", url)
    assert contents(url) == before
    (tmp_path / "b.db-wal").write_bytes(b"left over")
    with pytest.raises(AlreadyExists, match=r"b\.db-wal"):
        restore(tmp_path / "backup", f"sqlite:///{tmp_path}/b.db")


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    """A damaged, foreign, newer or missing file is refused with what is wrong, before anything is created."""
    url, path = f"sqlite:///{tmp_path}/a.db", tmp_path / "backup"
    asyncio.run(fill(url, 500))
    backup(url, path)
    whole = path.read_bytes()
    for error, match, change in (
        (DatabaseCorrupt, "no SQLite database", lambda: path.write_bytes(b"\0" * 100 + whole[100:])),
        (DatabaseCorrupt, "missing", lambda: path.write_bytes(whole[: len(whole) // 2])),
        (NotFound, "no file", path.unlink),
        (ConfigInvalid, "no Adjourn database", lambda: run(f"sqlite:///{path}", "CREATE TABLE t (a)")),
        (DatabaseTooNew, "9999", lambda: _too_new(path, whole)),
    ):
        change()
        for target in (f"sqlite:///{tmp_path}/new/b.db", f"{server().url()}"):
            with pytest.raises(error, match=match):
                restore(path, target)
    assert not (tmp_path / "new" / "b.db").exists()


def _too_new(path: Path, whole: bytes) -> None:
    path.write_bytes(whole)
    run(f"sqlite:///{path}", "UPDATE alembic_version SET version_num = '9999'")


def test_a_failed_restore_leaves_postgresql_empty(tmp_path: Path) -> None:
    """A row that PostgreSQL refuses undoes the whole restore, tables included."""
    source, target = f"sqlite:///{tmp_path}/a.db", fresh_database()
    asyncio.run(fill(source, 50))
    backup(source, tmp_path / "backup")
    run(f"sqlite:///{tmp_path}/backup", "UPDATE quarantine SET received_ms = 'yesterday'")
    with pytest.raises(DatabaseCorrupt, match="quarantine has a bad row"):
        restore(tmp_path / "backup", target)
    assert _rows(target, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
    run(f"sqlite:///{tmp_path}/backup", "UPDATE quarantine SET received_ms = 1, message = ?", ("a\0b",))
    restore(tmp_path / "backup", target)
    assert _rows(target, "SELECT message FROM quarantine") == [("a\N{REPLACEMENT CHARACTER}b",)]


def test_what_is_readable_is_salvaged(tmp_path: Path) -> None:
    """Of a file with overwritten pages, every readable row is saved, and what is missing is said."""
    url, path = f"sqlite:///{tmp_path}/a.db", tmp_path / "a.db"
    asyncio.run(fill(url, 5_000))
    before = contents(url)
    whole = path.read_bytes()
    pages = [whole[i : i + 4096] for i in range(0, len(whole), 4096)]
    for page in _pages_of(path, "log_blocks"):
        pages[page - 1] = os.urandom(4096)
    path.write_bytes(b"".join(pages))
    with pytest.raises(ConfigInvalid, match="only a SQLite file"):
        backup(server().url(), tmp_path / "no", salvage=True)
    with pytest.raises(DatabaseCorrupt):
        backup(url, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    copied = backup(url, tmp_path / "saved", salvage=True)
    restore(tmp_path / "saved", f"sqlite:///{tmp_path}/b.db")
    after = contents(f"sqlite:///{tmp_path}/b.db")
    lost = set(before.pop("log_blocks")) - set(after["log_blocks"])
    assert 1 <= len(lost) < 60
    assert set(copied.skipped) == {"log_blocks"}
    assert before == {table: rows for table, rows in after.items() if table != "log_blocks"}
    assert all("missing" in finding.what for finding in findings(f"sqlite:///{tmp_path}/b.db"))


def test_a_salvaged_log_can_be_appended_to(tmp_path: Path) -> None:
    """Where the heads, the version and the installation are unreadable, they are made anew from the blocks."""
    url, path = f"sqlite:///{tmp_path}/a.db", tmp_path / "a.db"
    asyncio.run(fill(url, 500))
    with closing(sqlite3.connect(path)) as connection:
        roots = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name IN ('log_heads', 'installation', 'alembic_version')"
        ).fetchall()
    with path.open("r+b") as file:
        for (root,) in roots:
            file.seek((root - 1) * 4096)
            file.write(os.urandom(4096))
    assert set(backup(url, tmp_path / "saved", salvage=True).skipped) == {"log_heads", "installation"}
    restored = f"sqlite:///{tmp_path}/b.db"
    restore(tmp_path / "saved", restored)
    asyncio.run(fill_more(restored))
    assert _rows(restored, "SELECT next_offset, tail_offset FROM log_heads") == [(550, 0)]
    assert findings(restored) == []


async def fill_more(url: str) -> None:
    async with opened(url) as database:
        await database.write(append, range(1_000, 1_050))


def _pages_of(path: Path, table: str) -> list[int]:
    """Three pages in the middle of a table's tree."""
    with closing(sqlite3.connect(path)) as connection:
        try:
            rows = connection.execute(
                "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY pageno", (table,)
            ).fetchall()
        except sqlite3.OperationalError:
            pytest.fail("this SQLite has no dbstat; choose pages by hand")
    return [row[0] for row in rows[len(rows) // 2 :][:3]]


def _rows(url: str, sql: str) -> list[tuple[object, ...]]:
    with reading(url) as reader:
        return list(reader.rows(sql))


def test_a_reader_leaves_the_file_alone(tmp_path: Path) -> None:
    """Looking at a database makes no file beside it and cannot write to it."""
    asyncio.run(fill(f"sqlite:///{tmp_path}/a.db", 50))
    before = sorted(os.listdir(tmp_path))
    with closing(FileReader(tmp_path / "a.db")) as reader:
        assert reader.rows("SELECT sum(count) FROM log_blocks") == [(50,)]
        with pytest.raises(Exception, match="readonly"):
            reader.rows("DELETE FROM log_blocks")
    assert sorted(os.listdir(tmp_path)) == before
