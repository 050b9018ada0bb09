"""Keys, checked on every request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests import postgres

from adjourn.clock import SystemClock
from adjourn.errors import Forbidden, NotFound, Unauthenticated
from adjourn.node import Node
from adjourn.security.service import ANONYMOUS, CACHE_S, Keys
from adjourn.settings import DatabaseSettings, Settings


class _Clock(SystemClock):
    """Monotonic time that a test moves."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


@pytest.fixture(params=["sqlite", "postgresql"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    url = f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else postgres.fresh_database()
    return Node(Settings(data_dir=str(tmp_path), database=DatabaseSettings(url=url)))


def test_a_key_opens_what_its_role_may(node: Node) -> None:
    """A good key gives its tenant and role; the rest is refused, and says what would do."""

    async def scenario() -> None:
        async with node:
            key, secret = await node.keys.create(tenant="acme", name="n", role="reader")
            caller = await node.keys.check(f"Bearer {secret}", "events:read")
            assert (caller.id, caller.tenant, caller.role) == (key.id, "acme", "reader")
            assert await node.keys.check(f"bearer  {secret} ", "events:read") == caller
            with pytest.raises(Forbidden, match="admin or operator or writer"):
                await node.keys.check(f"Bearer {secret}", "events:write")
            for bad in ("", "Bearer", secret, f"Basic {secret}", f"Bearer {secret}x", f"Bearer {secret[:-1]}"):
                with pytest.raises(Unauthenticated):
                    await node.keys.check(bad, "events:read")
            assert node.keys.known(f"Bearer {secret}", "events:write") is None

    asyncio.run(scenario())


def test_the_database_never_holds_a_secret(node: Node) -> None:
    """Only its digest is stored, and lists never show it."""

    async def scenario() -> None:
        async with node:
            _, secret = await node.keys.create(tenant="acme", name="n", role="admin")
            rows = await node.database.read(lambda r: r.rows("SELECT * FROM keys"))
            assert secret not in repr(rows)
            assert secret not in repr(await node.keys.list("acme"))

    asyncio.run(scenario())


def test_a_revoked_key_stops_at_once_here_and_soon_elsewhere(node: Node) -> None:
    """Where it was not revoked, the cache's time is the longest that it still works."""

    async def scenario() -> None:
        async with node:
            clock = _Clock()
            elsewhere = Keys(node.database, clock, required=True)
            key, secret = await node.keys.create(tenant="acme", name="n", role="writer")
            for keys in (node.keys, elsewhere):
                await keys.check(f"Bearer {secret}", "events:write")
            with pytest.raises(NotFound):
                await node.keys.revoke(key.id, "other")
            await node.keys.revoke(key.id, "acme")
            with pytest.raises(Unauthenticated, match="revoked"):
                await node.keys.check(f"Bearer {secret}", "events:write")
            assert elsewhere.known(f"Bearer {secret}", "events:write") is not None
            clock.ahead_s = CACHE_S + 0.001
            with pytest.raises(Unauthenticated, match="revoked"):
                await elsewhere.check(f"Bearer {secret}", "events:write")

    asyncio.run(scenario())


def test_nobody_is_let_in_without_a_key_unless_none_is_needed(node: Node) -> None:
    """With the check off, no key is everybody; a wrong key is still wrong."""

    async def scenario() -> None:
        async with node:
            keys = Keys(node.database, SystemClock(), required=False)
            assert await keys.check("", "keys:write") is ANONYMOUS
            with pytest.raises(Unauthenticated):
                await keys.check("Bearer adj_wrong", "events:read")

    asyncio.run(scenario())
