"""Limits of time, and what goes when its time is over, by a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.sessions.hosted import ME, got, made, say, sound, until, until_status, until_told
from tests.sessions.rigs import mapped_of, node_of

from adjourn.clock import ManualClock, SystemClock
from adjourn.node import Node
from adjourn.sessions.session import Limits
from adjourn.sessions.turn import Completing
from adjourn.typed import convert

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
HOUR_S = 3600.0


@asynccontextmanager
async def node_by(mapped: dict[str, Any], clock: ManualClock) -> AsyncIterator[Node]:
    """A node whose sessions live by that clock; its leases go on by the real one."""
    async with node_of(mapped, clock) as node:
        node.sessions.owner._clock = node._leases._clock = SystemClock()
        node.sessions.owner._renewed_s = SystemClock().monotonic()
        yield node


async def look(node: Node) -> None:
    """As the sweep does every quarter of a second."""
    await node.sessions.sweep.look(node.sessions._clock.wall_ms())


@KINDS
@pytest.mark.parametrize("name", ["max_idle_ms", "max_lifetime_ms"])
def test_a_limit_of_time_ends_a_session_when_it_is_reached(tmp_path: Path, kind: str, name: str) -> None:
    """Not a second before, and at once when it is: as a timeout with the limit's name. What is used is not idle."""

    async def run() -> None:
        clock = ManualClock()
        async with node_by(mapped_of(kind, tmp_path), clock) as node:
            session = await made(node, limits=convert({name: 60_000}, Limits))
            clock.advance(30)
            await node.sessions.send(ME, session.id, say())
            clock.advance(29)
            await look(node)
            assert (await got(node, session)).status == "idle"
            clock.advance(1.5 if name == "max_lifetime_ms" else 31.5)
            now = await until_status(node, session, "terminated")
            assert (now.outcome, now.error_code) == ("timeout", name)
            assert (await sound(node)).completions(session.id)[0]["outcome"]["error_code"] == name

    asyncio.run(run())


@KINDS
def test_a_limit_that_comes_during_a_turn_stops_it(tmp_path: Path, kind: str) -> None:
    """By the node that runs it, or, where the other one looks, by that one's word: the session ends with its turn."""

    async def run() -> None:
        clock = ManualClock()
        mapped = mapped_of(kind, tmp_path)
        async with node_by(mapped, clock) as one, node_by(mapped, clock) as other:
            for node in (one, other):
                session = await made(node, limits=Limits(max_lifetime_ms=60_000), options={"hang": True})
                turn = await node.sessions.begin(ME, session.id, say())
                await until_told(node, session, "text_delta")
                clock.advance(61)
                now = await until_status(node, session, "terminated")
                assert (now.outcome, now.error_code) == ("timeout", "max_lifetime_ms")
                answer = await node.sessions.answer(ME, session.id, turn.turn_id)
                assert answer.turn.status == "interrupted"
            await sound(one)

    asyncio.run(run())


@KINDS
def test_a_step_of_the_clock_expires_nothing(tmp_path: Path, kind: str) -> None:
    """Neither forwards nor back, neither what was there before nor what comes after; and time that passes afterwards
    counts as it should."""

    async def run() -> None:
        for step_s in (24 * HOUR_S, -24 * HOUR_S):
            clock = ManualClock()
            async with node_by(mapped_of(kind, tmp_path), clock) as node:
                limits = Limits(max_idle_ms=60_000, max_lifetime_ms=600_000)
                before = await made(node, limits=limits)
                clock.step_wall(step_s)
                after = await made(node, limits=limits)
                await look(node)
                for session in (before, after):
                    assert (await got(node, session)).status == "active"
                clock.advance(50)
                await look(node)
                for session in (before, after):
                    assert (await got(node, session)).status == "active"
                clock.advance(20)
                for session in (before, after):
                    assert (await until_status(node, session, "terminated")).error_code == "max_idle_ms"
                await sound(node)

    asyncio.run(run())


@KINDS
def test_ended_sessions_go_when_their_time_is_over(tmp_path: Path, kind: str) -> None:
    """An ephemeral one a minute after its end, others by retention; one over a session that lives stays until that has
    ended, since it holds its budget. Their completions stay in the log."""

    async def run() -> None:
        clock = ManualClock()
        async with node_by(mapped_of(kind, tmp_path), clock) as node:
            top = await made(node, "ephemeral", budget="1")
            child = await made(node, parent_id=top.id)
            quick, slow = await made(node, "ephemeral"), await made(node)
            for session in (top, quick, slow):
                await node.sessions.complete(ME, session.id, Completing())

            async def there() -> set[str]:
                return {session.id for session in (await sound(node)).sessions.values()}

            clock.advance(59)
            await look(node)
            assert await there() == {top.id, child.id, quick.id, slow.id}
            clock.advance(2)
            await look(node)
            assert await there() == {top.id, child.id, slow.id}
            await node.sessions.terminate(ME, child.id)
            clock.advance(61)

            async def gone() -> bool:
                await look(node)
                return await there() == {child.id, slow.id}

            await until(gone)
            clock.advance(31 * 24 * HOUR_S)

            async def empty() -> bool:
                await look(node)
                return not await there()

            await until(empty)
            completed = [event for event in (await sound(node)).log if event["event_type"] == "session.completed"]
            assert len(completed) == 4

    asyncio.run(run())
