"""Both databases as rigs: a new SQLite file, or a new database on the shared PostgreSQL."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import psycopg
from tests import postgres

from adjourn.database import Database, Row
from adjourn.databases.choose import database_for, store_for
from adjourn.databases.laned import LanedDatabase
from adjourn.testing.database_rig import Recorder

KINDS = ("sqlite", "postgresql")
D = TypeVar("D", bound=Database)
_numbers = itertools.count(1)


def fresh_url(kind: str, folder: Path) -> str:
    """A migrated, empty database: a copy of one that was migrated once for all tests."""
    if kind == "sqlite":
        path = folder / f"db{next(_numbers)}" / "adjourn.db"
        path.parent.mkdir()
        shutil.copy(_sqlite_template(), path)
        return f"sqlite:///{path}"
    name = f"copy_{next(_numbers)}"
    with psycopg.connect(postgres.server().url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_postgres_template()}".encode())
    return postgres.server().url(name)


@functools.cache
def _sqlite_template() -> Path:
    folder = tempfile.mkdtemp(prefix="adjourn-template-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "adjourn.db"
    store_for(f"sqlite:///{path}").prepare()
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@functools.cache
def _postgres_template() -> str:
    url = postgres.fresh_database()
    store_for(url).prepare()
    return url.rpartition("/")[2]


class DatabaseRig:
    """One place; every `connect` is another node over it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.url = fresh_url(kind, folder)

    def connect(
        self, *, queue_events_max: int = 50_000, write_timeout_ms: int = 10_000, url: str | None = None
    ) -> LanedDatabase:
        return database_for(
            url or self.url, readers=2, queue_events_max=queue_events_max, write_timeout_ms=write_timeout_ms
        )

    async def close(self) -> None: ...


def query(url: str, sql: str, *params: object) -> list[Row]:
    """Past the code under test, and committed at once. Marks are `?`."""
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(sql.replace("?", "%s").encode(), params)
            return cursor.fetchall() if cursor.description else []
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as file:
        return file.execute(sql, params).fetchall()


@contextlib.asynccontextmanager
async def opened(database: D) -> AsyncIterator[D]:
    """With the suite's recording appender; closed at the end."""
    await database.open(Recorder())
    try:
        yield database
    finally:
        await database.close()
