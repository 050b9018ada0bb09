"""A node put together from its settings: what its parts do together, and nodes that share one database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from adjourn.database import Tx
from adjourn.errors import ConfigInvalid, Unavailable
from adjourn.logs import block, upkeep
from adjourn.node import Node
from adjourn.testing.account import compare, logged, written
from tests.databases.filling import record
from tests.faults.rigs import assert_exact, audited, mapping, raw, settings_of, url_of


async def put(node: Node, sessions: Sequence[str], **more: object) -> list[str]:
    raws = [raw(session, event_id=f"evt_{session}", **more) for session in sessions]
    return [result.status for result in await node.ingest.take("default", raws, source="test")]


async def compacted(node: Node) -> None:
    for partition in range(node.database.partitions):
        offset = -1
        following = 0
        while following != offset:
            offset = following
            following = await upkeep.compact(node.database, partition, offset)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_nodes_take_the_same_events_at_once_and_each_is_accepted_once(tmp_path: Path, kind: str) -> None:
    """Over one database, of two nodes that race with the same ids in the same sessions exactly one accepts each."""
    mapped = mapping(tmp_path, url_of(kind, tmp_path))

    async def race() -> None:
        async with Node(settings_of(mapped)) as one, Node(settings_of(mapped)) as other:
            accepted = duplicate = 0
            sessions = [f"sess_{number}" for number in range(600)]

            async def send(node: Node, start: int) -> list[str]:
                return await put(node, sessions[start : start + 20])

            for start in range(0, len(sessions), 100):
                batches = [send(node, at) for at in range(start, start + 100, 20) for node in (one, other)]
                for statuses in await asyncio.gather(*batches):
                    accepted += statuses.count("accepted")
                    duplicate += statuses.count("duplicate")
            assert (accepted, duplicate) == (600, 600)
            accounts = await audited(one, sessions, f"sqlite:///{tmp_path}/out.db")
            assert_exact(accounts)
            assert accounts[0].found == 600

    asyncio.run(race())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_resend_to_the_other_node_is_known_although_blocks_were_merged_meanwhile(tmp_path: Path, kind: str) -> None:
    """What one node accepted, the other recognises, also when compaction has put it into a block that begins before
    the place up to which the other knew the log."""
    lanes = {} if kind == "sqlite" else {"lanes": 1}
    mapped = mapping(tmp_path, url_of(kind, tmp_path), database=lanes, log={"compact_interval_ms": 600_000})

    async def resend() -> None:
        async with Node(settings_of(mapped)) as one, Node(settings_of(mapped)) as other:
            for number in range(20):
                await put(one, [f"early-{number}"])
            assert await put(other, ["in between"]) == ["accepted"]
            for number in range(60):
                await put(one, [f"late-{number}"])
            await compacted(one)
            again = [(await put(other, [f"late-{number}"]))[0] for number in range(60)]
            assert again == ["duplicate"] * 60
            assert compare([], await logged(one)).doubled == []

    asyncio.run(resend())


def test_a_session_completes_once_on_two_nodes_when_sessions_are_the_identity(tmp_path: Path) -> None:
    """Under dedupe_by session, of two completions with different ids that race at two nodes one is a conflict."""
    mapped = mapping(tmp_path, url_of("postgresql", tmp_path), validation={"dedupe_by": "session"})

    async def race() -> None:
        async with Node(settings_of(mapped)) as one, Node(settings_of(mapped)) as other:

            async def complete(node: Node, name: str, number: int) -> str:
                body = raw(f"sess_{number}", event_id=f"evt_{name}_{number}", usage={"input_tokens": 1})
                return (await node.ingest.take("default", [body], source="test"))[0].status

            racing = [complete(node, n, i) for i in range(100) for n, node in (("a", one), ("b", other))]
            statuses = await asyncio.gather(*racing)
            assert (statuses.count("accepted"), statuses.count("conflict")) == (100, 100)

    asyncio.run(race())


def test_a_disabled_destination_gets_its_backlog_when_it_is_enabled(tmp_path: Path) -> None:
    """Events captured while a destination is disabled wait for it, and no longer."""
    out = tmp_path / "out.jsonl"

    def with_destination(*, enabled: bool) -> Node:
        destination = {"type": "logfile", "log_path": str(out), "enabled": enabled}
        return Node(settings_of(mapping(tmp_path, routing={"destinations": [destination]})))

    async def run() -> None:
        async with with_destination(enabled=False) as node:
            await put(node, ["a", "b"])
            (balance,) = await node.delivery.balances()
            assert (balance.pending, balance.delivered, out.exists()) == (2, 0, False)
        async with with_destination(enabled=True) as node:
            await node.delivery.drained()
            (balance,) = await node.delivery.balances()
            assert (balance.pending, balance.delivered, balance.difference) == (0, 2, 0)
        assert written(out) == ["a", "b"]

    asyncio.run(run())


def test_a_destination_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """Such settings load; a node with an enabled one refuses to open, with the remedy, and makes no file."""
    destination = {"type": "logfile", "log_path": str(tmp_path / "out"), "transform": "billing_v99"}
    node = Node(settings_of(mapping(tmp_path, routing={"destinations": [destination]})))
    with pytest.raises(ConfigInvalid, match="billing_v1"):
        asyncio.run(node.open())
    asyncio.run(node.close())
    assert list(tmp_path.iterdir()) == []


def test_a_node_whose_database_cannot_be_opened_says_so_and_closes(tmp_path: Path) -> None:
    """Opening raises Unavailable with the remedy; closing what did not open is harmless, and so is closing twice."""

    async def run() -> None:
        node = Node(settings_of(mapping(tmp_path, "postgresql://postgres@127.0.0.1:1/none")))
        with pytest.raises(Unavailable, match="database.url"):
            await node.open()
        await node.close()
        await node.close()

    asyncio.run(run())


def test_two_nodes_share_the_destinations_and_one_of_them_delivers(tmp_path: Path) -> None:
    """A log file that may be written by one process only is written once, although two nodes are configured with it."""
    out = tmp_path / "out.jsonl"
    mapped = mapping(tmp_path, routing={"destinations": [{"type": "logfile", "log_path": str(out)}]})

    async def run() -> None:
        async with Node(settings_of(mapped)) as one, Node(settings_of(mapped)) as other:
            for number in range(30):
                await put(one if number % 2 else other, [f"s{number}"])
            await one.delivery.drained()
            assert {one.delivery.stats["logfile"].success, other.delivery.stats["logfile"].success} == {0, 30}
        account = compare([f"s{number}" for number in range(30)], written(out))
        assert account.exact
        assert account.found == 30

    asyncio.run(run())


def test_retention_does_not_wait_until_nothing_is_left_to_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where small blocks come in faster than they are merged, what is too old is deleted all the same."""
    monkeypatch.setattr(block, "EVENTS_PER_BLOCK", 1)
    mapped = mapping(tmp_path, url_of("sqlite", tmp_path), log={"retention_days": 1}, routing={"destinations": []})

    def blocks(tx: Tx, first: int) -> None:
        tx.append([record(number) for number in range(first, first + 100)])

    async def load() -> None:
        async with Node(settings_of(mapped)) as node, asyncio.timeout(180):
            first = 0
            while not await node.database.read(
                lambda reader: reader.rows("SELECT max(tail_offset) FROM log_heads")[0][0]
            ):
                await node.database.write(blocks, first)
                first += 100
                await asyncio.sleep(0.02)

    asyncio.run(load())
