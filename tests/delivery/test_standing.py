"""How destinations stand, seen from outside the node that delivers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.faults.rigs import Nursery, mapping, raw, settings_of

from adjourn.delivery.known import forget
from adjourn.delivery.standing import Standing, note_outage
from adjourn.node import Node
from adjourn.settings import Settings

DEADLINE_S = 60


def away(directory: Path) -> Node:
    (directory / "file").write_text("in the way")
    destination = {"type": "logfile", "name": "away", "log_path": str(directory / "file" / "out.jsonl")}
    return Node(settings_of(mapping(directory, routing={"retry_delay_ms": 10, "destinations": [destination]})))


async def until(node: Node, holds: Callable[[Standing], object]) -> Standing:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            (standing,) = await node.delivery.standings()
            if holds(standing):
                return standing
            await asyncio.sleep(0.05)


def test_an_outage_is_seen_from_outside_and_ends(tmp_path: Path) -> None:
    """The node that delivers writes down why it cannot; it is gone as soon as it can, and the age with it."""

    async def main() -> None:
        async with away(tmp_path) as node:
            await node.ingest.take("acme", [raw("s1"), raw("s2")], source="test")
            standing = await until(node, lambda it: it.outage)
            assert "a part of log_path is a file" in standing.outage
            assert standing.waiting == standing.outage
            assert standing.outage_ms is not None
            assert standing.balance.pending == 2
            found = await node.log.read(0, 0, count=1)
            assert standing.oldest_ms == found.events[0].received_ms
            (tmp_path / "file").unlink()
            standing = await until(node, lambda it: not it.outage and not it.balance.pending)
            assert (standing.waiting, standing.oldest_ms, standing.behind) == ("", None, ())

    asyncio.run(main())


def test_what_an_earlier_node_wrote_down_does_not_stay(tmp_path: Path) -> None:
    """A node that was killed in an outage leaves its reason; the next one that can deliver clears it."""

    async def main() -> None:
        (tmp_path / "sub").mkdir()
        async with away(tmp_path / "sub") as node:
            (tmp_path / "sub" / "file").unlink()
            await node.database.write(note_outage, "away", "of an earlier node", 1)
            await node.delivery.stop(5)
        async with Node(node.settings) as node:
            assert (await until(node, lambda it: not it.outage)).outage_ms is None

    asyncio.run(main())


def test_the_beginning_of_an_outage_stays(tmp_path: Path) -> None:
    """Where only the reason changes, it has lasted as long as before; a pause is said first."""

    async def main() -> None:
        async with away(tmp_path) as node:
            await node.delivery.pause("away", "a move")
            await node.delivery.stop(5)  # it would clear what is written here
            await node.database.write(note_outage, "away", "one", 1)
            await node.database.write(note_outage, "away", "another", 2)
            standing = await until(node, lambda it: it.outage == "another")
            assert standing.outage_ms == 1
            assert standing.waiting == "paused: a move"

    asyncio.run(main())


def noted(directory: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(directory / "adjourn.db")) as connection:
        return connection.execute("SELECT destination FROM destination_outages").fetchall()


def disabled(node: Node) -> Settings:
    (one,) = node.settings.routing.destinations
    destinations = (msgspec.structs.replace(one, enabled=False),)
    routing = msgspec.structs.replace(node.settings.routing, destinations=destinations)
    return msgspec.structs.replace(node.settings, routing=routing)


@pytest.mark.parametrize("how", ["disabled", "stopped"])
def test_an_outage_ends_where_nobody_delivers_any_more(tmp_path: Path, how: str) -> None:
    """A destination that is disabled, or whose node is stopped, is not said to be away for ever: it is not running."""

    async def main() -> None:
        async with away(tmp_path) as node:
            assert (await until(node, lambda it: it.outage)).running
            if how == "disabled":
                await node.reconfigure(disabled(node))
                standing = await until(node, lambda it: not it.running)
                assert (standing.outage, standing.outage_ms, standing.waiting) == ("", None, "")
        assert noted(tmp_path) == []

    asyncio.run(main())


AWAY = """
def run(argument, pipe):
    async def main():
        async with Node(settings) as node:
            while not (await node.delivery.standings())[0].outage:
                await asyncio.sleep(0.01)
            os.write(pipe, b"away\\n")
            await asyncio.sleep(3600)
    asyncio.run(main())
"""


def test_what_a_killed_node_noted_ends_although_nobody_delivers_there_any_more(tmp_path: Path) -> None:
    """It is killed in an outage, and the next one has the destination disabled."""
    (tmp_path / "file").write_text("in the way")
    destination = {"type": "logfile", "name": "away", "log_path": str(tmp_path / "file" / "out.jsonl")}
    mapped = mapping(tmp_path, routing={"retry_delay_ms": 10, "destinations": [destination]})
    with Nursery(AWAY, mapped) as nursery:
        assert nursery.kill_one(after_s=0.0, once_it_spoke=True) == (True, ["away"])
    assert noted(tmp_path) == [("away",)]

    async def main() -> None:
        async with Node(disabled(Node(settings_of(mapped)))) as node:
            standing = await until(node, lambda it: not it.outage and not it.running)
            assert standing.outage_ms is None

    asyncio.run(main())


WELL = """
def run(argument, pipe):
    async def main():
        async with Node(settings) as node:
            while not (await node.delivery.standings())[0].running:
                await asyncio.sleep(0.01)
            os.write(pipe, b"running\\n")
            await asyncio.sleep(3600)
    asyncio.run(main())
"""


def test_what_a_killed_node_delivered_to_is_not_running_any_more(tmp_path: Path) -> None:
    """It is killed while all is well, and the next one has the destination disabled: nobody delivers there."""
    destination = {"type": "logfile", "name": "well", "log_path": str(tmp_path / "out.jsonl")}
    mapped = mapping(tmp_path, routing={"destinations": [destination]})
    with Nursery(WELL, mapped) as nursery:
        assert nursery.kill_one(after_s=0.0, once_it_spoke=True) == (True, ["running"])

    async def main() -> None:
        async with Node(disabled(Node(settings_of(mapped)))) as node:
            assert (await until(node, lambda it: not it.running)).waiting == ""

    asyncio.run(main())


def test_a_destination_that_is_forgotten_is_not_away(tmp_path: Path) -> None:
    """With it goes what a node that was killed had noted, also where no node runs any more."""

    async def main() -> None:
        async with away(tmp_path) as node:
            await node.delivery.stop(5)
            await node.database.write(note_outage, "away", "of an earlier node", 1)
            await node.database.write(forget, "away")
            (standing,) = await node.delivery.standings()
            assert (standing.outage, standing.outage_ms) == ("", None)

    asyncio.run(main())
