"""The judge objects to whatever does not add up. That it finds nothing after real trouble is tests/faults' to show."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.faults.rigs import event, mapping, settings_of

from adjourn.node import Node
from adjourn.testing.judge import Arrivals, judge
from adjourn.testing.unreliable import UnreliableReceiver

IDS = ["a.0", "b.0", "a.1", "b.1"]


async def _delivered(directory: Path) -> Node:
    """An open node whose log holds `IDS`, delivered to a log file but for those that its filter leaves out."""
    logfile = {"type": "logfile", "log_path": str(directory / "out.jsonl"), "filter": "session.session_id != 'c'"}
    node = Node(settings_of(mapping(directory, routing={"destinations": [logfile]})))
    await node.open()
    raws = [json.dumps(event(each[0], event_id=each)).encode() for each in [*IDS, "c.0"]]
    await node.ingest.take("default", raws, source="test")
    await node.delivery.drained()
    return node


def _judged(directory: Path, arrivals: Arrivals, captured: Sequence[str] = (), wrong_count: str = "") -> list[str]:
    async def main() -> list[str]:
        node = await _delivered(directory)
        try:
            if wrong_count:
                await node.database.write(lambda tx: tx.run(wrong_count, ()))
            return await judge(node, {"logfile": arrivals}, captured)
        finally:
            await node.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "arrived",
    [IDS, ["b.0", "a.0", "b.1", "a.1"], ["a.0", "b.0", "a.0", "b.0", "a.1", "b.1", "a.0"]],
    ids=["as sent", "sessions side by side", "sent again"],
)
def test_what_adds_up_is_not_objected_to(tmp_path: Path, arrived: Sequence[str]) -> None:
    """Sessions may overtake each other, and a batch may come again under the same ids."""
    assert _judged(tmp_path, Arrivals(arrived), [*IDS, "c.0"]) == []


@pytest.mark.parametrize(
    ("arrivals", "objection"),
    [
        (Arrivals(["a.0", "b.0", "b.1"]), "logfile: 1 delivered, and never arrived: a.1"),
        (Arrivals([*IDS, "c.0"]), "logfile: 1 arrived, and not counted as delivered: c.0"),
        (Arrivals([*IDS, "a.0-again"]), "logfile: 1 arrived, and not counted as delivered: a.0-again"),
        (Arrivals([*IDS, "b.1"], repeats=False), "logfile: 1 arrived twice: b.1"),
        (Arrivals(["a.1", "b.0", "a.0", "b.1"]), "logfile: 1 overtaken by a later event of their session: a.0"),
    ],
    ids=["lost", "not filtered", "new id", "twice", "reordered"],
)
def test_what_arrived_is_compared_with_the_account(tmp_path: Path, arrivals: Arrivals, objection: str) -> None:
    """What is missing, too much, doubled or out of order beyond a destination is named."""
    assert _judged(tmp_path, arrivals) == [objection]


def test_what_was_captured_is_in_the_log(tmp_path: Path) -> None:
    """An event that was acknowledged and is not in the log is named."""
    assert _judged(tmp_path, Arrivals(IDS), [*IDS, "d.0"]) == ["1 captured, and not in the log: d.0"]


def test_counts_are_compared_with_the_events(tmp_path: Path) -> None:
    """A count that is one too high is found twice: the sum is wrong, and the events say otherwise."""
    more = "UPDATE consumer_counts SET count = count + 1 WHERE kind = 'filtered'"
    problems = _judged(tmp_path, Arrivals(IDS), wrong_count=more)
    assert ["captured is not the sum" in problems[0], problems[1]] == [
        True,
        "logfile: 1 events are filtered, the balance says 2",
    ]


def test_dead_letters_of_what_would_be_taken_are_named(tmp_path: Path) -> None:
    """Where a destination says which events it refuses, no other may have become a dead letter."""

    async def main(receiver: UnreliableReceiver) -> list[str]:
        hook = {"type": "webhook", "url": receiver.url("/hook"), "allow_http": True, "allow_networks": ["127.0.0.0/8"]}
        async with Node(settings_of(mapping(tmp_path, routing={"destinations": [hook]}))) as node:
            raws = [json.dumps(event(each[0], event_id=each)).encode() for each in IDS]
            await node.ingest.take("default", raws, source="test")
            await node.delivery.drained()
            arrivals = Arrivals(receiver.acknowledged("/hook"), refuses=lambda event_id: event_id == "b.0")
            return await judge(node, {"webhook": arrivals})

    def ids_of(body: bytes) -> Sequence[str]:
        return [json.loads(body)["event_id"]]

    with UnreliableReceiver(
        random.Random(1), ids_of, lambda each: "bad" if each.endswith(".0") else "fine"
    ) as receiver:
        assert asyncio.run(main(receiver)) == ["webhook: 1 dead letters, and would have been taken: a.0"]
