from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.delivery.scripted import Judging, delivering, put_events, settled
from tests.faults.rigs import url_of

from adjourn.delivery import letters_service
from adjourn.delivery.held import Held, Wanted
from adjourn.delivery.transform import shaping_of
from adjourn.destination import Refusal
from adjourn.events import StoredEvent

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
            every = await node.dead_letters.select(Wanted(), fits=None, limit=100)
            assert len(every) == 11
            assert [(one.held_ms, one.id) for one in every] == sorted(
                ((one.held_ms, one.id) for one in every), key=_newest, reverse=True
            )
            some: list[Held] = []
            while page := await node.dead_letters.select(
                Wanted(), fits=FITS, before=some[-1].id if some else "", limit=3
            ):
                some += page
            assert some == [one for one in every if one.session_id != "s3"]

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
            assert await node.dead_letters.redrive_all(Wanted(), fits=Meddling(tmp_path)) == 0

    asyncio.run(run())


def _newest(one: tuple[int, str]) -> tuple[int, str, int, int]:
    destination, partition, offset = one[1].split(":")
    return one[0], destination, int(partition), int(offset)
