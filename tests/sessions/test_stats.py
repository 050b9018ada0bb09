"""What sessions add up to is what a plain sum over all that there ever were gives, at any time, on both databases."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import pytest
from tests.databases.rigs import DatabaseRig, opened
from tests.sessions.populations import BEGAN_MS, put, session

from adjourn.database import Database, Tx
from adjourn.sessions import tally
from adjourn.sessions.columns import NAMES, values_of
from adjourn.sessions.counting_service import Counting
from adjourn.sessions.lifecycle import ENDED, NEXT
from adjourn.sessions.session import Described, Session, Spent
from adjourn.sessions.stats import Figures, Stats, stats
from adjourn.sessions.tally import OTHER
from adjourn.sessions.totals import add_to_totals, totals

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
LATER_MS = BEGAN_MS + 10**9


def on(kind: str, directory: Path, work: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        async with opened(DatabaseRig(kind, directory).connect()) as database:
            await work(database)

    asyncio.run(run())


def save(tx: Tx, one: Session) -> None:
    columns = ", ".join(f"{name} = ?" for name in NAMES)
    tx.run(f"UPDATE sessions SET {columns} WHERE tenant = ? AND id = ?", (*values_of(one), *one.key))


def delete(tx: Tx, one: Session) -> None:
    add_to_totals(tx, one)
    tx.run("DELETE FROM sessions WHERE tenant = ? AND id = ?", one.key)


async def count_all(database: Database) -> int:
    counting = Counting(database, quiet_ms=0, every_ms=0)
    counted = 0
    while found := await counting.look(LATER_MS):
        counted += found
    return counted


# --- the plain sums --------------------------------------------------------------------------------------------------


def check(found: Stats, ever: Iterable[Session]) -> None:
    everything = list(ever)
    _check_one(found.total, everything)
    _check_by(found.by_pattern, lambda one: [one.pattern], everything)
    _check_by(found.by_status, lambda one: [one.status], everything)
    _check_by(found.by_user, lambda one: [one.user_id], everything)
    _check_by(found.by_model, lambda one: [one.model], everything)
    _check_by(found.by_tag, lambda one: set(one.described.tags), everything)


def _check_by(by: Mapping[str, Figures], key: Callable[[Session], Iterable[str]], ever: list[Session]) -> None:
    groups: dict[str, list[Session]] = {}
    for one in ever:
        for value in key(one):
            groups.setdefault(value, []).append(one)
    assert set(by) == set(groups)
    for value, group in groups.items():
        _check_one(by[value], group)


def _check_one(figures: Figures, ever: list[Session]) -> None:
    assert figures.sessions == len(ever)
    assert figures.live == sum(one.ended_ms is None for one in ever)
    for name in Spent.__struct_fields__:
        assert getattr(figures.spent, name) == sum(getattr(one.spent, name) for one in ever), name
    durations = sorted(one.ended_ms - one.created_ms for one in ever if one.ended_ms is not None)
    shown = msgspec.structs.astuple(figures.durations)
    if not durations:
        assert shown == (None, None, None)
        return
    for value, share in zip(shown, (0.5, 0.95, 0.99), strict=True):
        exact = durations[math.ceil(share * len(durations)) - 1]
        assert abs(value - exact) <= max(0.02 * exact, 0.5)


# --- what happens to sessions ----------------------------------------------------------------------------------------


def changed(one: Session, rng: random.Random) -> Session:
    """A turn, a patch, or a step of the lifecycle, as the row then says it."""
    now = msgspec.structs.replace(one, spent=msgspec.structs.replace(one.spent))
    what = rng.choice(["turn", "tags", "step"])
    if what == "turn" and one.ended_ms is None:
        now.events += 2
        now.spent.turns += 1
        now.spent.input_tokens += rng.randrange(1000)
        now.spent.cost_nanousd += rng.randrange(10**6)
        now.active_ms += 1000
    elif what == "tags":
        now.revision += 1
        now.described = Described(tags=rng.sample(["red", "green", "blue"], rng.choice([0, 1, 2, 3])))
    elif NEXT[one.status]:
        now.events += 1
        now.status = rng.choice(sorted(NEXT[one.status]))
        if now.status in ENDED and one.ended_ms is None:
            now.ended_ms = one.created_ms + rng.choice([0, 1, 70, rng.randrange(10**7)])
    return now


@KINDS
@pytest.mark.parametrize("seed", range(3))
def test_they_add_up_at_any_time(tmp_path: Path, kind: str, seed: int) -> None:
    """While sessions are made, used, patched, ended and deleted, and are counted now and then, before or after any of
    it: what lived, ended and was deleted is all there, once."""
    rng = random.Random(seed)

    async def work(database: Database) -> None:
        there: dict[str, Session] = {}
        gone: list[Session] = []
        counting = Counting(database, quiet_ms=0, every_ms=0)
        for number in range(400):
            what = rng.choice(["make", "make", "change", "change", "change", "delete", "count"])
            if what == "make":
                new = session(number, rng)
                await database.write(put, [new], key=new.root_id)
                there[new.id] = new
            elif what == "change" and there:
                one = changed(there[rng.choice(sorted(there))], rng)
                await database.write(save, one, key=one.root_id)
                there[one.id] = one
            elif what == "delete":
                ended = [one for one in there.values() if one.ended_ms is not None]
                if ended:
                    one = there.pop(rng.choice(ended).id)
                    await database.write(delete, one, key=one.root_id)
                    gone.append(one)
            elif rng.random() < 0.3:
                await counting.look(BEGAN_MS + rng.randrange(10**6))
            if rng.random() < 0.1:
                check(await database.read(lambda reader: stats(reader, "t", shown=500)), [*there.values(), *gone])
        await count_all(database)
        check(await database.read(lambda reader: stats(reader, "t", shown=500)), [*there.values(), *gone])
        assert await count_all(database) == 0
        assert (await database.read(stats, "other")).total.sessions == 0

    on(kind, tmp_path, work)


@KINDS
def test_they_add_up_whatever_runs_at_once(tmp_path: Path, kind: str) -> None:
    """Sessions change and go, on every lane, while two count them."""

    async def work(database: Database) -> None:
        rng = random.Random(11)
        last: list[Session] = []

        async def live(number: int) -> None:
            own = random.Random(number)
            one = session(number, own)
            await database.write(put, [one], key=one.root_id)
            for _ in range(own.randrange(8)):
                one = changed(one, own)
                await database.write(save, one, key=one.root_id)
            if one.ended_ms is not None and own.random() < 0.7:
                await database.write(delete, one, key=one.root_id)
            last.append(one)

        async def count() -> None:
            counting = Counting(database, quiet_ms=0, every_ms=0)
            while len(last) < 300:
                await counting.look(LATER_MS)
                await asyncio.sleep(rng.random() / 100)

        await asyncio.gather(*map(live, range(300)), count(), count())
        check(await database.read(lambda reader: stats(reader, "t", shown=500)), last)
        await count_all(database)
        check(await database.read(lambda reader: stats(reader, "t", shown=500)), last)

    on(kind, tmp_path, work)


@KINDS
def test_what_is_counted_is_not_looked_at_again(tmp_path: Path, kind: str) -> None:
    """A million old sessions cost the reader of statistics nothing: only what has changed since is read."""

    async def work(database: Database) -> None:
        rng = random.Random(2)
        made = [session(number, rng) for number in range(50)]
        await database.write(put, made)
        assert await count_all(database) == 50
        assert await count_all(database) == 0
        counted = await database.read(totals, "t")
        assert counted["all", ""].numbers[0] == 50
        now = changed(made[0], rng)
        await database.write(save, now)
        assert await count_all(database) == (now != made[0])

    on(kind, tmp_path, work)


@KINDS
def test_a_session_that_changes_all_the_time_waits(tmp_path: Path, kind: str) -> None:
    """It is counted when it has been quiet; the statistics have it all the same."""

    async def work(database: Database) -> None:
        one = session(0, random.Random(1))
        await database.write(put, [one])
        counting = Counting(database, quiet_ms=5_000, every_ms=1_000)
        assert await counting.look(one.active_ms + 4_000) == 0
        assert (await database.read(stats, "t")).total.sessions == 1
        assert await counting.look(one.active_ms + 4_500) == 0  # too soon to look again
        assert await counting.look(one.active_ms + 6_000) == 1

    on(kind, tmp_path, work)


@KINDS
def test_values_without_number_have_one_total(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many of a dimension are told apart, however many there are; together they are all there, also after those
    have changed, ended and gone that were counted together."""
    monkeypatch.setattr(tally, "VALUES_MAX", 5)
    rng = random.Random(4)

    async def work(database: Database) -> None:
        there: list[Session] = []
        for number in range(60):
            new = msgspec.structs.replace(session(number, rng), user_id=f"user-{number % 20}")
            await database.write(put, [new])
            there.append(new)
            if number % 7 == 0:
                await count_all(database)
        there = [changed(one, rng) for one in there]
        for one in there:
            await database.write(save, one)
        for one in there[::2]:
            if one.ended_ms is not None:
                await database.write(delete, one)
        for _ in range(2):
            found = await database.read(stats, "t")
            _check_one(found.total, there)
            assert len(found.by_user) <= 6
            for name in ("sessions", "live"):
                assert sum(getattr(one, name) for one in found.by_user.values()) == getattr(found.total, name)
            for value, figures in found.by_user.items():
                if value != OTHER:
                    _check_one(figures, [one for one in there if one.user_id == value])
            listed = set(found.by_user)
            _check_one(found.by_user[OTHER], [one for one in there if one.user_id not in listed])
            await count_all(database)
        kept = [value for (name, value), _ in (await database.read(totals, "t")).items() if name == "user"]
        assert len(kept) == 6

    on(kind, tmp_path, work)


@KINDS
def test_an_answer_shows_the_largest(tmp_path: Path, kind: str) -> None:
    """And the rest together, last."""

    async def work(database: Database) -> None:
        rng = random.Random(6)
        made = [
            msgspec.structs.replace(session(number, rng), user_id=user)
            for number, user in enumerate(["a"] * 5 + ["b"] * 9 + ["c"] * 2 + ["d"])
        ]
        await database.write(put, made)
        found = await database.read(lambda reader: stats(reader, "t", shown=2))
        assert [(value, one.sessions) for value, one in found.by_user.items()] == [("b", 9), ("a", 5), (OTHER, 3)]

    on(kind, tmp_path, work)
