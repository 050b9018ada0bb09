from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from tests.delivery.scripted import Judging, delivering, put_events, settled, waits_for_a_lock
from tests.faults.rigs import url_of

from adjourn.database import Tx
from adjourn.delivery import held
from adjourn.delivery.held import Held
from adjourn.delivery.letters import Wanted
from adjourn.destination import Refusal
from adjourn.errors import NotFound

Deal = Callable[[Tx, str | None, str, int], Held]


@pytest.mark.parametrize("first", ["redrive", "discard", "expire"])
@pytest.mark.parametrize("then", [held.redrive, held.discard])
def test_a_letter_that_two_deal_with_at_once_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: Deal
) -> None:
    """On two nodes over PostgreSQL: who comes second is told that the letter is gone; the account balances."""
    url = url_of("postgresql", tmp_path)
    counts = {"redrive": {}, "discard": {"discarded": 1}, "expire": {"expired": 1}}[first]

    async def run() -> None:
        destination = Judging(lambda ids: {one: Refusal(0, "bad", "never") for one in ids})
        async with delivering(tmp_path, monkeypatch, destination, url=url) as node:
            await put_events(node, ("a", "e1"))
            await settled(node)
            await node.delivery.pause("scripted", "a test")
            (letter,) = (await node.dead_letters.select(Wanted(), fits=None, limit=10)).letters
            async with await psycopg.AsyncConnection.connect(url) as other:  # as the other node does it
                if first == "redrive":
                    await other.execute("UPDATE held_events SET state = 'parked', attempts = 0")
                else:
                    await other.execute("DELETE FROM held_events")
                for kind, change in {"dead_lettered": -1, **counts}.items():
                    await other.execute(
                        "INSERT INTO consumer_counts SELECT consumer, partition, %s, %s FROM consumer_counts "
                        "WHERE kind = 'dead_lettered' ON CONFLICT (consumer, partition, kind) "
                        "DO UPDATE SET count = consumer_counts.count + excluded.count",
                        (kind, change),
                    )
                dealing = asyncio.create_task(node.database.write(then, None, letter.id, node.clock.wall_ms()))
                await waits_for_a_lock(url)
                await other.commit()
            with pytest.raises(NotFound):
                await dealing
            (balance,) = await node.delivery.balances()
            assert (balance.difference, balance.dead_lettered, balance.pending) == (0, 0, 1 - sum(counts.values()))

    asyncio.run(run())
