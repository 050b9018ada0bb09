from __future__ import annotations

import asyncio
from pathlib import Path

from tests.faults.rigs import mapping, settings_of

from adjourn.database import Tx
from adjourn.delivery.deadletters import DeadLetter, bury
from adjourn.destination import Refusal
from adjourn.events import StoredEvent
from adjourn.node import Node

EVENT = StoredEvent(1, 7, "acme", b'{"event_id":"evt_1","session":{"session_id":"s"}}', 5, None, "")


def test_a_dead_letter_holds_the_event_whole_with_its_reason() -> None:
    """Where it lay, whose it is, why, after how many tries, and its bytes."""
    letter = DeadLetter.of("hook", EVENT, Refusal(0, "bad", "because"), 3, 99)
    assert letter == DeadLetter("hook", 1, 7, "acme", "evt_1", "bad", "because", 3, 99, EVENT.body)


def test_burying_one_twice_keeps_the_first(tmp_path: Path) -> None:
    """A batch that is settled again after a crash doubles no letter; another destination has one of its own."""
    letters = [DeadLetter.of(name, EVENT, Refusal(0, "bad", "no"), n, n) for n, name in enumerate(("a", "a", "b"))]

    def work(tx: Tx) -> None:
        bury(tx, letters)

    async def run() -> None:
        async with Node(settings_of(mapping(tmp_path))) as node:
            await node.database.write(work)
            rows = await node.database.read(
                lambda r: r.rows("SELECT destination, attempts, body FROM dead_letters ORDER BY destination")
            )
            assert rows == [("a", 0, EVENT.body), ("b", 2, EVENT.body)]

    asyncio.run(run())
