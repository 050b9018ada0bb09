"""What a user sees of the settings of hosted sessions."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import Any

from tests.flipping.rigs import Flipped, with_node
from tests.flipping.runners import PROGRAM, THREE_MEGABYTES, runner_of, told

from adjourn.errors import AdjournError, NotFound
from adjourn.node import Node
from adjourn.runner import RunnerConfig
from adjourn.sessions.session import NewSession, Price, Session
from adjourn.sessions.turn import Message

TENANT = "default"
DAY_MS = 86_400_000
OTHER = {"hosting.runners": [{"type": "echo", "name": "other"}]}
PROGRAMS = {"hosting.runners": [{"type": "command", "name": "agent", "command": PROGRAM, "isolation": "none"}]}
PRICE = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(1))


async def made(node: Node, **fields: Any) -> Session:
    fields.setdefault("pattern", "hybrid")
    return (await node.sessions.create(TENANT, NewSession(**fields)))[0]


async def outcome(node: Node, **fields: Any) -> str:
    """`made`, or the code of the refusal."""
    try:
        await made(node, **fields)
    except AdjournError as error:
        return error.code
    return "made"


def runner_of_one_that_names_none(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        return (await made(node)).runner

    return with_node(flip, work)


def runner_other(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        return await outcome(node, runner="other")

    return with_node(flip, work)


def folder_of_a_program(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        answer = await told(node, await made(node, runner=runner_of(flip)), "os.getcwd()")
        return answer.partition(f"/{TENANT}/")[0]

    return with_node(flip, work)


def made_of_three(flip: Flipped) -> list[str]:
    async def work(node: Node) -> list[str]:
        return [await outcome(node, user_id="u") for _ in range(3)]

    return with_node(flip, work)


def ended_after_an_hour(flip: Flipped) -> str:
    """By which limit."""

    async def work(node: Node) -> str:
        session = await made(node)
        await node.sessions.sweep.look(node.clock.wall_ms() + 3_600_000)
        return (await node.sessions.get(TENANT, session.id)).error_code

    return with_node(flip, work)


def ended_after_a_turn(flip: Flipped) -> str:
    """By which limit, having cost a cent and used some tokens."""

    async def work(node: Node) -> str:
        config = RunnerConfig(options={"cost_usd": "0.01", "input_tokens": 50, "output_tokens": 50})
        session = await made(node, config=config, price=PRICE)
        answer = await node.sessions.send(TENANT, session.id, Message(prompt="hello"))
        return answer.session.error_code

    return with_node(flip, work)


def turn_of_three_seconds(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        session = await made(node, config=RunnerConfig(options={"delay_ms": 3_000}))
        return (await node.sessions.send(TENANT, session.id, Message(prompt="hello"))).turn.status

    return with_node(flip, work)


def remembered_after_five_days(flip: Flipped) -> list[str]:
    """Of an ephemeral and a hybrid session, both of which have ended."""

    async def work(node: Node) -> list[str]:
        ephemeral, hybrid = await made(node, pattern="ephemeral"), await made(node)
        await node.sessions.send(TENANT, ephemeral.id, Message(prompt="hello"))
        await node.sessions.terminate(TENANT, hybrid.id)
        later_ms = node.clock.wall_ms() + 5 * DAY_MS
        while await node.sessions.sweep.look(later_ms):
            continue
        found: list[str] = []
        for session in (ephemeral, hybrid):
            try:
                found.append((await node.sessions.get(TENANT, session.id)).pattern)
            except NotFound:
                continue
        return found

    return with_node(flip, work)


def queued_of_three(flip: Flipped) -> int:
    async def work(node: Node) -> int:
        session = await made(node, config=RunnerConfig(options={"hang": True}))
        await node.sessions.begin(TENANT, session.id, Message(prompt="hello"))
        queued = 0
        for _ in range(3):
            try:
                await node.sessions.begin(TENANT, session.id, Message(prompt="and", queue=True))
            except AdjournError:
                continue
            queued += 1
        await node.sessions.terminate(TENANT, session.id)
        return queued

    return with_node(flip, work)


def snapshot_of_three_megabytes(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        session = await made(node, runner=runner_of(flip))
        await told(node, session, THREE_MEGABYTES)
        try:
            taken = await node.sessions.snapshot(TENANT, session.id)
        except AdjournError:
            return "refused"
        return "taken" if taken.archive_bytes > 3_000_000 else "empty"

    return with_node(flip, work)


def a_limit_acts_soon(flip: Flipped) -> bool:
    """Within seconds of the time that it has come."""

    async def work(node: Node) -> bool:
        session = await made(node)
        interval_ms: Any = flip.value
        until = time.monotonic() + (60 if interval_ms < 1_000 else 3)
        while (await node.sessions.get(TENANT, session.id)).ended_ms is None and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return (await node.sessions.get(TENANT, session.id)).error_code == "max_lifetime_ms"

    return with_node(flip, work)
