"""Conversations that begin with those of others: none is copied, none is lost, and none outlives its last reader."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path

import pytest
from tests.conversation.rigs import (
    T,
    begin_from,
    database_of,
    delete_some,
    put_session,
    say,
    text,
    whole,
    words,
)
from tests.databases.rigs import KINDS, DatabaseRig, opened, query

from adjourn.conversation import messages, sharing
from adjourn.database import Reader, Tx
from adjourn.databases.laned import LanedDatabase
from adjourn.errors import NotFound

pytestmark = pytest.mark.parametrize("kind", KINDS)


def test_a_resumed_session_goes_on_where_the_other_was(kind: str, tmp_path: Path) -> None:
    """It sees the messages of the other first, its own behind them, and neither sees what the other says later."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "a")
            await database.write(say, "a", [text("a1"), text("a2")])
            assert await database.write(begin_from, "b", "a") == 2
            await database.write(say, "a", [text("a3")])
            assert (await database.write(say, "b", [text("b3")])).last_seq == 3
            assert await told(database, "a") == ["a1", "a2", "a3"]
            assert await told(database, "b") == ["a1", "a2", "b3"]

    asyncio.run(run())


@pytest.mark.parametrize(("seq_max", "position"), [(-1, 0), (0, 0), (1, 1), (4, 4), (5, 5), (7, 7), (8, 8), (99, 8)])
def test_a_fork_may_begin_anywhere(kind: str, seq_max: int, position: int, tmp_path: Path) -> None:
    """Before, at and behind each border of what the source shares itself; it has no more than the source has, and no
    source of which it has nothing."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "a")
            await database.write(say, "a", [text(f"{n}") for n in range(1, 5)])
            await database.write(begin_from, "b", "a")
            await database.write(say, "b", [text(f"{n}") for n in range(5, 8)])
            await database.write(begin_from, "c", "b")
            await database.write(say, "c", [text("8")])
            assert await database.write(begin_from, "d", "c", seq_max) == position
            await database.write(say, "d", [text("d")])
            assert await told(database, "d") == [*map(str, range(1, position + 1)), "d"]
            spans = await database.read(sharing.spans, T, "d")
            assert all(span.after < span.last for span in spans)
            assert [span.source_id for span in spans] == list("cba")[3 - sum(position > p for p in (0, 4, 7)) :]

    asyncio.run(run())


def test_sharing_copies_no_message(kind: str, tmp_path: Path) -> None:
    """However long a conversation is, a session that begins with it adds a row for each source; 100 forks of forks read
    it all the same, and a long chain is no longer than its sources."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "s0")
            await database.write(say, "s0", [text(str(n)) for n in range(1_000)])
            for n in range(1, 101):
                await database.write(begin_from, f"s{n}", f"s{n - 1}")
                await database.write(say, f"s{n}", [text(f"s{n}")])
            assert await stored(database) == {"messages": 1_100, "message_sources": 5_050}
            assert await database.read(messages.count, T, "s100") == 1_100
            newest = await database.read(messages.last, T, "s100", 3)
            assert [words(each) for each in newest] == ["s98", "s99", "s100"]
            await database.write(begin_from, "same", "s0")
            await database.write(begin_from, "same again", "same")
            assert [span.source_id for span in await database.read(sharing.spans, T, "same again")] == ["s0"]

    asyncio.run(run())


def test_nobody_begins_from_what_is_gone(kind: str, tmp_path: Path) -> None:
    """A source that was deleted, or is another tenant's, is not found."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "a", 0, "other")
            for source in ("a", "none"):
                with pytest.raises(NotFound, match=source):
                    await database.write(begin_from, "b", source)

    asyncio.run(run())


def test_deleting_goes_in_portions(kind: str, tmp_path: Path) -> None:
    """Each call deletes at most its limit, the newest messages first, and says whether there may be more."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "a")
            await database.write(say, "a", [text(str(n)) for n in range(1, 26)])
            await database.write(put_session, "b")
            await database.write(say, "b", [text("b")])
            left: list[int] = []
            while await database.write(delete_some, "a", 10):
                left.append(len(conversation := await told(database, "a")))
                assert conversation == [str(n) for n in range(1, len(conversation) + 1)]
            assert left == [15, 5]
            assert await told(database, "a") == []
            assert await told(database, "b") == ["b"]
            assert not await database.write(delete_some, "a", 10), "and again, which finds nothing"
            assert not await database.write(delete_some, "none", 10)

    asyncio.run(run())


class Model:
    """Conversations as lists: what every session must show, and so what must be stored."""

    def __init__(self) -> None:
        self.alive: dict[str, list[str]] = {}
        self.dying: dict[str, list[str]] = {}

    def needed(self) -> set[str]:
        return {words for told in self.alive.values() for words in told}


@pytest.mark.parametrize("round_", range(6))
def test_any_order_of_deletion_keeps_what_is_shared_and_nothing_else(
    kind: str, round_: int, rng: random.Random, tmp_path: Path
) -> None:
    """Sessions begin from one another, at any message; say something; are deleted in portions of any size, in any
    order, several at a time, their rows first or last. Whoever lives always sees its whole conversation, and what is
    stored at the end of each deletion is exactly what the living see."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            model = Model()
            for number in range(150):
                await step(database, model, rng, number)
                if not model.dying:
                    assert set(await all_words(database)) == model.needed()
            while model.alive or model.dying:
                await delete(database, model, rng)
                for session, expected in model.alive.items():
                    assert await told(database, session) == expected
                if not model.dying:
                    assert set(await all_words(database)) == model.needed()
            assert await stored(database) == {"messages": 0, "message_sources": 0}

    asyncio.run(run())


async def step(database: LanedDatabase, model: Model, rng: random.Random, number: int) -> None:
    choice = rng.random()
    names = sorted(model.alive)
    if not names or choice < 0.05:
        await database.write(put_session, f"s{number}")
        model.alive[f"s{number}"] = []
    elif choice < 0.35:
        source = rng.choice(names)
        end = rng.randint(0, len(model.alive[source])) if rng.random() < 0.5 else len(model.alive[source])
        assert await database.write(begin_from, f"s{number}", source, end) == end
        model.alive[f"s{number}"] = model.alive[source][:end]
    elif choice < 0.75:
        name = rng.choice(names)
        said = [f"{number}.{n}" for n in range(rng.randint(1, 5))]
        await database.write(say, name, [text(each) for each in said])
        model.alive[name] += said
    else:
        await delete(database, model, rng)
    name = rng.choice(sorted(model.alive) or [""])
    assert await told(database, name) == model.alive.get(name, [])


async def delete(database: LanedDatabase, model: Model, rng: random.Random) -> None:
    """A portion of one that is being deleted, or the first of another one."""
    names = sorted(model.dying)
    if model.alive and (not names or rng.random() < 0.3):
        name = rng.choice(sorted(model.alive))
        model.dying[name] = model.alive.pop(name)
        if rng.random() < 0.5:
            await database.write(delete_row, name)
    else:
        name = rng.choice(names)
    if not await database.write(delete_some, name, rng.choice([1, 2, 3, 10, 100])):
        del model.dying[name]


@pytest.mark.parametrize("round_", range(4))
def test_deletions_at_the_same_time_leave_nothing_behind(
    kind: str, round_: int, rng: random.Random, tmp_path: Path
) -> None:
    """All sessions of a family deleted at once, over all lanes, by nobody who knows of the others: not one message is
    left over, and whoever stays has its whole conversation."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            lines: dict[str, list[str]] = {}
            for n in range(40):
                await grow(database, lines, rng, f"s{n:02}")
            staying = set(rng.sample(sorted(lines), 4))
            leaving = [name for name in sorted(lines) if name not in staying]
            rng.shuffle(leaving)
            await asyncio.gather(*(delete_whole(database, name, rng.randint(1, 9)) for name in leaving))
            for name in staying:
                assert await told(database, name) == lines[name]
            assert set(await all_words(database)) == {said for name in staying for said in lines[name]}
            await asyncio.gather(*(delete_whole(database, name, 3) for name in sorted(staying)))
            assert await stored(database) == {"messages": 0, "message_sources": 0}

    asyncio.run(run())


def test_beginning_from_one_that_is_being_deleted_gets_all_or_nothing(
    kind: str, rng: random.Random, tmp_path: Path
) -> None:
    """Of a session that begins while its source is deleted: either the source is not found, or the new one has its
    whole conversation for good."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            begun = 0
            for n in range(40):
                await database.write(put_session, f"a{n}")
                await database.write(say, f"a{n}", [text(f"{k}") for k in range(5)])
                late = [begin(database, f"b{n}", f"a{n}"), delete_whole(database, f"a{n}", 100)]
                rng.shuffle(late)
                fresh = True in await asyncio.gather(*late)
                if fresh:
                    begun += 1
                    assert await told(database, f"b{n}") == [f"{k}" for k in range(5)]
                    await delete_whole(database, f"b{n}", 2)
                assert await stored(database) == {"messages": 0, "message_sources": 0}
            assert begun

    asyncio.run(run())


@pytest.mark.parametrize(
    ("first", "second"),
    [("delete b", "delete c"), ("delete a", "delete b"), ("delete b", "delete a"), ("begin", "delete a")],
)
def test_the_second_of_two_sees_what_the_first_has_done(kind: str, first: str, second: str, tmp_path: Path) -> None:
    """While one transaction deletes or begins a session and has not committed, another one deletes a relative: it waits
    for the first, and so nothing is left over in the end, and nothing is missing. `b` and `c` share the deleted `z`,
    and `b` shares `a`."""

    async def run() -> None:
        rig = DatabaseRig(kind, tmp_path)
        async with opened(rig.connect()) as database:
            await database.write(put_session, "z")
            await database.write(say, "z", [text("z")])
            await database.write(begin_from, "c", "z")
            await database.write(begin_from, "a", "z")
            await database.write(say, "a", [text("a")])
            await database.write(begin_from, "b", "a")
            await delete_whole(database, "z", 10)
            if second == "delete c":
                await delete_whole(database, "a", 10)
            if first == "begin":
                await delete_whole(database, "b", 10)
            did, other_did = threading.Event(), threading.Event()

            def one(tx: Tx) -> None:
                act(tx, first)
                did.set()
                deadline = time.monotonic() + 60
                while kind != "sqlite" and not other_did.wait(0.01) and not query(rig.url, WAITING):
                    assert time.monotonic() < deadline

            def other(tx: Tx) -> None:
                act(tx, second)
                other_did.set()

            lanes = {database.partition_of(str(n)): str(n) for n in range(100)}
            writing = asyncio.create_task(database.write(one, key=lanes[0]))
            assert await asyncio.to_thread(did.wait, 60)
            await asyncio.gather(writing, database.write(other, key=lanes[max(lanes)]))
            alive = await database.read(lambda reader: [str(row[0]) for row in reader.rows("SELECT id FROM sessions")])
            lines = {"a": ["z", "a"], "b": ["z", "a"], "c": ["z"], "new": ["z", "a"]}
            for name in alive:
                assert await told(database, name) == lines[name]
            assert set(await all_words(database)) == {said for name in alive for said in lines[name]}
            for name in alive:
                await delete_whole(database, name, 10)
            assert await stored(database) == {"messages": 0, "message_sources": 0}

    asyncio.run(run())


WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def act(tx: Tx, what: str) -> None:
    if what == "begin":
        begin_from(tx, "new", "a")
    else:
        assert not delete_some(tx, what.removeprefix("delete "), 10)


async def begin(database: LanedDatabase, name: str, source: str) -> bool:
    try:
        await database.write(begin_from, name, source, key=name)
    except NotFound:
        return False
    return True


async def grow(database: LanedDatabase, lines: dict[str, list[str]], rng: random.Random, name: str) -> None:
    if lines and rng.random() < 0.85:
        source = rng.choice(sorted(lines))
        end = await database.write(begin_from, name, source, rng.randint(0, len(lines[source]) + 2))
        lines[name] = lines[source][:end]
    else:
        await database.write(put_session, name)
        lines[name] = []
    said = [f"{name}.{n}" for n in range(rng.randint(0, 4))]
    await database.write(say, name, [text(each) for each in said])
    lines[name] += said


async def delete_whole(database: LanedDatabase, name: str, limit: int) -> None:
    while await database.write(delete_some, name, limit, key=name):
        pass


def delete_row(tx: Tx, session_id: str) -> None:
    tx.run("DELETE FROM sessions WHERE tenant = ? AND id = ?", (T, session_id))


async def told(database: LanedDatabase, session_id: str) -> list[str]:
    return [words(each) for each in await database.read(whole, session_id)]


async def all_words(database: LanedDatabase) -> list[str]:
    """Of every message that is stored, whoever may see it."""

    def look(reader: Reader) -> list[str]:
        owners = reader.rows("SELECT DISTINCT session_id FROM messages")
        own = "SELECT min(seq) FROM messages WHERE session_id = ?"
        found: list[str] = []
        for (owner,) in owners:
            first = int(reader.rows(own, (owner,))[0][0] or 0)
            page = messages.read(reader, T, str(owner), after=first - 1, limit=1_000_000)
            found += [words(each) for each in page if each.session_id == owner]
        return found

    return await database.read(look)


async def stored(database: LanedDatabase) -> dict[str, int]:
    def look(reader: Reader) -> dict[str, int]:
        tables = ("messages", "message_sources")
        return {table: int(reader.rows(f"SELECT count(*) FROM {table}")[0][0] or 0) for table in tables}

    return await database.read(look)
