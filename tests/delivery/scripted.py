"""A destination that does what it is told, in a node over a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest
from tests.faults.rigs import mapping, raw, settings_of

from adjourn import channels
from adjourn.clock import Clock
from adjourn.delivery.channel import Channel
from adjourn.destination import Batch, Refusal
from adjourn.events import decode_identity
from adjourn.node import Node, Reconfigured
from adjourn.settings import DestinationSettings, Settings

Answer = Exception | Sequence[Refusal] | float


class Scripted:
    """Takes one answer of `script` a call, and everything once it is empty. A float: so many seconds later."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.calls: list[list[str]] = []
        self.ids: list[str] = []
        self.taken: list[str] = []
        self.closed = 0

    async def open(self) -> None:
        return

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        sessions = [decode_identity(event.body).session.session_id for event in batch.events]
        self.calls.append(sessions)
        self.ids.append(batch.id)
        answer = self.script.pop(0) if self.script else ()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = ()
        refused = {refusal.index for refusal in answer}
        self.taken += [session for index, session in enumerate(sessions) if index not in refused]
        return answer

    async def probe(self) -> None:
        return

    async def close(self) -> None:
        self.closed += 1


class Judging(Scripted):
    """Takes what `judge` lets pass: it is given the ids of the events that are sent, and raises, or names those that it
    refuses, with why. `passed` are the ids that were taken, in order."""

    def __init__(self, judge: Callable[[Sequence[str]], Mapping[str, Refusal]]) -> None:
        super().__init__()
        self.judge = judge
        self.passed: list[str] = []

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        ids = [decode_identity(event.body).event_id for event in batch.events]
        self.calls.append(ids)
        self.ids.append(batch.id)
        refused = self.judge(ids)
        self.passed += [one for one in ids if one not in refused]
        return [msgspec.structs.replace(refused[one], index=at) for at, one in enumerate(ids) if one in refused]


@asynccontextmanager
async def delivering(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    destination: Scripted,
    *,
    url: str = "",
    clock: Clock | None = None,
    **channel: object,
) -> AsyncGenerator[Node]:
    """A node that delivers to `destination` as `scripted`, with the channel's options over quick ones."""
    options = {"delay_ms": 1, "delay_ms_max": 5, **channel}

    def channel_of(settings: Settings, one: DestinationSettings, callables: object, *_: object) -> Channel:
        made = Channel(name="scripted", type="logfile", destination=destination)
        return msgspec.structs.replace(made, **options)

    monkeypatch.setattr(channels, "channel_of", channel_of)
    drop = {"drop_after_ms": options.pop("drop_after_ms")} if options.get("drop_after_ms") else {}
    options.pop("drop_after_ms", None)
    one = {**drop, "type": "logfile", "name": "scripted", "log_path": str(directory / "unused")}
    log = {"retention_days": 1000} if drop else {}
    mapped = mapping(directory, url, routing={"destinations": [one]}, log=log)
    async with Node(settings_of(mapped), clock=clock) as node:
        yield node


async def put(node: Node, count: int, start: int = 0) -> list[str]:
    sessions = [f"s{number}" for number in range(start, start + count)]
    await node.ingest.take("default", [raw(session) for session in sessions], source="test")
    return sessions


async def put_events(node: Node, *events: tuple[str, str]) -> None:
    """(session, event id) each, together."""
    raws = [raw(session, event_id=event_id) for session, event_id in events]
    assert {result.status for result in await node.ingest.take("default", raws, source="test")} == {"accepted"}


async def settled(node: Node) -> None:
    async with asyncio.timeout(20):
        await node.delivery.drained()


async def called(destination: Scripted) -> None:
    """Wait until the destination was sent something."""
    async with asyncio.timeout(20):
        while not destination.calls:
            await asyncio.sleep(0.001)


async def waits_for_a_lock(url: str) -> None:
    """Until some session there waits for another's row."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection, asyncio.timeout(20):
        sql = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while not await (await connection.execute(sql)).fetchall():
            await asyncio.sleep(0.01)


class Slow(Scripted):
    """Takes what it is sent once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        refused = await super().send(batch)
        await self.go.wait()
        return refused


async def reload(node: Node, **changed: object) -> Reconfigured:
    """With its one destination changed so."""
    (one,) = node.settings.routing.destinations
    routing = msgspec.structs.replace(node.settings.routing, destinations=(msgspec.structs.replace(one, **changed),))
    return await node.reconfigure(msgspec.structs.replace(node.settings, routing=routing))
