"""What a tenant's sessions may use, and what is left."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.sessions.hosted import ME, PRICED, made, say, until_told
from tests.sessions.rigs import mapped_of, node_of

from adjourn.sessions.allowance import Share, allowance
from adjourn.sessions.session import Limits
from adjourn.settings import HostingSettings

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@KINDS
def test_what_is_left_is_told(tmp_path: Path, kind: str) -> None:
    """The tighter bounds of server and tenant; sessions that live; and of the totals what was neither spent nor is held
    by a turn that runs."""
    own = {"name": ME, "max_turns": 3, "max_sessions": 7, "total_budget_usd": 1, "total_budget_usd_per_user": 0.4}
    settings = mapped_of(kind, tmp_path, hosting={"max_turns": 9, "max_sessions_per_user": 5, "tenants": [own]})

    async def run() -> None:
        async with node_of(settings) as node:
            hosting = node.settings.hosting
            before = await node.database.read(allowance, hosting, ME, "one")
            assert before.limits == Limits(max_turns=3, turn_timeout_ms=600_000)
            assert before.tenant == Share(max_sessions=7, live_sessions=0, total_nanousd=10**9, left_nanousd=10**9)
            one = await made(node, price=PRICED, options={"cost_usd": "0.1", "hang": True}, user_id="one")
            await made(node, price=PRICED)
            turn = await node.sessions.begin(ME, one.id, say())
            await until_told(node, one, "cost")
            deadline = time.monotonic() + 60
            while True:  # what it holds follows what it has told
                during = await node.database.read(allowance, hosting, ME, "one")
                assert during.user is not None
                if (during.user.left_nanousd or 0) <= 300_000_000:
                    break
                assert time.monotonic() < deadline, during.user
                await asyncio.sleep(0.02)
            await node.sessions.interrupt(ME, one.id)
            await node.sessions.answer(ME, one.id, turn.turn_id)
            after = await node.database.read(allowance, hosting, ME, "one")
            assert after.tenant == Share(max_sessions=7, live_sessions=2, total_nanousd=10**9, left_nanousd=900_000_000)
            assert after.user == Share(
                max_sessions=5, live_sessions=1, total_nanousd=400_000_000, left_nanousd=300_000_000
            )
            other = await node.database.read(allowance, hosting, "other")
            assert other.tenant == Share(max_sessions=None, live_sessions=0, total_nanousd=None, left_nanousd=None)
            assert (other.limits.max_turns, other.user) == (9, None)

    asyncio.run(run())


def test_without_settings_there_are_the_server_s_bounds(tmp_path: Path) -> None:
    """A turn's timeout alone."""

    async def run() -> None:
        async with node_of(mapped_of("sqlite", tmp_path)) as node:
            found = await node.database.read(allowance, HostingSettings(), ME, "u")
            assert found.limits == Limits(turn_timeout_ms=600_000)
            assert found.user == Share(max_sessions=None, live_sessions=0, total_nanousd=None, left_nanousd=None)

    asyncio.run(run())
