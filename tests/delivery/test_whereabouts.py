from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.delivery.scripted import Judging, delivering, put_events, settled

from adjourn.delivery import held, records
from adjourn.delivery.whereabouts import Whereabouts, whereabouts
from adjourn.destination import Refusal
from adjourn.node import Node


async def places(node: Node) -> dict[str, Whereabouts]:
    found: dict[str, Whereabouts] = {}
    for event in (await node.log.read(0, 0, count=100)).events:
        (one,) = await node.database.read(whereabouts, event.partition, event.offset)
        found[event.completion().event_id or ""] = one
    return found


def test_an_event_is_somewhere_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pending, retrying, delivered, dead, redriven, discarded, expired, and at last known as a sum alone."""
    refused = {
        "dead": Refusal(0, "bad", "never"),
        "gone": Refusal(0, "bad", "never"),
        "old": Refusal(0, "bad", "never"),
        "later": Refusal(0, "odd", "not now", permanent=False),
    }

    async def run() -> None:
        destination = Judging(lambda ids: {one: refused[one] for one in ids if one in refused})
        async with delivering(tmp_path, monkeypatch, destination, delay_ms=60_000, delay_ms_max=60_000) as node:
            await node.delivery.pause("scripted", "a test")
            await put_events(node, *[(name, name) for name in ("fine", *refused)])
            assert {one.place for one in (await places(node)).values()} == {"pending"}
            await node.delivery.resume("scripted")
            async with asyncio.timeout(20):
                while (await places(node))["later"].place != "retrying":
                    await asyncio.sleep(0.01)
            found = await places(node)
            assert {name: one.place for name, one in found.items()} == {
                "fine": "delivered",
                "dead": "dead_lettered",
                "gone": "dead_lettered",
                "old": "dead_lettered",
                "later": "retrying",
            }
            assert (found["dead"].code, found["dead"].reason, found["dead"].attempts) == ("bad", "never", 1)
            assert found["later"].next_ms is not None
            assert (found["fine"].attempts, found["fine"].since_ms is None) == (1, False)
            now_ms = node.clock.wall_ms()
            await node.database.write(held.discard, None, "scripted:0:2", now_ms)
            refused.clear()
            await node.database.write(held.redrive, None, "scripted:0:1", now_ms)
            await node.database.write(held.forget_letters, "scripted", now_ms + 60_000)
            async with asyncio.timeout(20):
                while (await places(node))["dead"].place != "delivered":
                    await asyncio.sleep(0.01)
            found = await places(node)
            assert (found["gone"].place, found["old"].place) == ("discarded", "expired")
            await node.database.write(records.forget, "scripted", now_ms + 60_000)
            assert (await places(node))["fine"].place == "settled"

    asyncio.run(run())


def test_each_destination_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not exist any more still has what it had; a stranger's cursor is no destination."""

    async def run() -> None:
        async with delivering(tmp_path, monkeypatch, Judging(lambda ids: {})) as node:
            await put_events(node, ("a", "a"))
            await settled(node)
            await node.database.write(
                lambda tx: tx.run(
                    "INSERT INTO cursors VALUES ('destination:old', 0, 0, NULL, 0), ('feed', 0, 0, NULL, 1)"
                )
            )
            found = await node.database.read(whereabouts, 0, 0)
            assert [(one.destination, one.place) for one in found] == [("old", "pending"), ("scripted", "delivered")]

    asyncio.run(run())
