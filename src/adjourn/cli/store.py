"""The database of the settings, opened by a command: alone, or as a whole node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from adjourn.errors import NotFound

if TYPE_CHECKING:
    from adjourn.database import Appended, Tx
    from adjourn.databases.laned import LanedDatabase
    from adjourn.logs.sql import SqlLog
    from adjourn.node import Node
    from adjourn.settings import Settings


class NoEvents:
    """The log's part in the writes of commands that never append."""

    def append(self, tx: Tx, partition: int, pending: Sequence[Appended]) -> None:
        if pending:
            raise RuntimeError("this command opened the database without its log")

    def committed(self, partition: int) -> None:
        return

    def discarded(self, partition: int) -> None:
        return


def require_database(settings: Settings) -> None:
    """For commands that look at what is there: in the wrong directory, an empty database would only seem an answer.
    Raises NotFound."""
    from adjourn.databases.choose import sqlite_path

    path = sqlite_path(settings.database_url)
    if path is not None and not path.exists():
        raise NotFound(
            f"there is no database at {path}; go to the directory that the server was started in, or say where it is "
            "with --config or --set data_dir=…"
        )


@asynccontextmanager
async def opened(settings: Settings, *, create: bool = False) -> AsyncGenerator[LanedDatabase]:
    """The database without log or destinations, beside whatever else has it open; migrated as needed.
    Raises NotFound where there is none, unless it is to be created."""
    from adjourn.databases.choose import database_for

    if not create:
        require_database(settings)
    database = database_for(
        settings.database_url,
        durability=settings.database.durability,
        lanes=settings.database.lanes,
        readers=1,
        write_timeout_ms=settings.database.write_timeout_ms,
    )
    await database.open(NoEvents())
    try:
        yield database
    finally:
        await database.close()


def log_of(database: LanedDatabase) -> SqlLog:
    """For reading by place; looking up by id would need the installation's secret."""
    from adjourn.clock import SystemClock
    from adjourn.logs.sql import SqlLog

    def no_hash(tenant: str, event_id: str) -> bytes:
        raise RuntimeError("this command opened the log for reading by place")

    return SqlLog(database, SystemClock(), id_hash=no_hash)


async def delivered(node: Node) -> bool:
    """Whether all that is in the log reached every destination, waiting for it no longer than a server would."""
    try:
        await asyncio.wait_for(node.delivery.drained(), node.settings.server.drain_ms_max / 1000)
    except TimeoutError:
        return False
    return True
