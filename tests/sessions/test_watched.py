"""The table of watched sessions, as conditional statements, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from tests.databases.rigs import DatabaseRig, opened

from adjourn.database import Database
from adjourn.sessions import watched as rows
from adjourn.sessions.watch import NEXT, Key, State, Watched
from adjourn.sessions.watched import Beat

T = TypeVar("T")

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
NEW = Watched(
    tenant="t",
    session_id="s",
    attempt=1,
    state="open",
    token=b"token",
    lease_ms=1000,
    beat=0,
    begun=b"{}",
    usage=b"",
    event_id="evt_1",
    began_ms=1,
    heard_ms=1,
)


def on(kind: str, directory: Path, work: Callable[[Database], object]) -> None:
    async def run() -> None:
        async with opened(DatabaseRig(kind, directory).connect()) as database:
            await work(database)  # type: ignore[misc]  # a coroutine function, which Callable cannot say here

    asyncio.run(run())


@KINDS
@pytest.mark.parametrize("to", ["completed", "abandoned", "amended"])
def test_only_what_the_table_allows_happens(tmp_path: Path, kind: str, to: State) -> None:
    """From each state, each move either is in the table and happens, or is not and changes nothing."""

    async def work(database: Database) -> None:
        for state in NEXT:
            new = msgspec.structs.replace(NEW, session_id=state, state=state, ended_ms=None if state == "open" else 5)
            await database.write(rows.begin, new, True)
            moved = await database.write(lambda tx, new=new: rows.end(tx, new.key, to, now_ms=9, content=b"c"))
            found = await database.read(rows.find, new.key)
            assert found is not None
            assert moved == (to in NEXT[state])
            assert found.state == (to if moved else state)
            assert found.ended_ms == (9 if state == "open" and moved else new.ended_ms)

    on(kind, tmp_path, work)


@KINDS
def test_what_was_heard_of_is_not_abandoned(tmp_path: Path, kind: str) -> None:
    """Between the judgement and its writing one beat is enough."""

    async def work(database: Database) -> None:
        await database.write(rows.begin, NEW, True)
        assert await database.write(rows.beat, [Beat(NEW.key)], 2) == {NEW.key: 1000}
        assert not await database.write(lambda tx: rows.end(tx, NEW.key, "abandoned", now_ms=9, beat=0))
        assert await database.write(lambda tx: rows.end(tx, NEW.key, "abandoned", now_ms=9, beat=1))
        assert await database.write(rows.beat, [Beat(NEW.key)], 3) == {}

    on(kind, tmp_path, work)


@KINDS
def test_what_was_begun_is_kept_only_as_long_as_it_can_be_needed(tmp_path: Path, kind: str) -> None:
    """After abandonment a late completion still needs it; after a completion it is in the log, and gone from here."""

    async def work(database: Database) -> None:
        kept: list[bytes] = []
        await database.write(rows.begin, msgspec.structs.replace(NEW, begun=b'{"user":{}}'), True)
        for to in ("abandoned", "amended"):
            await database.write(lambda tx, to=to: rows.end(tx, NEW.key, to, now_ms=9))
            found = await database.read(rows.find, NEW.key)
            assert found is not None
            kept.append(found.begun)
        assert kept == [b'{"user":{}}', b""]

    on(kind, tmp_path, work)


@KINDS
def test_forgetting_takes_what_ended_before_and_nothing_open(tmp_path: Path, kind: str) -> None:
    """Open sessions stay however old they are."""

    async def work(database: Database) -> None:
        for name, ended_ms in (("open", None), ("old", 10), ("new", 20)):
            state: State = "open" if ended_ms is None else "completed"
            new = msgspec.structs.replace(NEW, session_id=name, state=state, ended_ms=ended_ms)
            await database.write(rows.begin, new, True)
        assert await database.read(rows.any_ended, 20)
        await database.write(rows.forget, 20)
        assert not await database.read(rows.any_ended, 20)
        found = await database.read(lambda reader: rows.select(reader, "t", state=None, after=None, limit=10))
        assert [watched.session_id for watched in found] == ["new", "open"]
        assert await database.read(rows.count_open) == {"t": 1}
        assert [sighting.key for sighting in await database.read(rows.open_sightings)] == [Key("t", "open")]

    on(kind, tmp_path, work)


@KINDS
def test_no_room_refuses_only_what_is_new(tmp_path: Path, kind: str) -> None:
    """A begin that is sent again is found although there is no room for another."""

    async def work(database: Database) -> None:
        assert await database.write(rows.begin, NEW, False) == (None, False)
        assert (await database.write(rows.begin, NEW, True))[1]
        standing, fresh = await database.write(rows.begin, NEW, False)
        assert standing is not None
        assert (standing.key, fresh) == (NEW.key, False)

    on(kind, tmp_path, work)
