"""The log on tables of both databases, as a rig of the conformance suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.databases.rigs import DatabaseRig

from adjourn.clock import Clock
from adjourn.database import Reader, Tx
from adjourn.databases.laned import LanedDatabase
from adjourn.logs.append import Conflict, Keep, SqlAppender
from adjourn.logs.leases import SqlLeases
from adjourn.logs.sql import SqlLog, register
from adjourn.testing.exercise_log import WINDOW_S, Node, hash_of, judge


class SqlNode(Node):
    database: LanedDatabase
    log: SqlLog
    appender: SqlAppender


class LogRig(DatabaseRig):
    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__(kind, folder)
        self.conflicts: list[Conflict] = []

    async def open(
        self, clock: Clock, owner: str = "a", *, keep: Keep | None = None, window_memory_bytes: int = 50_000_000
    ) -> SqlNode:
        database = self.connect()
        log = SqlLog(database, clock, id_hash=hash_of)
        appender = SqlAppender(
            judge=judge,
            keep=keep or self._keep,
            window_s=WINDOW_S,
            window_memory_bytes=window_memory_bytes,
            clock=clock,
            on_commit=log.announce,
            on_discard=log.distrust,
        )
        await database.open(appender)

        async def counts(consumer: str) -> Mapping[str, int]:
            return await database.read(_counts, consumer)

        node = SqlNode(database, log, SqlLeases(database, clock, owner), _register, _disable, counts)
        node.appender = appender
        return node

    async def shut(self, node: Node) -> None:
        await node.database.close()

    def _keep(self, _: Tx, conflicts: Sequence[Conflict]) -> None:
        self.conflicts.extend(conflicts)


def _register(tx: Tx, consumer: str, partition: int, drop_after_ms: int | None) -> None:
    register(tx, consumer, partition, drop_after_ms=drop_after_ms)


def _disable(tx: Tx, consumer: str) -> None:
    tx.run("UPDATE cursors SET live = 0 WHERE consumer = ?", (consumer,))


def _counts(reader: Reader, consumer: str) -> dict[str, int]:
    rows = reader.rows("SELECT kind, count FROM consumer_counts WHERE consumer = ?", (consumer,))
    found: dict[str, int] = {}
    for kind, count in rows:
        found[str(kind)] = found.get(str(kind), 0) + int(count or 0)
    return found
