"""Lists of many sessions are those that a plain loop over all of them would give, on both databases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.databases.rigs import DatabaseRig, opened
from tests.sessions.populations import BEGAN_MS, put, session, sessions

from adjourn.database import Database
from adjourn.errors import BodyInvalid
from adjourn.sessions import queries
from adjourn.sessions.query import Order, Query
from adjourn.sessions.session import Session

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
ORDERS: list[Order] = ["created", "active", "ended", "cost"]
HOUR_MS = 3_600_000


def on(kind: str, directory: Path, work: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        async with opened(DatabaseRig(kind, directory).connect()) as database:
            await work(database)

    asyncio.run(run())


def expected(query: Query, everything: list[Session]) -> list[str]:
    fitting = [one for one in everything if one.tenant == "t" and _fits(query, one)]
    keys: dict[Order, Callable[[Session], Any]] = {
        "created": lambda one: one.id,
        "active": lambda one: (one.active_ms, one.id),
        "ended": lambda one: (one.ended_ms, one.id),
        "cost": lambda one: (one.spent.cost_nanousd, one.id),
    }
    return [one.id for one in sorted(fitting, key=keys[query.order], reverse=query.descending)]


def _fits(query: Query, one: Session) -> bool:
    statuses, live = query.status, one.ended_ms is None
    equal = {
        "pattern": one.pattern,
        "user_id": one.user_id,
        "role": one.role,
        "kind": one.kind,
        "live": live,
        "interface": one.interface,
        "runner": one.runner,
        "model": one.model,
        "parent_id": one.parent_id,
        "root_id": one.root_id,
    }
    return (
        all(getattr(query, name) in (None, value) for name, value in equal.items())
        and (not statuses or one.status in statuses)
        and set(query.tags) <= set(one.described.tags)
        and one.name.startswith(query.name_prefix)
        and _within(one.created_ms, query.created_since_ms, query.created_until_ms)
        and _within(one.ended_ms, query.ended_since_ms, query.ended_until_ms)
        and (query.order != "ended" or not live)
    )


def _within(value: int | None, since: int | None, until: int | None) -> bool:
    if since is None and until is None:
        return True
    return value is not None and (since is None or since <= value) and (until is None or value < until)


async def paged(database: Database, query: Query) -> list[str]:
    """All pages of it."""
    found: list[str] = []
    while True:
        page = await database.read(queries.select, "t", query)
        assert len(page.sessions) <= query.limit
        found += [one.id for one in page.sessions]
        if not page.cursor:
            return found
        query = msgspec.structs.replace(query, cursor=page.cursor)


def questions(everything: list[Session], rng: random.Random, count: int) -> list[Query]:
    """Each filter alone in each order and direction; then some of them together."""
    one = rng.choice([one for one in everything if one.parent_id])
    filters: dict[str, Callable[[], object]] = {
        "pattern": lambda: rng.choice(everything).pattern,
        "status": lambda: tuple(rng.sample(["idle", "active", "completed", "error"], rng.choice([1, 2, 3]))),
        "live": lambda: rng.random() < 0.5,
        "user_id": lambda: rng.choice(everything).user_id,
        "tags": lambda: tuple(rng.sample(["red", "green", "blue", "rare", "none"], rng.choice([1, 1, 2]))),
        "role": lambda: rng.choice(everything).role,
        "kind": lambda: rng.choice(everything).kind,
        "interface": lambda: rng.choice(["web", "api", "none"]),
        "runner": lambda: rng.choice(["echo", "none"]),
        "model": lambda: rng.choice(["", "model-a", "none"]),
        "parent_id": lambda: one.parent_id,
        "root_id": lambda: one.root_id,
        "name_prefix": lambda: rng.choice(["n", "N", "night", "n%", "ü"]),
        "created_since_ms": lambda: rng.choice(everything).created_ms,
        "created_until_ms": lambda: rng.choice(everything).created_ms,
        "ended_since_ms": lambda: rng.choice(everything).active_ms,
        "ended_until_ms": lambda: rng.choice(everything).active_ms,
    }
    made: list[dict[str, Any]] = [{}]
    made += [{name: value()} for name, value in filters.items()]
    made += [
        {name: filters[name]() for name in rng.sample(sorted(filters), rng.choice([2, 2, 3, 4]))} for _ in range(count)
    ]
    return [
        Query(**each, order=order, descending=down, limit=rng.choice([1, 7, 100, 500]))
        for each in made
        for order in ORDERS
        for down in (True, False)
        if rng.random() < 0.5
    ]


@KINDS
@pytest.mark.parametrize("small", [True, False])
def test_pages_together_are_what_was_asked_for(
    tmp_path: Path, kind: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every filter, alone and with others, in every order, in pages of any size: each that fits once, in order. It does
    not matter whether the bounds of a page are met early or late."""
    rng = random.Random(7)
    everything = sessions(400 if small else 2_500, rng)
    if small:
        for name, value in (("FEW", 6), ("LOOKED_FIRST", 3), ("LOOKED_MAX", 10)):
            monkeypatch.setattr(queries, name, value)

    async def work(database: Database) -> None:
        await database.write(put, everything)
        await database.write(put, sessions(50, rng, tenant="other"))
        for query in questions(everything, rng, 60):
            if small or query.limit > 1:
                assert await paged(database, query) == expected(query, everything), query

    on(kind, tmp_path, work)


@KINDS
def test_what_is_made_meanwhile_moves_nothing(tmp_path: Path, kind: str) -> None:
    """Neither skipped nor repeated: who pages through a list sees each that was there at the beginning just once."""

    async def work(database: Database) -> None:
        rng = random.Random(3)
        before = sessions(300, rng)
        await database.write(put, before)
        for order in ORDERS:
            for down in (True, False):
                query = Query(order=order, descending=down, limit=40)
                wanted = expected(query, before)
                found: list[str] = []
                while True:
                    page = await database.read(queries.select, "t", query)
                    found += [one.id for one in page.sessions]
                    more = [session(rng.randrange(900), rng) for _ in range(5)]
                    await database.write(put, more)
                    if not page.cursor:
                        break
                    query = msgspec.structs.replace(query, cursor=page.cursor)
                assert [each for each in found if each in set(wanted)] == wanted
                assert len(set(found)) == len(found)
                before = await _everything(database)

    on(kind, tmp_path, work)


async def _everything(database: Database) -> list[Session]:
    found: list[Session] = []
    cursor = ""
    while True:
        page = await database.read(queries.select, "t", Query(cursor=cursor, limit=500))
        found += page.sessions
        if not (cursor := page.cursor):
            return found


@KINDS
def test_a_page_is_whole_sessions(tmp_path: Path, kind: str) -> None:
    """Not only their ids."""

    async def work(database: Database) -> None:
        made = sessions(30, random.Random(1))
        await database.write(put, made)
        page = await database.read(queries.select, "t", Query(descending=False))
        assert page.sessions == sorted(made, key=lambda one: one.id)

    on(kind, tmp_path, work)


@KINDS
@pytest.mark.parametrize("cursor", ["x", "####", "bnVsbA", "WyJjcmVhdGVkIix0cnVlLDUsIngiXQ", "ü"])
def test_a_cursor_of_no_list_is_refused(tmp_path: Path, kind: str, cursor: str) -> None:
    """With what to do instead, never as a failure of the database."""

    async def work(database: Database) -> None:
        with pytest.raises(BodyInvalid, match="begin without one"):
            await database.read(queries.select, "t", Query(cursor=cursor))

    on(kind, tmp_path, work)


@KINDS
def test_a_cursor_belongs_to_its_order(tmp_path: Path, kind: str) -> None:
    """In another order it would skip and repeat."""

    async def work(database: Database) -> None:
        await database.write(put, sessions(5, random.Random(1)))
        cursor = (await database.read(queries.select, "t", Query(limit=1))).cursor
        for other in (Query(order="cost", cursor=cursor), Query(descending=False, cursor=cursor)):
            with pytest.raises(BodyInvalid, match="another order"):
                await database.read(queries.select, "t", other)

    on(kind, tmp_path, work)


@KINDS
def test_live_sessions_are_counted(tmp_path: Path, kind: str) -> None:
    """By tenant; and of one user, no farther than is asked for."""

    async def work(database: Database) -> None:
        rng = random.Random(5)
        made = sessions(200, rng) + sessions(100, rng, tenant="other")
        await database.write(put, made)
        live = [one for one in made if one.ended_ms is None]
        counts = {name: sum(one.tenant == name for one in live) for name in ("t", "other")}
        assert await database.read(queries.live_counts) == counts
        ann = sum((one.tenant, one.user_id) == ("t", "ann") for one in live)
        assert ann > 5
        for most, found in ((1000, ann), (ann, ann), (3, 3)):
            assert await database.read(queries.live_of_user, "t", "ann", most) == found
        assert await database.read(queries.live_of_user, "t", "nobody", 5) == 0

    on(kind, tmp_path, work)


@KINDS
def test_a_range_of_time_of_long_ago_is_empty(tmp_path: Path, kind: str) -> None:
    """However far it is, before the first id and after the last that can be."""

    async def work(database: Database) -> None:
        await database.write(put, sessions(5, random.Random(1)))
        far = [(0, 1), (-5, 0), (BEGAN_MS + HOUR_MS, 2**53)]
        for order in ORDERS:
            for since, until in far:
                query = Query(created_since_ms=since, created_until_ms=until, order=order)
                assert (await database.read(queries.select, "t", query)).sessions == []

    on(kind, tmp_path, work)
