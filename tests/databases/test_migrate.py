"""A database is brought to this version once, whole or not at all, and never back from a newer one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.databases.filling import fill, new_url, opened, run

from adjourn.databases.check import reading
from adjourn.databases.choose import store_for
from adjourn.databases.upgrade import engine_for, upgrade
from adjourn.errors import DatabaseTooNew, Unavailable
from adjourn.migrations import HEAD
from adjourn.schema import metadata

BOTH = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
PREPARE = "import sys; from adjourn.databases.choose import store_for; print(store_for(sys.argv[1], lanes=3).prepare())"


def _rows(url: str, sql: str) -> list[tuple[object, ...]]:
    with reading(url) as reader:
        return list(reader.rows(sql))


def _tables(url: str) -> list[str]:
    if url.startswith("sqlite"):
        return sorted(str(name) for (name,) in _rows(url, "SELECT name FROM sqlite_master WHERE type = 'table'"))
    return sorted(str(name) for (name,) in _rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))


@BOTH
def test_the_tables_are_those_of_the_schema(kind: str, tmp_path: Path) -> None:
    """A migrated database differs in nothing from schema.py: tables, columns, types, indexes, nullability."""
    url = new_url(kind, tmp_path)
    store_for(url).prepare()
    engine = engine_for(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    assert _tables(url) == sorted([*metadata.tables, "alembic_version"])


@BOTH
def test_two_that_start_at_once_migrate_once(kind: str, tmp_path: Path) -> None:
    """Processes that open a fresh database together end on one version, one secret, and the same partitions."""
    url = new_url(kind, tmp_path)
    command = [sys.executable, "-c", PREPARE, url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    partitions = b"1\n" if kind == "sqlite" else b"3\n"
    assert said == [(partitions, b"")] * 2
    assert _rows(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert _rows(url, "SELECT count(*) FROM installation") == [(1,)]
    assert _rows(url, "SELECT count(*) FROM log_heads") == [(int(partitions),)]


@BOTH
def test_opening_again_changes_nothing(kind: str, tmp_path: Path) -> None:
    """The secret and the partitions are made once; later settings do not change them."""
    url = new_url(kind, tmp_path)
    partitions = store_for(url, lanes=2).prepare()
    before = _rows(url, "SELECT * FROM installation")
    assert store_for(url, lanes=4).prepare() == partitions
    assert _rows(url, "SELECT * FROM installation") == before


@BOTH
def test_a_newer_database_is_not_touched(kind: str, tmp_path: Path) -> None:
    """A database that a newer version migrated is refused on opening, with the remedy, and stays as it is."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 50))
    run(url, "UPDATE alembic_version SET version_num = '9999'")
    before = _rows(url, "SELECT * FROM lanes")

    async def open_it() -> None:
        async with opened(url):
            raise AssertionError("it was opened")

    with pytest.raises(DatabaseTooNew, match=r"version 9999.*upgrade Adjourn"):
        asyncio.run(open_it())
    assert _rows(url, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert _rows(url, "SELECT * FROM lanes") == before


@BOTH
def test_a_failed_migration_leaves_the_old_version(kind: str, tmp_path: Path) -> None:
    """A migration that fails in its last step undoes its first ones; once the cause is gone it goes through."""
    url = new_url(kind, tmp_path)
    run(url, "CREATE TABLE quarantine (mine text)")
    with pytest.raises(Unavailable, match="could not be migrated"):
        store_for(url).prepare()
    assert _tables(url) == ["quarantine"]
    with pytest.raises(Exception, match="quarantine"):
        upgrade(url)
    assert _tables(url) == ["quarantine"]
    run(url, "DROP TABLE quarantine")
    store_for(url).prepare()
    assert _rows(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.parametrize(
    ("place", "remedy"),
    [
        ("file/adjourn.db", "let this user write to {0}/file and what is in it, or name another place: data_dir, or"),
        ("file", "if it is Adjourn's, it is damaged: restore the last backup; else name another in database.url"),
        ("folder", "let this user write to {0} and what is in it"),
    ],
)
def test_a_file_that_cannot_be_opened_says_what_to_do(tmp_path: Path, place: str, remedy: str) -> None:
    """The remedy fits the cause: a place that cannot be written to, a file that is no database."""
    (tmp_path / "file").write_text("no database, and long enough for SQLite to see that" * 20)
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unavailable) as refused:
        store_for(f"sqlite:///{tmp_path}/{place}").prepare()
    assert f"the database {tmp_path}/{place} cannot be opened (" in refused.value.message
    assert remedy.format(tmp_path) in refused.value.message


def test_a_server_that_is_away_is_told_on_one_line() -> None:
    """psycopg's words are lines; an error's message is one, without the password."""
    with pytest.raises(Unavailable) as refused:
        store_for("postgresql://user:secret@127.0.0.1:1/name").prepare()
    assert "\n" not in refused.value.message
    assert "secret" not in refused.value.message
    assert refused.value.message.endswith("; check database.url, and that the server is reachable")
