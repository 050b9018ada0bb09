"""A URL names a database, or is refused with what would be right."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests import postgres

from adjourn.databases.choose import database_for, sqlite_path
from adjourn.errors import ConfigInvalid, Unavailable
from adjourn.testing.database_rig import Recorder


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////var/lib/a.db", Path("/var/lib/a.db")),
        ("sqlite:///data/a.db", Path("data/a.db").absolute()),
        ("postgresql://host/db", None),
        ("", None),
    ],
)
def test_a_file_s_path(url: str, path: Path | None) -> None:
    """Three slashes are a path from here, four an absolute one; other URLs name no file."""
    assert sqlite_path(url) == path


@pytest.mark.parametrize("url", ["", "mysql://root:secret@host/db", "/var/lib/a.db", "sqlite://a.db"])
def test_other_urls_are_refused(url: str) -> None:
    """What is no database of ours is refused with a remedy, and without printing what may hold a password."""
    with pytest.raises(ConfigInvalid, match="use sqlite") as refused:
        database_for(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["plain.db", "what?.db", "100%41.db", "sp ace#1.db", "é🦀.db"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    """The file has the name that the URL ends with, whatever characters it holds, and is opened again under it."""

    async def run() -> None:
        for _ in range(2):
            database = database_for(f"sqlite:///{tmp_path}/deep/er/{name}")
            await database.open(Recorder())
            assert database.dialect == "sqlite"
            assert database.partitions == 1
            await database.close()

    asyncio.run(run())
    assert {file.name for file in (tmp_path / "deep" / "er").iterdir()} == {name, f"{name}.lane", f"{name}.migrate"}


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_both_schemes_of_postgres_work(scheme: str) -> None:
    """`postgres://` is `postgresql://`; the number of lanes is fixed when the database is made."""
    url = postgres.fresh_database().replace("postgresql", scheme, 1)

    async def run(lanes: int) -> int:
        database = database_for(url, lanes=lanes)
        await database.open(Recorder())
        partitions = database.partitions
        await database.close()
        return partitions

    assert [asyncio.run(run(lanes)) for lanes in (3, 1)] == [3, 3]


def test_an_unreachable_database_says_so_without_its_password(tmp_path: Path) -> None:
    """Opening what cannot be reached raises Unavailable with the place, and never the password."""
    database = database_for("postgresql://me:hush@127.0.0.1:1/db")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1") as refused:
        asyncio.run(database.open(Recorder()))
    assert "hush" not in str(refused.value)
    asyncio.run(database.close())
