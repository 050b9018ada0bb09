"""Which destinations the log waits for, and that their accounts stay balanced when they come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.databases.rigs import KINDS
from tests.logs.rigs import LogRig

from adjourn.clock import ManualClock
from adjourn.database import Tx
from adjourn.delivery.conservation import balances, consumer_of
from adjourn.delivery.known import forget, register_all
from adjourn.errors import NotFound
from adjourn.logs.sql import register
from adjourn.testing.exercise_log import append, event


def _register(tx: Tx, consumer: str, partition: int, drop_after_ms: int | None) -> None:
    register(tx, consumer, partition, drop_after_ms=drop_after_ms)


@pytest.mark.parametrize("kind", KINDS)
def test_a_destination_that_comes_back_has_a_balanced_account(kind: str, tmp_path: Path) -> None:
    """What was deleted while it was forgotten has expired for it, once, however often nodes start; the rest waits."""
    rig = LogRig(kind, tmp_path)

    async def run() -> None:
        clock = ManualClock()
        node = await rig.open(clock)
        database, partition = node.database, node.database.partition_of("s")

        async def start() -> None:
            await database.write(register_all, _register, {"out": None}, database.partitions)

        async def account() -> tuple[int, ...]:
            (b,) = await database.read(balances)
            assert b.difference == 0
            return b.before, b.delivered, b.expired, b.pending

        await append(node, clock, *(event(f"a{n}") for n in range(10)))
        await start()
        await database.write(node.log.advance, consumer_of("out"), partition, 4, {"delivered": 4})
        assert await node.log.retain(age_ms_max=None, bytes_max=1) == 0, "it still waits for six"
        assert await account() == (0, 4, 0, 6)
        with pytest.raises(NotFound, match="no destination other"):
            await database.write(forget, "other")
        await database.write(forget, "out")
        assert await node.log.retain(age_ms_max=None, bytes_max=1) == 10
        await append(node, clock, event("b"))
        for _ in range(2):
            await start()
            assert await account() == (0, 4, 6, 1)
        assert await node.log.retain(age_ms_max=None, bytes_max=1) == 0, "it holds the log again"
        await rig.shut(node)

    asyncio.run(run())
