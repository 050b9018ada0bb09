"""From a URL to a database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adjourn.databases.driver import Driver
from adjourn.databases.laned import LanedDatabase
from adjourn.databases.migrate import Store
from adjourn.databases.postgres import PostgresDriver
from adjourn.databases.sqlite import SqliteDriver
from adjourn.errors import ConfigInvalid


def sqlite_path(url: str) -> Path | None:
    return Path(url.removeprefix("sqlite:///")).absolute() if url.startswith("sqlite:///") else None


def database_for(
    url: str,
    *,
    durability: str = "full",
    lanes: int = 2,
    readers: int = 4,
    queue_events_max: int = 50_000,
    write_timeout_ms: int = 30_000,
) -> LanedDatabase:
    """`sqlite:///path` or `postgresql://…`; nothing is touched before `open`."""
    store, connect = _store(url, durability, lanes)
    return LanedDatabase(
        store, connect, readers=readers, queue_events_max=queue_events_max, write_timeout_ms=write_timeout_ms
    )


def store_for(url: str, *, lanes: int = 2) -> Store:
    """The database as a whole; its `prepare` creates and migrates. Raises ConfigInvalid."""
    return _store(url, "full", lanes)[0]


def _store(url: str, durability: str, lanes: int) -> tuple[Store, Callable[[], Driver]]:
    path = sqlite_path(url)
    if path is not None:

        def open_file() -> Driver:
            return SqliteDriver(path, durability=durability)

        return Store("sqlite", url, open_file, path=path, partitions=1), open_file
    if url.startswith(("postgresql://", "postgres://")):

        def open_session() -> Driver:
            return PostgresDriver(url)

        return Store("postgresql", url, open_session, path=None, partitions=lanes), open_session
    raise ConfigInvalid(
        f"cannot tell a database from {url.split(':', 1)[0]!r}; use sqlite:///PATH or postgresql://…",
        path="database.url",
    )
