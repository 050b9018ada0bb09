from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
import pytest
from tests.delivery.scripted import Judging, Slow, called, delivering, put, put_events, settled, waits_for_a_lock
from tests.faults.rigs import url_of

from adjourn.database import Tx
from adjourn.delivery import held
from adjourn.delivery.transform import shaping_of
from adjourn.delivery.whereabouts import whereabouts
from adjourn.destination import Refusal
from adjourn.errors import DestinationOutage
from adjourn.node import Node

NOT_NOW = Refusal(0, "odd", "not now", permanent=False)
AWAY = DestinationOutage("it is away")


async def counted(node: Node, **counts: int) -> None:
    (balance,) = await node.delivery.balances()
    assert {kind: getattr(balance, kind) for kind in (*counts, "difference")} == {**counts, "difference": 0}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_retention_passed_while_it_was_being_sent_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A destination is away for longer than drop_after_ms and takes the batch in hand when it comes back: these events
    are delivered and no more expired, the ones behind them stay expired, and the cursor does not go back."""

    async def run() -> None:
        away = True

        def judge(ids: Sequence[str]) -> Mapping[str, Refusal]:
            if away:
                raise AWAY
            return {}

        destination = Judging(judge)
        async with delivering(
            tmp_path, monkeypatch, destination, url=url_of(kind, tmp_path), drop_after_ms=1, batch_size=2
        ) as node:
            await put_events(node, *[("a", f"a{number}") for number in range(6)])
            await called(destination)
            async with asyncio.timeout(20):
                while not await node.log.retain(age_ms_max=1, bytes_max=None):
                    await asyncio.sleep(0.01)
            await counted(node, expired=6, pending=0)
            away = False
            async with asyncio.timeout(20):
                while not destination.passed:
                    await asyncio.sleep(0.001)
            await put_events(node, ("b", "b0"))
            async with asyncio.timeout(20):
                while "b0" not in destination.passed:
                    await asyncio.sleep(0.001)
            await settled(node)
            delivered = len(destination.passed)
            await counted(node, delivered=delivered, expired=7 - delivered, pending=0)

    asyncio.run(run())


async def place(node: Node, offset: int) -> str:
    (found,) = await node.database.read(whereabouts, 0, offset)
    return found.place


def test_what_became_of_a_parked_event_is_not_forgotten_by_the_ones_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that was alone in its batch is parked and then taken; the next ones settle right after that. It has been
    delivered, for whoever asks."""

    async def run() -> None:
        refused = {"a1": NOT_NOW}
        destination = Judging(lambda ids: {one: refused.pop(one) for one in ids if one in refused})
        async with delivering(tmp_path, monkeypatch, destination, attempts=5) as node:
            for number in range(1, 5):
                await put_events(node, (f"s{number}", f"a{number}"))
                await settled(node)
            assert [await place(node, offset) for offset in range(4)] == ["delivered"] * 4
            await counted(node, delivered=4, pending=0)

    asyncio.run(run())


def test_a_redriven_event_that_the_filter_drops_by_now_is_filtered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filter changed while an event was a dead letter: it is not sent, and not counted as delivered."""

    async def run() -> None:
        never = Judging(lambda ids: {one: Refusal(0, "bad", "never") for one in ids})
        async with delivering(tmp_path, monkeypatch, never) as node:
            await put_events(node, ("a", "a1"))
            await settled(node)
        takes = Judging(lambda ids: {})
        shapes = shaping_of(filter="session.session_id != 'a'", transform="")
        async with delivering(tmp_path, monkeypatch, takes, shapes=shapes) as node:
            await node.database.write(held.redrive, None, "scripted:0:0", node.clock.wall_ms())
            await settled(node)
            await counted(node, delivered=0, dead_lettered=0, filtered=1, pending=0)
            assert await place(node, 0) == "filtered"
        assert not takes.calls

    asyncio.run(run())


def test_retention_counts_no_more_than_what_another_node_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node delivers and moves the cursor while another one's retention is about to pass it: each event is counted
    once."""
    url = url_of("postgresql", tmp_path)

    async def run() -> None:
        async with delivering(tmp_path, monkeypatch, Judging(lambda ids: {}), url=url, drop_after_ms=1) as node:
            await node.delivery.pause("scripted", "a test")
            await put_events(node, *[("a", f"a{number}") for number in range(6)])
            part = max(range(node.database.partitions), key=(await node.log.heads()).__getitem__)
            await asyncio.sleep(0.01)  # so old that it may be dropped
            async with await psycopg.AsyncConnection.connect(url) as other:
                await other.execute("UPDATE cursors SET next_offset = 4 WHERE partition = %s", (part,))
                await other.execute(
                    "INSERT INTO consumer_counts VALUES ('destination:scripted', %s, 'delivered', 4)", (part,)
                )
                retaining = asyncio.create_task(node.log.retain(age_ms_max=1, bytes_max=None))
                await waits_for_a_lock(url)
                await other.commit()
            assert await retaining == 6
            await counted(node, delivered=4, expired=2, pending=0)

    asyncio.run(run())


def test_what_comes_after_lost_commits_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that crashed and lost what it had acknowledged last (`synchronous_commit` off) may lose that, but
    nothing that is captured later: no cursor is moved past the end of the log."""

    def crash(tx: Tx) -> None:
        tx.run("DELETE FROM log_blocks")
        tx.run("UPDATE log_heads SET next_offset = 0")

    async def run() -> None:
        destination = Slow()
        async with delivering(tmp_path, monkeypatch, destination) as node:
            await put(node, 3)
            await called(destination)
            await node.database.write(crash)
            node.appender.discarded(0)
            destination.go.set()
            async with asyncio.timeout(20):
                while "lost" not in node.delivery.stats["scripted"].waiting:
                    await asyncio.sleep(0.01)
            after = await put(node, 3, start=10)
            await settled(node)
            assert destination.taken[-3:] == after
            (balance,) = await node.delivery.balances()
            assert (balance.captured, balance.delivered, balance.difference) == (3, 3, 0)

    asyncio.run(run())
