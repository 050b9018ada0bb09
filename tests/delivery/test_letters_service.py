from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.delivery.scripted import Judging, delivering, put_events, settled
from tests.faults.rigs import mapping, settings_of, url_of

from adjourn.database import Tx
from adjourn.delivery import letters_service
from adjourn.delivery.held import Held, hold
from adjourn.delivery.letters import Wanted
from adjourn.delivery.route import Shapes
from adjourn.delivery.transform import shaping_of
from adjourn.destination import Refusal
from adjourn.errors import BodyInvalid
from adjourn.events import StoredEvent
from adjourn.node import Node

FITS = shaping_of(filter="session.session_id != 's3'", transform="")


class Meddling:
    """A filter that everything passes; while it looks at its first event, another process deletes all letters."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def shape(self, event: StoredEvent) -> StoredEvent | None:
        with closing(sqlite3.connect(self._directory / "adjourn.db", timeout=20)) as other, other:
            other.execute("DELETE FROM held_events")
        return event


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_letters_are_found_page_by_page_whoever_else_deals_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Newest first, with and without a filter, over many pages."""
    monkeypatch.setattr(letters_service, "STEP", 2)
    monkeypatch.setattr(letters_service, "LOOK", 4)

    async def run() -> None:
        destination = Judging(lambda ids: {one: Refusal(0, "bad", "never") for one in ids})
        async with delivering(tmp_path, monkeypatch, destination, url=url_of(kind, tmp_path), batch_size=3) as node:
            await put_events(node, *[(f"s{number}", f"e{number}") for number in range(11)])
            await settled(node)
            every = (await node.dead_letters.select(Wanted(), fits=None, limit=100)).letters
            assert len(every) == 11
            assert [(one.held_ms, one.id) for one in every] == sorted(
                ((one.held_ms, one.id) for one in every), key=_newest, reverse=True
            )
            for spend_s in (10.0, -1.0):  # without time, a page has what one step finds
                monkeypatch.setattr(letters_service, "SPEND_S", spend_s)
                assert await _all(node, Wanted(), None) == every
                assert await _all(node, Wanted(), FITS) == [one for one in every if one.session_id != "s3"]
                assert await _all(node, Wanted(code="nothing"), FITS) == []
                assert await _all(node, Wanted(event_id="e3"), None) == [one for one in every if one.event_id == "e3"]

    asyncio.run(run())


def test_a_page_whose_letters_are_gone_by_then_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two redrive all that there is at the same time: each does what is left, and is not told of a letter that it never
    named."""
    monkeypatch.setattr(letters_service, "STEP", 2)

    async def run() -> None:
        destination = Judging(lambda ids: {one: Refusal(0, "bad", "never") for one in ids})
        async with delivering(tmp_path, monkeypatch, destination) as node:
            await put_events(node, *[(f"s{number}", f"e{number}") for number in range(5)])
            await settled(node)
            dealt = await node.dead_letters.redrive_some(Wanted(), fits=Meddling(tmp_path))
            assert (dealt.count, dealt.full) == (0, False)

    asyncio.run(run())


async def _all(node: Node, wanted: Wanted, fits: Shapes | None) -> list[Held]:
    """Page by page, to the end."""
    found: list[Held] = []
    cursor = ""
    while True:
        page = await node.dead_letters.select(wanted, fits=fits, cursor=cursor, limit=3)
        assert len(page.letters) <= 3
        found += page.letters
        cursor = page.cursor
        if not cursor:
            return found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_call_has_a_bound_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """With no time to spend each call does one step: together they discard what fits, each letter once, also where a
    step finds nothing; the account balances."""
    monkeypatch.setattr(letters_service, "STEP", 2)
    monkeypatch.setattr(letters_service, "SPEND_S", -1.0)

    async def run() -> None:
        destination = Judging(lambda ids: {one: Refusal(0, "bad", "never") for one in ids})
        async with delivering(tmp_path, monkeypatch, destination, url=url_of(kind, tmp_path)) as node:
            await put_events(node, *[(f"s{number}", f"e{number}") for number in range(9)])
            await settled(node)
            for fits, expected in ((FITS, 8), (FITS, 0), (None, 1)):
                counts, cursor = [], ""
                while True:
                    dealt = await node.dead_letters.discard_some(Wanted(code="bad"), fits=fits, cursor=cursor)
                    counts.append(dealt.count)
                    cursor = dealt.cursor
                    if not cursor:
                        break
                assert (sum(counts), max(counts) <= 2) == (expected, True)
                assert expected < 8 or len(counts) > 3
            (balance,) = await node.delivery.balances()
            assert (balance.difference, balance.discarded, balance.dead_lettered) == (0, 9, 0)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_dies_again_meanwhile_is_not_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each is redriven once, however soon it is dead again; its attempts go on counting."""
    monkeypatch.setattr(letters_service, "STEP", 2)
    monkeypatch.setattr(letters_service, "SPEND_S", -1.0)

    async def run() -> None:
        destination = Judging(lambda ids: {one: Refusal(0, "bad", "never") for one in ids})
        async with delivering(tmp_path, monkeypatch, destination, url=url_of(kind, tmp_path)) as node:
            await put_events(node, *[(f"s{number}", f"e{number}") for number in range(5)])
            await settled(node)
            for times in (2, 3):
                count, cursor = 0, ""
                while True:
                    dealt = await node.dead_letters.redrive_some(Wanted(), cursor=cursor)
                    count, cursor = count + dealt.count, dealt.cursor
                    await settled(node)
                    if not cursor:
                        break
                assert count == 5
                found = await _all(node, Wanted(), None)
                assert [(one.attempts_total, one.attempts) for one in found] == [(times, 1)] * 5

    asyncio.run(run())


def test_a_destination_gets_no_more_back_than_it_may_try_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it tries those, a call gives none back and says so; later the same call goes on where it was."""
    monkeypatch.setattr(letters_service, "STEP", 2)
    monkeypatch.setattr(letters_service, "REDRIVEN_MAX", 3)

    async def run() -> None:
        destination = Judging(lambda ids: {one: Refusal(0, "bad", "never") for one in ids})
        async with delivering(tmp_path, monkeypatch, destination) as node:
            await put_events(node, *[(f"s{number}", f"e{number}") for number in range(7)])
            await settled(node)
            await node.delivery.pause("scripted", "a test")
            first = await node.dead_letters.redrive_some(Wanted())
            assert (first.count, first.full) == (4, True)
            again = await node.dead_letters.redrive_some(Wanted(), cursor=first.cursor)
            assert (again.count, again.full, again.cursor) == (0, True, first.cursor)
            destination.judge = lambda ids: {}
            await node.delivery.resume("scripted")
            await settled(node)
            rest = await node.dead_letters.redrive_some(Wanted(), cursor=first.cursor)
            assert (rest.count, rest.full, rest.cursor) == (3, False, "")
            await settled(node)
            assert sorted(destination.passed) == [f"e{number}" for number in range(7)]

    asyncio.run(run())


@pytest.mark.parametrize("spend_s", [10.0, -1.0])
def test_a_destination_that_has_enough_does_not_hold_up_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spend_s: float
) -> None:
    """Of all letters, those of the others are given back although older ones have to wait; and it is said that some
    do, at the end, with a cursor by which they are given back later."""
    monkeypatch.setattr(letters_service, "STEP", 2)
    monkeypatch.setattr(letters_service, "REDRIVEN_MAX", 2)
    monkeypatch.setattr(letters_service, "SPEND_S", spend_s)

    def of(name: str, offset: int, *, dead: bool) -> Held:
        body = b'{"event_id":"e","session":{"session_id":"s"}}'
        state, died_ms = ("dead", 20 if name == "scripted" else 10) if dead else ("parked", 1)
        return Held(name, 0, offset, state, "org", "s", "e", 1, None, "", "bad", "why", 1, died_ms, 0, body)

    def fill(tx: Tx) -> None:
        tx.run("INSERT INTO cursors (consumer, partition, next_offset, live) VALUES ('destination:stuck', 0, 0, 1)")
        hold(tx, [of("stuck", offset, dead=offset >= 2) for offset in range(7)])
        hold(tx, [of("scripted", offset, dead=True) for offset in range(2)])

    async def all_of(node: Node, cursor: str) -> letters_service.Dealt:
        count = 0
        while True:
            dealt = await node.dead_letters.redrive_some(Wanted(), cursor=cursor)
            count, cursor = count + dealt.count, dealt.cursor
            if dealt.full or not cursor:
                return letters_service.Dealt(count, cursor, dealt.full)

    async def run() -> None:
        async with delivering(tmp_path, monkeypatch, Judging(lambda ids: {})) as node:
            await node.delivery.pause("scripted", "a test")
            await node.database.write(fill)
            first = await all_of(node, "")
            assert (first.count, first.full) == (2, True)
            assert {one.destination for one in await _all(node, Wanted(), None)} == {"stuck"}
            monkeypatch.setattr(letters_service, "REDRIVEN_MAX", 100)
            assert await all_of(node, first.cursor) == letters_service.Dealt(5, "")

    asyncio.run(run())


@pytest.mark.parametrize("cursor", ["x", "1:a:b:2", "1:a:1:2~", "~", "1:hook:0:99999999999999999999"])
def test_a_cursor_that_is_none_is_refused(tmp_path: Path, cursor: str) -> None:
    """Whatever is given as one; nothing is looked at."""

    async def run() -> None:
        async with Node(settings_of(mapping(tmp_path, "", routing={"destinations": []}))) as node:
            with pytest.raises(BodyInvalid):
                await node.dead_letters.discard_some(Wanted(), cursor=cursor)
            with pytest.raises(BodyInvalid):
                await node.dead_letters.select(Wanted(), fits=None, cursor=cursor, limit=1)

    asyncio.run(run())


def _newest(one: tuple[int, str]) -> tuple[int, str, int, int]:
    destination, partition, offset = one[1].split(":")
    return one[0], destination, int(partition), int(offset)
