from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg
import pytest
from tests.delivery.scripted import Judging, delivering, put_events, settled, waits_for_a_lock
from tests.faults.rigs import url_of

from adjourn.database import Reader, Tx
from adjourn.delivery import held
from adjourn.delivery.held import Held
from adjourn.delivery.letters import Wanted
from adjourn.delivery.whereabouts import whereabouts
from adjourn.destination import Refusal
from adjourn.errors import NotFound, ShapingFailed
from adjourn.events import StoredEvent
from adjourn.node import Node
from adjourn.settings import Settings

NOT_NOW = Refusal(0, "odd", "not now", permanent=False)

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


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_is_tried_again_expires_as_a_backlog_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Once the log has dropped it and drop_after_ms has passed, and not before; the ones behind it in its session too.
    It is counted as expired, is nowhere else, and what comes later of that session is delivered."""

    async def run() -> None:
        destination = Judging(lambda ids: {one: NOT_NOW for one in ids if one == "never"})
        async with delivering(
            tmp_path, monkeypatch, destination, url=url_of(kind, tmp_path), drop_after_ms=60_000, attempts=10**6
        ) as node:
            await put_events(node, ("a", "never"), ("b", "fine"))
            await _held(node, 1)  # else both of that session may go in one batch
            await put_events(node, ("a", "behind"))
            await _held(node, 2)
            later = node.clock.wall_ms() + 120_000
            assert await node.database.write(held.give_up, later) == 0, "the log has it still"
            await _dropped(node)
            assert await node.database.write(held.give_up, node.clock.wall_ms()) == 0, "too young"
            await _balanced(node, delivered=1, expired=0, pending=2)
            assert await node.database.write(held.give_up, later) == 2
            assert await node.database.write(held.give_up, later) == 0
            await put_events(node, ("a", "after"))
            await settled(node)
            await _balanced(node, delivered=2, expired=2, pending=0)
            assert destination.passed == ["fine", "after"]

    asyncio.run(run())


def test_the_node_gives_up_what_its_destination_will_never_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own upkeep; without drop_after_ms it is tried for ever."""
    monkeypatch.setattr("adjourn.node.DAY_MS", 0)  # retention_days of the log: everything is old

    async def run(directory: Path, drop_after_ms: int | None, expired: int) -> None:
        destination = Judging(lambda ids: {one: NOT_NOW for one in ids if one == "never"})
        async with delivering(directory, monkeypatch, destination, drop_after_ms=drop_after_ms, attempts=10**6) as node:
            node.settings = with_retention(node.settings)
            await put_events(node, ("a", "never"), ("b", "fine"))
            async with asyncio.timeout(60):
                while (await node.database.read(_tail)) < 2:
                    await asyncio.sleep(0.01)
                while expired and (await node.delivery.balances())[0].expired < expired:
                    await asyncio.sleep(0.01)
            await _balanced(node, delivered=1, expired=expired, pending=1 - expired)

    for name, drop_after_ms in (("drops", 1), ("keeps", None)):
        (tmp_path / name).mkdir()
        asyncio.run(run(tmp_path / name, drop_after_ms, int(name == "drops")))


def test_attempts_are_counted_over_redrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an event whose transform fails each time, and of one that is refused: redriven, they have all attempts anew,
    and what is told of them goes on counting, in the list, in its place and in its record."""

    class Failing:
        def shape(self, event: StoredEvent) -> StoredEvent | None:
            if b"broken" in event.body:
                raise ShapingFailed("no such field")
            return event

    async def run() -> None:
        destination = Judging(lambda ids: dict.fromkeys(ids, NOT_NOW))
        async with delivering(tmp_path, monkeypatch, destination, shapes=Failing(), attempts=2) as node:
            await put_events(node, ("a", "broken"), ("b", "refused"))
            for times in (1, 2, 3):
                await settled(node)
                page = await node.dead_letters.select(Wanted(), fits=None, limit=10)
                assert {one.event_id: one.attempts_total for one in page.letters} == {
                    "broken": times,
                    "refused": 2 * times,
                }
                for offset, attempts in enumerate((times, 2 * times)):
                    (found,) = await node.database.read(whereabouts, 0, offset)
                    assert (found.place, found.attempts) == ("dead_lettered", attempts)
                assert (await node.dead_letters.redrive_some(Wanted())).count == 2
            await settled(node)
            destination.judge = lambda ids: {}
            await node.dead_letters.redrive_some(Wanted(event_id="refused"))
            await settled(node)
            (found,) = await node.database.read(whereabouts, 0, 1)
            assert (found.place, found.attempts) == ("delivered", 9)
            await node.dead_letters.discard_some(Wanted())
            (found,) = await node.database.read(whereabouts, 0, 0)
            assert (found.place, found.attempts) == ("discarded", 4)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_letters_expire_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The oldest first, each counted once, and none that is younger."""
    monkeypatch.setattr(held, "AT_ONCE", 2)

    async def run() -> None:
        destination = Judging(lambda ids: {one: Refusal(0, "bad", "never") for one in ids})
        async with delivering(tmp_path, monkeypatch, destination, url=url_of(kind, tmp_path)) as node:
            await put_events(node, *[(f"s{number}", f"e{number}") for number in range(5)])
            await settled(node)
            assert await node.database.write(held.forget_letters, "scripted", 1) == 0
            assert await node.database.write(held.forget_letters, "other", 2**60) == 0
            gone = [await node.database.write(held.forget_letters, "scripted", 2**60) for _ in range(4)]
            assert gone == [2, 2, 1, 0]
            await _balanced(node, expired=5, dead_lettered=0, pending=0)

    asyncio.run(run())


def with_retention(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, log=msgspec.structs.replace(settings.log, retention_days=1))


def _tail(reader: Reader) -> int:
    return int(reader.rows("SELECT sum(tail_offset) FROM log_heads")[0][0] or 0)


async def _held(node: Node, count: int) -> None:
    async with asyncio.timeout(60):
        while await node.database.read(held.parked_count, "scripted", 10) < count:
            await asyncio.sleep(0.01)


async def _dropped(node: Node) -> None:
    """Everything that the log holds."""
    async with asyncio.timeout(60):
        while await node.database.read(_tail) < sum(await node.log.heads()):
            await node.log.retain(age_ms_max=1, bytes_max=None)
            await asyncio.sleep(0.01)


async def _balanced(node: Node, **counts: int) -> None:
    (balance,) = await node.delivery.balances()
    assert {kind: getattr(balance, kind) for kind in (*counts, "difference")} == {**counts, "difference": 0}
