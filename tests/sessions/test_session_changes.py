"""What changes sessions outside their turns: one change leaves another's work alone."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.sessions.hosted import ME, got, made, say, sound, until_told
from tests.sessions.rigs import mapped_of, node_of

from adjourn.errors import TooBusy
from adjourn.node import Node
from adjourn.sessions import session_changes
from adjourn.sessions.live import Stop
from adjourn.sessions.session import Limits, Patch, Session
from adjourn.sessions.takeover import INTERRUPTED

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


async def patched(node: Node, session: Session) -> None:
    wanted = Patch(revision=(await got(node, session)).revision, limits=Limits(max_turns=100))
    await node.sessions.patch(ME, session.id, wanted)


async def woken(node: Node, session: Session) -> None:
    await node.sessions.resume(ME, session.id)


@KINDS
@pytest.mark.parametrize("change", [patched, woken])
def test_a_change_forgets_no_message_that_waits(tmp_path: Path, kind: str, change: Any) -> None:
    """Its node could not begin it; limits are changed, or the session is resumed, before the sweep does: it runs."""

    async def failing(*_: object) -> None:
        raise TooBusy("the database has too much to do; send again", retry_after_ms=1)

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node)
            turn = await node.sessions.begin(ME, session.id, say(options={"hang": True}))
            waits = await node.sessions.begin(ME, session.id, say("later", queue=True))
            begin, node.sessions.turns._begin_queued = node.sessions.turns._begin_queued, failing  # type: ignore[assignment,method-assign]  # as if the database were away
            await node.sessions.interrupt(ME, session.id)
            await node.sessions.answer(ME, session.id, turn.turn_id)
            await change(node, session)
            assert (await got(node, session)).due_ms is not None
            node.sessions.turns._begin_queued = begin  # type: ignore[method-assign]  # it is back
            assert (await node.sessions.answer(ME, session.id, waits.turn_id)).turn.text == "later"
            await sound(node)

    asyncio.run(run())


@KINDS
def test_an_interrupt_ends_the_turn_that_it_was_meant_for(tmp_path: Path, kind: str) -> None:
    """It comes late, when the next turn runs: on its own node and from another one, that goes on."""

    async def run() -> None:
        mapped = mapped_of(kind, tmp_path)
        async with node_of(mapped) as one, node_of(mapped) as other:
            session = await made(one, options={"hang": True})
            first = await one.sessions.send(ME, session.id, say("first", options={"hang": False}))
            second = await one.sessions.begin(ME, session.id, say("second"))
            await until_told(one, session, "text_delta")
            late = partial(
                session_changes.ask_to_stop, key=session.key, turn_id=first.turn.turn_id, stopping=INTERRUPTED
            )
            await other.database.write(late)
            one.sessions.turns.stop_turn(session.key, Stop(), first.turn.turn_id)
            row = await got(one, session)
            assert (row.turn_id, row.stopping) == (second.turn_id, "")
            assert one.sessions.turns.live[session.key].stopping is None
            await other.sessions.interrupt(ME, session.id)
            assert (await one.sessions.answer(ME, session.id, second.turn_id)).turn.status == "interrupted"
            await sound(one)

    asyncio.run(run())
