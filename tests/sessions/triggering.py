"""What tests of triggers share: sessions in their table, and a door to turns that keeps what it was asked, by key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.databases.rigs import DatabaseRig, opened

from adjourn.clock import ManualClock
from adjourn.database import Database, Tx, Value
from adjourn.errors import AdjournError, KeyReused
from adjourn.schema_sessions import sessions
from adjourn.sessions import trigger_rows as rows
from adjourn.sessions.hosting import Pattern
from adjourn.sessions.trigger_rows import Kept, TriggerKey
from adjourn.sessions.trigger_service import Triggers
from adjourn.sessions.triggers import Trigger
from adjourn.sessions.turn import Message, TurnResult

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


class Door:
    """Begins turns as a node does: the same key begins one turn, and other words under it are refused. `refuses` is
    asked first, and may raise or wait."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[str, Message]] = {}
        self.asked = 0
        self.refuses: Callable[[str, str], Coroutine[Any, Any, None]] | None = None
        self.after: Callable[[], None] = lambda: None

    async def __call__(
        self, tenant: str, session_id: str, trigger_name: str, message: Message, *, idempotency_key: str
    ) -> TurnResult:
        self.asked += 1
        key = idempotency_key or f"none/{self.asked}"
        before = self.begun.get(key)
        if before is not None and before[1] != message:
            raise KeyReused("this key came before with another message; send each with its own")
        if before is None:
            if self.refuses is not None:
                await self.refuses(session_id, trigger_name)
            self.begun[key] = (session_id, message)
        self.after()
        return TurnResult(turn_id=f"turn_{list(self.begun).index(key)}", number=1, status="running")

    def refuse(self, error: AdjournError | Exception | None) -> None:
        async def refuses(session_id: str, name: str) -> None:
            if error is not None:
                raise error

        self.refuses = refuses

    @property
    def prompts(self) -> list[str]:
        return [message.prompt or "" for _, message in self.begun.values()]


class Rig:
    """A database, a clock that stands still, a door; `node()` is another node over them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.clock = ManualClock()
        self.door = Door()
        self.triggers = self.node()

    def node(self, *, folders: tuple[str, ...] = ()) -> Triggers:
        return Triggers(
            self.database,
            self.clock,
            self.door,
            workspace=lambda tenant, session_id: str(self.folder / tenant / session_id),
            folders=folders,
        )

    async def session(self, session_id: str = "s", pattern: Pattern = "long_running") -> None:
        await self.database.write(_insert, session_id, pattern)

    async def put(self, *triggers: Trigger, session_id: str = "s") -> None:
        for trigger in triggers:
            await self.triggers.put("t", session_id, trigger)

    async def kept(self, name: str = "a", session_id: str = "s") -> Kept:
        found = await self.database.read(rows.find, TriggerKey("t", session_id, name))
        assert found is not None
        return found

    async def later(self, seconds: float, node: Triggers | None = None) -> None:
        """Time passes, and the node looks."""
        self.clock.advance(seconds)
        await settled(node or self.triggers)


async def settled(node: Triggers) -> None:
    """It looks, and all that it has begun is done."""
    await node.look()
    await node.stop(60)


def put_file(rig: Rig, name: str, text: str = "x") -> None:
    """Into the workspace of the session `s` of the tenant `t`, as it is after each turn that has begun."""
    path = rig.folder / "t" / "s" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (len(rig.door.begun), 1_000))


def rigged(kind: str, folder: Path, work: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with opened(DatabaseRig(kind, folder).connect()) as database:
            await work(Rig(database, folder))

    asyncio.run(run())


def _insert(tx: Tx, session_id: str, pattern: str) -> None:
    given: dict[str, Value] = {"tenant": "t", "id": session_id, "root_id": session_id, "pattern": pattern}
    plain: dict[str, Value] = {"TEXT": "", "BIGINT": 0, "BLOB": b"{}"}
    columns = [column for column in sessions.columns if not column.nullable]
    values = [given.get(column.name, plain[str(column.type)]) for column in columns]
    names, marks = ", ".join(column.name for column in columns), ", ".join("?" * len(columns))
    tx.run(f"INSERT INTO sessions ({names}) VALUES ({marks})", values)
