"""Live readers that share what they read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.faults.rigs import mapping, raw, settings_of

from adjourn.delivery.feed_service import Feed, Source
from adjourn.events import StoredEvent, decode_identity
from adjourn.log import Slice
from adjourn.node import Node


class Counting:
    """A log that counts what is read of it."""

    def __init__(self, node: Node) -> None:
        self.reads = 0
        self._log = node.log

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def read(self, partition: int, offset: int, *, count: int) -> Slice:
        self.reads += 1
        return await self._log.read(partition, offset, count=count)


async def sessions(feed: Feed) -> list[str]:
    found: list[str] = []
    while (items := await feed.next()) is not None:
        found += [decode_identity(i.what.body).session.session_id for i in items if isinstance(i.what, StoredEvent)]
    return found


def test_a_hundred_readers_cost_one_read(tmp_path: Path) -> None:
    """At one place of the log, who asks while it is read waits for that, and who comes later has the answer."""

    async def main() -> None:
        async with Node(settings_of(mapping(tmp_path, routing={"destinations": []}))) as node:
            log = Counting(node)
            source = Source(node.database, log)  # type: ignore[arg-type]  # it passes on what it does not count
            position, _ = await source.begin("now")
            await node.ingest.take("acme", [raw(f"s{n}") for n in range(50)], source="test")
            await source.look()
            feeds = [Feed(source, position, tenant="acme") for _ in range(100)]
            found = await asyncio.gather(*(sessions(feed) for feed in feeds))
            assert all(one == [f"s{n}" for n in range(50)] for one in found)
            assert {feed.position for feed in feeds} == {"50"}
            assert log.reads == 1
            others = Feed(source, position, tenant="other")
            assert await sessions(others) == []
            assert others.position == "50"

    asyncio.run(main())


def test_what_is_kept_for_others_is_bounded(tmp_path: Path) -> None:
    """A reader that goes through a log larger than that gets all of it, and leaves no more than the bound behind."""

    async def main() -> None:
        async with Node(settings_of(mapping(tmp_path, routing={"destinations": []}))) as node:
            for part in range(6):
                bodies = [raw(f"s{part}_{n}", note="x" * 40_000) for n in range(100)]
                await node.ingest.take("acme", bodies, source="test")
            source = Source(node.database, node.log)
            position, _ = await source.begin("start")
            assert len(await sessions(Feed(source, position, tenant=None))) == 600
            assert sum(kept.bytes for kept in source._kept.values()) <= 16 * 1024 * 1024
            source.forget()
            assert not source._kept

    asyncio.run(main())
