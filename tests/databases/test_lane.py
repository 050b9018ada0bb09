"""Group commit under faults: what was acknowledged is there, and nothing is there twice."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests import postgres
from tests.databases.rigs import KINDS, DatabaseRig, opened, query

from adjourn.database import Fence, Reader, Tx
from adjourn.databases import sqlite as sqlite_driver
from adjourn.databases.laned import LanedDatabase
from adjourn.errors import AdjournError, Fenced, StorageFull, Unavailable
from adjourn.testing.database_rig import Recorder
from adjourn.testing.faults import SqliteFaults
from adjourn.testing.power_cut import PowerCut
from adjourn.testing.tcp_proxy import TcpProxy


def effect(tx: Tx, name: str) -> str:
    """Without a unique key, so that a doubled write would show."""
    tx.run("INSERT INTO effects (name) VALUES (?)", (name,))
    return name


def make_effects(tx: Tx) -> None:
    tx.run("CREATE TABLE effects (name TEXT NOT NULL)")


class Ledger:
    """What was sent and what was acknowledged, to be compared with what is there."""

    def __init__(self) -> None:
        self.sent = 0
        self.acknowledged: set[str] = set()
        self.refused: Counter[str] = Counter()

    async def send(self, database: LanedDatabase, count: int, keys: int = 8) -> None:
        names = [f"e{self.sent + n}" for n in range(count)]
        self.sent += count
        writes = [database.write(effect, name, key=str(int(name[1:]) % keys)) for name in names]
        for name, result in zip(names, await asyncio.gather(*writes, return_exceptions=True), strict=True):
            if result == name:
                self.acknowledged.add(name)
            else:
                assert isinstance(result, AdjournError), repr(result)
                self.refused[result.code] += 1

    def check(self, rows: list[Any]) -> str:
        found = Counter(row[0] for row in rows)
        missing = self.acknowledged - set(found)
        doubled = [name for name, count in found.items() if count > 1]
        report = f"{self.sent} sent, {len(self.acknowledged)} acknowledged, refused {dict(self.refused)}"
        assert not missing, f"{len(missing)} acknowledged but missing; {report}"
        assert not doubled, f"{len(doubled)} doubled; {report}"
        return report


def test_errors_in_the_commit_s_own_sync_lose_and_double_nothing(tmp_path: Path, rng: random.Random) -> None:
    """Hundreds of commits whose fsync fails, of the log or of the file behind it: all is settled, and a power cut after
    an acknowledgement, whatever the disk had kept back, finds what was acknowledged."""
    data = tmp_path / "data"
    data.mkdir()
    rig, ledger = DatabaseRig("sqlite", data), Ledger()

    async def run(cut: PowerCut, faults: SqliteFaults) -> None:
        async with opened(rig.connect()) as database:
            await database.write(make_effects)
            for number in range(200):
                faults.fail_sync(match="-wal" if rng.random() < 0.85 else rng.choice(("adjourn.db", "")))
                await ledger.send(database, rng.randint(1, 8))
                if rng.random() < 0.2:
                    await database.read(count)
                if number % 50 == 49:
                    image = tmp_path / f"image{number}"
                    cut.image(image, keep="random", seed=rng.getrandbits(32))
                    file = next(image.rglob("adjourn.db"))
                    ledger.check(query(f"sqlite:///{file}", "SELECT name FROM effects"))
        faults.heal()

    with PowerCut(data) as cut, SqliteFaults(data) as faults:
        asyncio.run(run(cut, faults))
    report = ledger.check(query(rig.url, "SELECT name FROM effects"))
    assert len(ledger.acknowledged) == ledger.sent, report


def count(reader: Reader) -> int:
    return int(reader.rows("SELECT count(*) FROM effects")[0][0] or 0)


def test_a_disk_that_fills_up_refuses_and_recovers(tmp_path: Path, rng: random.Random) -> None:
    """Writes on a full disk fail with StorageFull, and when there is room again they go on; none is lost or doubled."""
    rig, ledger = DatabaseRig("sqlite", tmp_path), Ledger()

    async def run(faults: SqliteFaults) -> None:
        async with opened(rig.connect()) as database:
            await database.write(make_effects)
            for _ in range(40):
                faults.fail_write(after_bytes=rng.randint(0, 9000), match="-wal")
                await ledger.send(database, rng.randint(1, 8))
                await ledger.send(database, 1)
                faults.heal()
                await ledger.send(database, 1)

    with SqliteFaults(tmp_path) as faults:
        asyncio.run(run(faults))
    ledger.check(query(rig.url, "SELECT name FROM effects"))
    assert set(ledger.refused) == {StorageFull.code}
    assert len(ledger.acknowledged) >= 40


def test_a_database_that_stays_broken_answers(tmp_path: Path) -> None:
    """While the disk fails every sync, writers hear Unavailable in time, health says why, and it heals by itself."""
    rig = DatabaseRig("sqlite", tmp_path)

    async def run(faults: SqliteFaults) -> None:
        async with opened(rig.connect(write_timeout_ms=400)) as database:
            await database.write(make_effects)
            faults.fail_sync(10**9, match="")
            with pytest.raises(Unavailable):
                await asyncio.wait_for(database.write(effect, "a"), 5)
            assert not database.health().ok
            faults.heal()
            assert await database.write(effect, "b") == "b"
            assert database.health().ok

    with SqliteFaults(tmp_path) as faults:
        asyncio.run(run(faults))
    assert Counter(query(rig.url, "SELECT name FROM effects"))[("b",)] == 1


def test_dying_connections_lose_and_double_nothing(tmp_path: Path, rng: random.Random) -> None:
    """Hundreds of PostgreSQL commits whose connection dies before, in or after COMMIT are settled: nothing that was
    acknowledged is missing, nothing is there twice, and nobody is told of a failure that was none."""
    rig, ledger = DatabaseRig("postgresql", tmp_path), Ledger()

    def break_it(proxy: TcpProxy) -> None:
        kind = rng.randrange(6)
        if kind == 0:
            proxy.cut_before_sending(b"COMMIT")
        elif kind in (1, 2):
            proxy.cut_after_sending(b"COMMIT")
        elif kind == 3:
            proxy.cut_after_sending(b"COMMIT", answer=b"COMMIT")
        elif kind == 4:
            proxy.cut_after_sending(b"INSERT INTO effects")
        else:
            proxy.cut()

    async def run(proxy: TcpProxy) -> None:
        async with opened(rig.connect(url=proxy.url(rig.url))) as database:
            await database.write(make_effects)
            for _ in range(250):
                break_it(proxy)
                await ledger.send(database, rng.randint(1, 8))
                if rng.random() < 0.2:
                    await database.read(count)

    with TcpProxy(("127.0.0.1", postgres.server().port)) as proxy:
        asyncio.run(run(proxy))
    report = ledger.check(query(rig.url, "SELECT name FROM effects"))
    assert len(ledger.acknowledged) == ledger.sent, report


def test_an_unreachable_database_answers_and_comes_back(tmp_path: Path) -> None:
    """While PostgreSQL cannot be reached, reads and writes fail with Unavailable in time; they work when it is back."""
    rig = DatabaseRig("postgresql", tmp_path)

    async def run(proxy: TcpProxy) -> None:
        async with opened(rig.connect(url=proxy.url(rig.url), write_timeout_ms=400)) as database:
            await database.write(make_effects)
            proxy.refuse()
            proxy.cut()
            for work in (database.write(effect, "lost"), database.read(count)):
                with pytest.raises(Unavailable):
                    await asyncio.wait_for(work, 5)
            assert not database.health().ok
            proxy.accept()
            assert await database.write(effect, "found") == "found"
            assert await database.read(count) == 1
            assert database.health().ok

    with TcpProxy(("127.0.0.1", postgres.server().port)) as proxy:
        asyncio.run(run(proxy))


class Forgetful(Recorder):
    """Its memory of what was committed fails now and then."""

    def committed(self, partition: int) -> None:
        super().committed(partition)
        if self.committed_count % 3:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_committed_is_never_run_again(kind: str, tmp_path: Path, rng: random.Random) -> None:
    """Whatever fails after COMMIT, callers hear that it was written, and it was, once."""
    rig, ledger = DatabaseRig(kind, tmp_path), Ledger()

    async def run() -> None:
        database = rig.connect()
        await database.open(Forgetful())
        await database.write(make_effects)
        for _ in range(60):
            await ledger.send(database, rng.randint(1, 8))
        await database.close()

    asyncio.run(run())
    report = ledger.check(query(rig.url, "SELECT name FROM effects"))
    assert len(ledger.acknowledged) == ledger.sent, report


def test_a_lock_that_fails_now_and_then_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lock by which processes take turns lies on a disk too: its errors are told, and outlived."""
    rig, ledger = DatabaseRig("sqlite", tmp_path), Ledger()
    calls = itertools.count()

    async def run() -> None:
        async with opened(rig.connect()) as database:
            await database.write(make_effects)
            lock = fcntl.flock

            def failing(descriptor: int, operation: int) -> None:
                if next(calls) % 2:
                    raise OSError(37, "No locks available")
                lock(descriptor, operation)

            monkeypatch.setattr(sqlite_driver, "_flock", lambda *_: -1)  # as if others held it: the slow way is taken
            monkeypatch.setattr(fcntl, "flock", failing)
            for _ in range(30):
                await ledger.send(database, 3)
            monkeypatch.undo()
            await ledger.send(database, 3)
            assert database.health().ok

    asyncio.run(run())
    report = ledger.check(query(rig.url, "SELECT name FROM effects"))
    assert len(ledger.acknowledged) == ledger.sent, report
    assert next(calls) > 30


def test_closing_does_not_wait_for_a_database_that_is_silent(tmp_path: Path) -> None:
    """PostgreSQL that answers nothing any more, with a read and a write under way: both fail, and close ends."""
    rig = DatabaseRig("postgresql", tmp_path)

    async def run(proxy: TcpProxy) -> None:
        database = rig.connect(url=proxy.url(rig.url), write_timeout_ms=500)
        await database.open(Recorder())
        await database.write(make_effects)
        assert await database.read(count) == 0
        proxy.stall()
        work = [asyncio.ensure_future(database.read(count)), asyncio.ensure_future(database.write(effect, "lost"))]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await asyncio.wait_for(database.close(), 15)
        assert time.monotonic() - began < 10
        for outcome in await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 10):
            assert isinstance(outcome, Unavailable), repr(outcome)

    with TcpProxy(("127.0.0.1", postgres.server().port)) as proxy:
        asyncio.run(run(proxy))


SESSIONS = 300


def make_sessions(tx: Tx) -> None:
    tx.run("CREATE TABLE sess (id INTEGER PRIMARY KEY, completed_by TEXT)")
    tx.run("CREATE TABLE completions (id INTEGER, by_node TEXT)")
    for number in range(SESSIONS):
        tx.run("INSERT INTO sess (id) VALUES (?)", (number,))
        tx.run("INSERT INTO leases (name, owner, epoch, beat) VALUES (?, 'a', 1, 0)", (f"s{number}",))


def complete_if_open(tx: Tx, number: int, node: str) -> bool:
    won = tx.rows("UPDATE sess SET completed_by = ? WHERE id = ? AND completed_by IS NULL RETURNING id", (node, number))
    if won:
        tx.run("INSERT INTO completions (id, by_node) VALUES (?, ?)", (number, node))
    return bool(won)


def read_then_complete(tx: Tx, number: int, node: str) -> bool:
    """Safe under a fence alone."""
    if tx.rows("SELECT completed_by FROM sess WHERE id = ?", (number,))[0][0] is not None:
        return False
    tx.run("UPDATE sess SET completed_by = ? WHERE id = ?", (node, number))
    tx.run("INSERT INTO completions (id, by_node) VALUES (?, ?)", (number, node))
    return True


def take_over(tx: Tx, number: int) -> None:
    tx.run("UPDATE leases SET owner = 'b', epoch = 2 WHERE name = ?", (f"s{number}",))


@pytest.mark.parametrize("kind", KINDS)
def test_two_nodes_complete_a_session_once(kind: str, tmp_path: Path) -> None:
    """Two nodes that complete the same sessions at the same time by a conditional update: exactly one wins each."""
    rig = DatabaseRig(kind, tmp_path)

    async def run() -> None:
        async with opened(rig.connect()) as a, opened(rig.connect()) as b:
            await a.write(make_sessions)
            # Unlike keys, so that on PostgreSQL the two meet in unlike lanes too.
            work = [
                node.write(complete_if_open, n, name, key=f"{name}{n}")
                for n in range(SESSIONS)
                for node, name in ((a, "a"), (b, "b"))
            ]
            won = await asyncio.gather(*work)
            assert [one + other for one, other in zip(won[::2], won[1::2], strict=True)] == [1] * SESSIONS

    asyncio.run(run())
    assert query(rig.url, "SELECT count(*), count(DISTINCT id) FROM completions") == [(SESSIONS, SESSIONS)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fence_orders_two_owners(kind: str, tmp_path: Path, rng: random.Random) -> None:
    """A node that took a session over and the old owner both complete it, reading first: the old one wins before the
    take-over or is fenced; no session is completed twice, and none not at all."""
    rig = DatabaseRig(kind, tmp_path)

    async def old_owner(a: LanedDatabase, n: int, wait_s: float) -> bool | BaseException:
        await asyncio.sleep(wait_s)
        try:
            return await a.write(read_then_complete, n, "a", key=f"a{n}", fence=Fence(f"s{n}", 1))
        except Fenced as error:
            return error

    async def new_owner(b: LanedDatabase, n: int, wait_s: float) -> bool:
        await asyncio.sleep(wait_s)
        await b.write(take_over, n, key=f"b{n}")
        return await b.write(read_then_complete, n, "b", key=f"b{n}", fence=Fence(f"s{n}", 2))

    async def run() -> None:
        async with opened(rig.connect()) as a, opened(rig.connect()) as b:
            await a.write(make_sessions)
            both = [(await old_owner(a, n, 0), await new_owner(b, n, 0)) for n in range(10)]
            both += await asyncio.gather(
                *(
                    asyncio.gather(old_owner(a, n, rng.random() * 0.1), new_owner(b, n, rng.random() * 0.1))
                    for n in range(10, SESSIONS)
                )
            )
            assert all((old is True) != new for old, new in both), both
            assert any(isinstance(old, Fenced) for old, _ in both)
            assert any(old is True for old, _ in both)

    asyncio.run(run())
    assert query(rig.url, "SELECT count(*), count(DISTINCT id) FROM completions") == [(SESSIONS, SESSIONS)]


def test_an_error_that_rolls_back_everything_is_the_member_s_alone(tmp_path: Path) -> None:
    """SQLite undoes the whole transaction for some errors, even if the function swallows them: the others of the batch
    are replayed, and nothing of the failing one is written outside a transaction."""
    rig = DatabaseRig("sqlite", tmp_path)

    def wreck(tx: Tx, swallow: bool, goes_on: bool) -> str:
        effect(tx, "before")
        try:
            tx.run("INSERT INTO mined (x) VALUES (1)")
        except sqlite3.Error:
            if not swallow:
                raise
        if goes_on:
            effect(tx, "after")
        return "wrecked"

    def mine(tx: Tx) -> None:
        make_effects(tx)
        tx.run("CREATE TABLE mined (x INTEGER)")
        tx.run("CREATE TRIGGER mine BEFORE INSERT ON mined BEGIN SELECT RAISE(ROLLBACK, 'boom'); END")

    async def run() -> None:
        async with opened(rig.connect()) as database:
            await database.write(mine)
            for flags in ((False, False), (True, False), (True, True)):
                work = [database.write(effect, f"{flags}{n}") for n in range(6)]
                work.insert(3, database.write(wreck, *flags))
                results = await asyncio.gather(*work, return_exceptions=True)
                assert isinstance(results.pop(3), Exception)
                assert all(isinstance(r, str) for r in results), results
                with pytest.raises(Exception, match=r"boom|transaction|savepoint"):
                    await database.write(wreck, *flags)

    asyncio.run(run())
    found = Counter(query(rig.url, "SELECT name FROM effects"))
    assert len(found) == 18
    assert set(found.values()) == {1}
