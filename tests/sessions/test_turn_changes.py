"""What turns leave in the database, on real nodes: never what could not be ended any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.sessions.hosted import ME, made, say, sound, until_status
from tests.sessions.rigs import mapped_of, node_of

from adjourn.runner import Cost, Done, Turn, TurnEvent, Usage
from adjourn.runners.echo import EchoRunner
from adjourn.sessions.session import Limits, Patch
from adjourn.sessions.turn import Completing

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


class Boasts(EchoRunner):
    """Tells of more tokens and more money than there are."""

    async def turn(self, session_id: str, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        for _ in range(1_200):
            yield Usage(input_tokens=2**53, output_tokens=2**53, reasoning_tokens=2**53)
        yield Cost(10**18 if "dear" in turn.said.parts[0].text else 0)
        yield Cost(10**18 if "dear" in turn.said.parts[0].text else 0)
        yield Done(text="fine")


@KINDS
def test_whatever_its_runner_says_it_has_used_a_session_ends(tmp_path: Path, kind: str) -> None:
    """More than an event can say, and than the database can hold, counts as the most that it can: the turns are
    settled, a caller and a limit end the sessions, and none keeps the sweep from the others."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            node.sessions._means.runners["echo"] = Boasts()  # type: ignore[index]  # a dict underneath
            asked, idle = await made(node), await made(node)
            for session in (asked, idle):
                assert (await node.sessions.send(ME, session.id, say("dear"))).turn.status == "done"
            await node.sessions.send(ME, asked.id, say())
            await node.sessions.complete(ME, asked.id, Completing())
            await node.sessions.patch(ME, idle.id, Patch(revision=idle.revision, limits=Limits(max_idle_ms=1)))
            await until_status(node, idle, "terminated")
            found = await sound(node)
            for session in (asked, idle):
                (completion,) = found.completions(session.id)
                assert completion["usage"]["total_tokens"] == 2**53
                assert completion["usage"]["estimated_cost_usd"] == 10**9

    asyncio.run(run())
