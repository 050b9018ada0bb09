from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.delivery.scripted import Scripted, delivering, put, settled
from tests.faults.rigs import mapping, raw, settings_of, url_of

from adjourn.delivery.conservation import KINDS, Balance
from adjourn.destination import Refusal
from adjourn.node import Node


def test_the_difference_is_what_is_not_accounted_for() -> None:
    """Any event that is lost or doubled on the way shows, with its sign."""
    parts = {kind: place for place, kind in enumerate((*KINDS, "pending"), 1)}
    assert Balance("d", 45, **parts).difference == 0
    assert Balance("d", 46, **parts).difference == 1
    assert Balance("d", 44, **parts).difference == -1


def test_the_account_is_balanced_at_every_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While events come in, are delivered, sampled out and refused, every look at the account finds difference 0."""

    async def run() -> None:
        refusals = [[Refusal(0, "bad", "never")] for _ in range(10)]
        differences: set[int] = set()
        async with delivering(tmp_path, monkeypatch, Scripted(*refusals), sampling_rate=0.7, batch_size=7) as node:
            done = asyncio.Event()

            async def look() -> None:
                while not done.is_set():
                    differences.update(balance.difference for balance in await node.delivery.balances())

            looking = asyncio.create_task(look())
            for start in range(0, 400, 20):
                await put(node, 20, start)
            await settled(node)
            done.set()
            await looking
            (balance,) = await node.delivery.balances()
        assert differences == {0}
        assert (balance.captured, balance.pending, balance.dead_lettered) == (400, 0, 10)
        assert balance.delivered + balance.sampled_out == 390
        assert balance.sampled_out > 0

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_destination_that_comes_later_is_balanced_too(tmp_path: Path, kind: str) -> None:
    """One that is configured after retention has deleted events has those as `before`, and gets all that is kept."""
    url = url_of(kind, tmp_path)

    async def first() -> None:
        async with Node(settings_of(mapping(tmp_path, url))) as node:
            await node.ingest.take("default", [raw(f"s{n}") for n in range(20)], source="test")
            await node.delivery.drained()
            await asyncio.sleep(0.01)
            assert await node.log.retain(age_ms_max=1, bytes_max=None) == 20
            await node.ingest.take("default", [raw(f"t{n}") for n in range(5)], source="test")
            await node.delivery.drained()

    async def second() -> None:
        file = {"type": "logfile", "log_path": str(tmp_path / "late.jsonl")}
        async with Node(settings_of(mapping(tmp_path, url, routing={"destinations": [file]}))) as node:
            await node.delivery.drained()
            late = {balance.destination: balance for balance in await node.delivery.balances()}["logfile"]
            assert (late.captured, late.before, late.delivered, late.difference) == (25, 20, 5, 0)

    asyncio.run(first())
    asyncio.run(second())
