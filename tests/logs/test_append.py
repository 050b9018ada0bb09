"""Appending: what it keeps of conflicts, how it cuts blocks, and what a restart or a lost commit does to its memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests import postgres
from tests.databases.rigs import KINDS, query
from tests.logs.rigs import LogRig
from tests.logs.test_upkeep import compact_all

from adjourn.clock import ManualClock
from adjourn.database import Row, Tx, Value
from adjourn.logs import block as blocks
from adjourn.logs.append import Conflict
from adjourn.testing.exercise_log import append, event
from adjourn.testing.faults import SqliteFaults
from adjourn.testing.tcp_proxy import TcpProxy


@pytest.mark.parametrize("kind", KINDS)
def test_conflicts_are_kept_in_the_same_transaction(kind: str, tmp_path: Path) -> None:
    """What conflicts is handed over with the holder's offset, and its keeping commits or fails with the batch."""
    rig = LogRig(kind, tmp_path)
    broken = False

    def keep(tx: Tx, conflicts: Sequence[Conflict]) -> None:
        for c in conflicts:
            tx.run("INSERT INTO kept (event_id, holder) VALUES (?, ?)", (c.record.event_id, c.holder_offset))
        if broken:
            raise LookupError("no room for it")

    async def run() -> None:
        nonlocal broken
        clock = ManualClock()
        node = await rig.open(clock, keep=keep)
        await node.database.write(lambda tx: tx.run("CREATE TABLE kept (event_id TEXT, holder INTEGER)"))
        await append(node, clock, event("a"), event("b"))
        broken = True
        with pytest.raises(LookupError):
            await append(node, clock, event("b", text="other"), event("c"))
        broken = False
        judged = await append(node, clock, event("b", text="other"), event("c"), event("c", text="no"))
        assert judged == ["conflict", "accepted", "conflict"]
        await rig.shut(node)

    asyncio.run(run())
    assert query(rig.url, "SELECT event_id, holder FROM kept ORDER BY event_id") == [("b", 1), ("c", -1)]


@pytest.mark.parametrize("kind", KINDS)
def test_large_appends_are_cut_into_blocks(kind: str, tmp_path: Path) -> None:
    """No block holds more than 4,096 events or, but for a single one, 4 MB; offsets run on."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        clock = ManualClock()
        node = await rig.open(clock)
        await append(node, clock, *(event(f"e{n}") for n in range(9_000)))
        await append(
            node, clock, *(event(f"b{n}", text="x" * 1_500_000) for n in range(6)), event("huge", text="x" * 5_000_000)
        )
        await rig.shut(node)

    asyncio.run(run())
    counts = [row[0] for row in query(rig.url, "SELECT count FROM log_blocks ORDER BY first_offset")]
    assert counts == [blocks.EVENTS_PER_BLOCK, blocks.EVENTS_PER_BLOCK, 9_000 - 2 * blocks.EVENTS_PER_BLOCK, 2, 2, 2, 1]


def test_the_window_survives_a_commit_of_unknown_outcome(tmp_path: Path) -> None:
    """After an error in COMMIT that had committed, and after one that had not, resends are duplicates, once each."""

    async def run(rig: LogRig, fault: object) -> None:
        clock = ManualClock()
        node = await rig.open(clock)
        for number in range(30):
            assert callable(fault)
            fault()
            assert await append(node, clock, event(f"e{number}"), key="s") == ["accepted"]
            assert await append(node, clock, event(f"e{number}"), key="s") == ["duplicate"]
        assert sum(await node.log.heads()) == 30
        await rig.shut(node)

    rig = LogRig("sqlite", tmp_path)
    with SqliteFaults(tmp_path) as faults:
        asyncio.run(run(rig, faults.fail_sync))
    rig = LogRig("postgresql", tmp_path)
    with TcpProxy(("127.0.0.1", postgres.server().port)) as proxy:
        rig.url = proxy.url(rig.url)
        asyncio.run(run(rig, lambda: proxy.cut_after_sending(b"COMMIT")))


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_identities_are_recognised_after_a_restart(kind: str, tmp_path: Path) -> None:
    """Events held by another identity than their id, mixed with plain ones in one block, are known after a restart."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        clock = ManualClock()
        records = [event(f"e{n}") for n in range(9)]
        for number in (2, 5):
            records[number].dedupe_hash = b"session%d" % number
        node = await rig.open(clock)
        assert await append(node, clock, *records) == ["accepted"] * 9
        await rig.shut(node)
        node = await rig.open(clock)
        assert await append(node, clock, *records) == ["duplicate"] * 9
        plain = event("e5")
        assert await append(node, clock, plain) == ["accepted"], "its id alone was never the identity"
        await rig.shut(node)

    asyncio.run(run())


def test_the_window_misses_nothing_while_blocks_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one node took is a duplicate on another, also if a third merges its blocks between any two statements by
    which that one catches up."""
    rig = LogRig("postgresql", tmp_path)

    async def run() -> None:
        clock, loop = ManualClock(), asyncio.get_running_loop()
        first, second, third = [await rig.open(clock, name) for name in "abc"]
        partition = first.database.partition_of("s")
        await append(second, clock, event("before"))
        for number in range(40):
            await append(first, clock, event(f"e{number}"))
        driver = second.database._lanes[partition]._driver  # pyright: ignore[reportPrivateUsage]  # to meet the moment
        rows = driver.rows
        merged: list[str] = []

        def and_merge(sql: str, params: Sequence[Value] = ()) -> list[Row]:
            found = rows(sql, params)
            if "log_blocks" in sql and not merged:
                merged.append(sql)
                asyncio.run_coroutine_threadsafe(compact_all(third), loop).result(10)
            return found

        monkeypatch.setattr(driver, "rows", and_merge)
        again = [event(f"e{number}") for number in range(40)]
        assert await append(second, clock, *again) == ["duplicate"] * 40
        assert merged
        for node in (first, second, third):
            await rig.shut(node)

    asyncio.run(run())
