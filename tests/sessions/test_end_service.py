"""How sessions end, and how their records go, on a real node over both databases."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.sessions.hosted import ME, got, made, say, sound, steps, story, until_told, watching
from tests.sessions.rigs import mapped_of, node_of

from adjourn.database import Reader
from adjourn.errors import (
    NotFound,
    StatusRefused,
    TurnRunning,
)
from adjourn.node import Node
from adjourn.sessions.session import Session
from adjourn.sessions.turn import Amending, Completing

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
HANGS = {"hang": True}


async def told(node: Node, session: Session) -> list[str]:
    return steps(await node.sessions.events(ME, session.id, limit=1_000))


# --- ends ------------------------------------------------------------------------------------------------------------


@KINDS
def test_terminating_stops_the_turn_and_is_one_completion(tmp_path: Path, kind: str) -> None:
    """The turn is interrupted, whoever waits for it gets its answer, and the session has ended when the call returns;
    of twenty callers at once each sees the same end."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, options=HANGS)
            sending = asyncio.ensure_future(node.sessions.send(ME, session.id, say()))
            await until_told(node, session, "text_delta")
            ended = await asyncio.gather(*(node.sessions.terminate(ME, session.id) for _ in range(20)))
            assert {(each.status, each.outcome) for each in ended} == {("terminated", "user_terminated")}
            assert (await sending).turn.status == "interrupted"
            await sound(node)

    asyncio.run(run())


@KINDS
def test_an_interrupt_ends_the_turn_and_not_the_session(tmp_path: Path, kind: str) -> None:
    """A hybrid session is idle then, takes the next message, and keeps what was said; where none runs, nothing
    happens."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node)
            assert (await node.sessions.interrupt(ME, session.id)).status == "active"
            sending = asyncio.ensure_future(node.sessions.send(ME, session.id, say("never mind", options=HANGS)))
            await until_told(node, session, "text_delta")
            assert (await node.sessions.interrupt(ME, session.id)).status == "idle"
            turn = (await sending).turn
            assert (turn.status, turn.stop_reason, turn.text) == ("interrupted", "interrupted", "never mind")
            reply = {"reply": "{messages}"}
            assert (await node.sessions.send(ME, session.id, say(options=reply))).turn.text == "2"
            await sound(node)

    asyncio.run(run())


@KINDS
def test_an_error_may_be_terminated_without_a_second_completion(tmp_path: Path, kind: str) -> None:
    """It changes the status, and the outcome stays what the completion said."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, "ephemeral", options={"fail": {}})
            await node.sessions.send(ME, session.id, say())
            before = await got(node, session)
            after = await node.sessions.terminate(ME, session.id)
            assert (before.status, after.status, after.outcome) == ("error", "terminated", "error")
            assert (after.ended_ms, after.event_id) == (before.ended_ms, before.event_id)
            assert (await sound(node)).moves(session.id)[-1] == ("error", "terminated")

    asyncio.run(run())


@KINDS
def test_a_completion_is_amended_by_an_event_of_its_own(tmp_path: Path, kind: str) -> None:
    """`session.amended` names the completion and says all of it anew; a session that lives has nothing to amend."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node)
            with pytest.raises(TurnRunning, match="has not ended"):
                await node.sessions.amend(ME, session.id, Amending(outcome="error"))
            await node.sessions.complete(ME, session.id, Completing())
            amended = await node.sessions.amend(ME, session.id, Amending(outcome="error", error_code="late"))
            (event,) = [e for e in (await sound(node)).log if e.get("event_type") == "session.amended"]
            assert (event["event_id"], event["amends"]) == (amended.amendment_id, session.event_id)
            assert event["outcome"] == {"status": "error", "error_code": "late"}

    asyncio.run(run())


@KINDS
def test_a_row_and_its_log_agree_at_every_instant(tmp_path: Path, kind: str) -> None:
    """While sessions of all patterns begin, run, fail, are interrupted and end, each look at one instant finds every
    ended row with its one completion, and none that is early."""

    async def one(node: Node, number: int) -> None:
        pattern = ("ephemeral", "hybrid", "long_running", "single_container")[number % 4]
        session = await made(node, pattern)  # type: ignore[arg-type]  # one of the four
        options = ({}, {"fail": {}}, {"chunks": 3, "chunk_ms": 1}, HANGS)[number // 4 % 4]
        sending = asyncio.ensure_future(node.sessions.send(ME, session.id, say(options=options)))
        if options is HANGS:
            await until_told(node, session, "text_delta")
            await (node.sessions.interrupt, node.sessions.terminate)[number // 16 % 2](ME, session.id)
        await sending
        if (await got(node, session)).ended_ms is None:
            await node.sessions.complete(ME, session.id, Completing())

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            over = asyncio.Event()
            looking = asyncio.ensure_future(watching(node, over))
            await asyncio.gather(*(one(node, number) for number in range(32)))
            over.set()
            assert await looking > 1
            found = await sound(node)
            assert len([event for event in found.log if event["event_type"] == "session.completed"]) == 32

    asyncio.run(run())


# --- deleting --------------------------------------------------------------------------------------------------------


@KINDS
def test_nothing_is_left_of_a_deleted_session(tmp_path: Path, kind: str) -> None:
    """No table that is about sessions has a row of it any more, nor do the accounts; its workspace is gone; its
    completion stays in the log."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, "long_running", tags=["t"], budget="1")
            for number in range(3):
                await node.sessions.send(ME, session.id, say(), idempotency_key=str(number))
            with pytest.raises(StatusRefused, match="force=true"):
                await node.sessions.delete(ME, session.id)
            await node.sessions.delete(ME, session.id, force=True)
            with pytest.raises(NotFound):
                await got(node, session)
            assert await node.database.read(remains, session.id) == {}
            assert not os.path.exists(node.sessions._means.workspace_of(session))  # noqa: ASYNC240 - nobody else waits here
            assert len((await story(node)).completions(session.id)) == 1

    asyncio.run(run())


def remains(reader: Reader, session_id: str) -> dict[str, int]:
    """Of every table of sessions, how many rows say this id anywhere."""
    from adjourn.schema_sessions import metadata

    found: dict[str, int] = {}
    for name in (*metadata.tables, "accounts"):
        if name == "session_leftovers":  # what is still to be taken out of the totals, under no name
            continue
        rows = reader.rows(f"SELECT * FROM {name}")
        count = len([row for row in rows if any(session_id in str(value) for value in row)])
        if count:
            found[name] = count
    return found


@KINDS
def test_a_tree_is_deleted_from_below(tmp_path: Path, kind: str) -> None:
    """A session over one that lives holds its budget: it is not deleted before that has ended."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            top = await made(node, budget="1")
            middle = await made(node, parent_id=top.id)
            child = await made(node, parent_id=middle.id)
            await node.sessions.complete(ME, middle.id, Completing())
            for session in (top, middle):
                with pytest.raises(StatusRefused, match=child.id):
                    await node.sessions.delete(ME, session.id, force=True)
            assert (await got(node, top)).ended_ms is None
            await sound(node)
            await node.sessions.delete(ME, child.id, force=True)
            await node.sessions.delete(ME, middle.id)
            await node.sessions.delete(ME, top.id, force=True)
            assert (await sound(node)).sessions == {}

    asyncio.run(run())
