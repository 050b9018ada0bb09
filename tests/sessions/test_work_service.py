"""What is begun is gone on with, though the database never said that it took it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.sessions.hosted import ME, PATIENCE_S, got, made, new, say, sound, story, until, until_told
from tests.sessions.rigs import mapped_of, node_of

from adjourn.database import Tx
from adjourn.errors import RunnerFailed, SessionEnded, StatusRefused, TooBusy, Unavailable
from adjourn.node import Node
from adjourn.runner import Opening
from adjourn.runners.echo import EchoRunner

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


def impatient(kind: str, directory: Path) -> dict[str, Any]:
    """What the database does not answer within half a second is given up by its callers; it does it all the same."""
    mapped = mapped_of(kind, directory)
    mapped["database"]["write_timeout_ms"] = 500
    return mapped


@asynccontextmanager
async def held_up(node: Node) -> AsyncIterator[None]:
    """Its lanes wait, as for a disk that stands still, and then go on with all that was asked for meanwhile."""
    keys = {node.database.partition_of(str(number)): str(number) for number in range(1_000)}
    waiting, goes_on = threading.Barrier(len(keys) + 1), threading.Event()

    def wait(_: Tx) -> None:
        waiting.wait()
        goes_on.wait()

    tasks = [asyncio.ensure_future(node.database.write(wait, key=key)) for key in keys.values()]
    try:
        await asyncio.to_thread(waiting.wait)
        yield
    finally:
        goes_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)


@KINDS
def test_a_turn_that_was_begun_without_an_answer_runs(tmp_path: Path, kind: str) -> None:
    """Its caller was told that nobody knows; the turn is in the database, and it runs once. The same call again gets
    what came of it, and the session takes the next message."""

    async def run() -> None:
        async with node_of(impatient(kind, tmp_path)) as node:
            session = await made(node, budget="1")
            async with held_up(node):
                with pytest.raises(Unavailable):
                    await node.sessions.begin(ME, session.id, say("once"), idempotency_key="a")

            async def ended() -> bool:
                return (await got(node, session)).spent.turns == 1 and (await got(node, session)).turn_id is None

            await until(ended)
            again = await node.sessions.send(ME, session.id, say("once"), idempotency_key="a")
            assert (again.turn.status, again.turn.text, again.turn.number) == ("done", "once", 1)
            assert (await node.sessions.send(ME, session.id, say("next"))).turn.number == 2
            await sound(node)

    asyncio.run(run())


@KINDS
def test_a_session_that_was_created_without_an_answer_is_opened(tmp_path: Path, kind: str) -> None:
    """None stays initializing: the same call again gets it, and it takes messages."""

    async def run() -> None:
        async with node_of(impatient(kind, tmp_path)) as node:
            await made(node)
            async with held_up(node):
                with pytest.raises(Unavailable):
                    await node.sessions.create(ME, new("single_container"), idempotency_key="a")
            session = (await node.sessions.create(ME, new("single_container"), idempotency_key="a"))[0]

            async def active() -> bool:
                return (await got(node, session)).status == "active"

            await until(active)
            assert (await node.sessions.send(ME, session.id, say("there"))).turn.text == "there"
            await sound(node)

    asyncio.run(run())


class Opens(EchoRunner):
    """Opens when it is told to; or breaks."""

    def __init__(self, *, breaks: bool = False) -> None:
        super().__init__()
        self.breaks = breaks
        self.opening, self.may = asyncio.Event(), asyncio.Event()
        self.open_now = 0

    async def open(self, opening: Opening) -> None:
        await super().open(opening)
        self.opening.set()
        if self.breaks:
            raise ZeroDivisionError
        await self.may.wait()
        self.open_now += 1

    async def close(self, session_id: str, workspace: str = "") -> None:
        await super().close(session_id, workspace)
        self.open_now = max(0, self.open_now - 1)


@KINDS
def test_a_session_that_was_opened_without_an_answer_is_active(tmp_path: Path, kind: str) -> None:
    """Its runner is open, and the database had too much to do to note that: it is noted later."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            runner = Opens()
            node.sessions._means.runners["echo"] = runner  # type: ignore[index]  # a dict underneath
            creating = asyncio.ensure_future(node.sessions.create(ME, new("single_container")))
            await runner.opening.wait()
            async with held_up(node):
                most = [lane._queue_events_max for lane in node.database._lanes]  # type: ignore[attr-defined]  # of either
                for lane in node.database._lanes:  # type: ignore[attr-defined]  # of either
                    lane._queue_events_max = 0
                runner.may.set()
                with pytest.raises(TooBusy):
                    await creating
                for lane, many in zip(node.database._lanes, most, strict=True):  # type: ignore[attr-defined]  # of either
                    lane._queue_events_max = many
            (session,) = (await story(node)).sessions.values()

            async def active() -> bool:
                return (await got(node, session)).status == "active"

            await until(active)
            assert (await node.sessions.send(ME, session.id, say("there"))).turn.text == "there"
            await sound(node)

    asyncio.run(run())


@KINDS
def test_a_runner_that_breaks_while_it_is_opened_ends_its_session(tmp_path: Path, kind: str) -> None:
    """With whatever exception: it is an error that is told, and no session stays initializing."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            node.sessions._means.runners["echo"] = Opens(breaks=True)  # type: ignore[index]  # a dict underneath
            with pytest.raises(RunnerFailed):
                await node.sessions.create(ME, new("single_container"))
            found = await sound(node)
            assert [session.status for session in found.sessions.values()] == ["error"]
            assert not node.sessions.turns.opened.held

    asyncio.run(run())


@KINDS
def test_what_is_opened_for_a_session_that_ended_meanwhile_is_closed(tmp_path: Path, kind: str) -> None:
    """Another node ends a session while this one still opens its runner: nothing stays open."""

    async def run() -> None:
        mapped = mapped_of(kind, tmp_path)
        async with node_of(mapped) as node, node_of(mapped) as other:
            runner = Opens()
            node.sessions._means.runners["echo"] = runner  # type: ignore[index]  # a dict underneath
            creating = asyncio.ensure_future(node.sessions.create(ME, new("single_container")))
            await runner.opening.wait()
            (session,) = (await story(node)).sessions.values()
            await other.sessions.terminate(ME, session.id)
            runner.may.set()
            with pytest.raises((SessionEnded, StatusRefused)):
                await creating
            assert (runner.open_now, node.sessions.turns.opened.held) == (0, {})
            await sound(node)

    asyncio.run(run())


@KINDS
def test_events_that_were_kept_without_an_answer_are_kept_once(tmp_path: Path, kind: str) -> None:
    """What a turn has told was written, and its node never heard so: it tells it again, and the turn is settled as it
    went."""

    async def run() -> None:
        async with node_of(impatient(kind, tmp_path)) as node:
            session = await made(node, options={"hang": True})
            turn = await node.sessions.begin(ME, session.id, say("so far"))
            await until_told(node, session, "text_delta")
            async with held_up(node):
                await node.sessions.turns.tell.stop()
                with pytest.raises(Unavailable):
                    await node.sessions.turns.tell.look()
            await node.sessions.turns.tell.look()
            await node.sessions.interrupt(ME, session.id)
            answer = await node.sessions.answer(ME, session.id, turn.turn_id)
            assert (answer.turn.status, answer.turn.text) == ("interrupted", "so far")
            await sound(node)

    asyncio.run(run())


@KINDS
def test_what_waits_for_a_container_begins_on_its_node(tmp_path: Path, kind: str) -> None:
    """That could not begin it at first, and no other node can: not the one that has the sweep."""

    async def failing(*_: object) -> None:
        raise TooBusy("the database has too much to do; send again", retry_after_ms=1)

    async def run() -> None:
        mapped = mapped_of(kind, tmp_path)
        async with node_of(mapped) as sweeper:

            async def swept() -> bool:
                return sweeper.sessions.sweep._held

            await until(swept)
            async with node_of(mapped) as node:
                session = await made(node, "single_container")
                await node.sessions.begin(ME, session.id, say(options={"hang": True}))
                waits = await node.sessions.begin(ME, session.id, say("later", queue=True))
                begin, node.sessions.turns._begin_queued = node.sessions.turns._begin_queued, failing  # type: ignore[assignment,method-assign]  # as if the database were away
                await node.sessions.interrupt(ME, session.id)
                assert (await got(node, session)).queued == 1
                node.sessions.turns._begin_queued = begin  # type: ignore[method-assign]  # it is back
                answer = await asyncio.wait_for(node.sessions.answer(ME, session.id, waits.turn_id), PATIENCE_S)
                assert answer.turn.text == "later"
                await sound(node)

    asyncio.run(run())
