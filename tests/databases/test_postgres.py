"""What is special to PostgreSQL: its timeouts, its marks, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests import postgres
from tests.databases.rigs import DatabaseRig, opened, query

from adjourn.database import Reader
from adjourn.databases.driver import Failure
from adjourn.databases.postgres import PostgresDriver, translated
from adjourn.testing.database_rig import Recorder, ids, put


@pytest.fixture
def driver() -> Iterator[PostgresDriver]:
    driver = PostgresDriver(postgres.server().url())
    driver.connect()
    yield driver
    driver.close()


def test_nothing_waits_for_ever(driver: PostgresDriver) -> None:
    """Every connection has all timeouts set, and reads only what is committed."""
    for name in ("lock_timeout", "idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout"):
        assert driver.rows(f"SHOW {name}")[0][0] not in ("0", None), name
    assert driver.rows("SHOW default_transaction_isolation") == [("read committed",)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT ?", "SELECT %s"),
        ("SELECT 'what?', ? LIKE 'a%'", "SELECT 'what?', %s LIKE 'a%%'"),
        ("SELECT 'it''s ?' || ?", "SELECT 'it''s ?' || %s"),
        ('SELECT "odd?", 5 % ?', 'SELECT "odd?", 5 %% %s'),
    ],
)
def test_marks_are_translated_outside_quotes(sql: str, expected: str) -> None:
    """`?` is a parameter outside quotes alone, and a percent sign stays one."""
    assert translated(sql) == expected


@pytest.mark.parametrize(
    ("sql", "failure"),
    [
        ("SELECT nonsense", Failure.MEMBER),
        ("SELECT 1/0", Failure.MEMBER),
        ("SELECT pg_terminate_backend(pg_backend_pid())", Failure.LOST),
        ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", Failure.REPLAY),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", Failure.REPLAY),
        ("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", Failure.REPLAY),
        ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", Failure.FULL),
        ("DO $$ BEGIN RAISE SQLSTATE 'XX001'; END $$", Failure.CORRUPT),
        ("DO $$ BEGIN RAISE SQLSTATE '25P02'; END $$", Failure.MEMBER),
        ("DO $$ BEGIN RAISE SQLSTATE '25P03'; END $$", Failure.LOST),
    ],
)
def test_every_error_has_a_class(driver: PostgresDriver, sql: str, failure: Failure) -> None:
    """A statement's own error, a conflict with others, a lost connection, a full disk and damage are told apart."""
    with pytest.raises(psycopg.Error) as raised:
        driver.rows(sql)
    assert driver.classify(raised.value) is failure
    assert driver.classify(KeyError()) is Failure.MEMBER


def test_a_commit_that_rolled_back_is_an_error(driver: PostgresDriver) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK and no error; the driver raises one."""
    driver.begin()
    with pytest.raises(psycopg.Error):
        driver.run("SELECT nonsense")
    with pytest.raises(psycopg.Error, match="went on"):
        driver.commit()
    driver.rollback()
    driver.begin()
    driver.commit()


def test_batches_that_deadlock_get_through(tmp_path: Path) -> None:
    """Batches of two nodes that lock the same rows in opposite orders, over and over, all commit in time."""
    rig = DatabaseRig("postgresql", tmp_path)

    async def run() -> None:
        async with opened(rig.connect()) as a, opened(rig.connect()) as b:
            await a.write(lambda tx: tx.run("CREATE TABLE exercise (id TEXT PRIMARY KEY, n BIGINT)"))
            for number in range(64):
                await a.write(put, f"{number:02}", 0)

            def add(tx: object, name: str) -> None:
                assert hasattr(tx, "run")
                tx.run("UPDATE exercise SET n = n + 1 WHERE id = ?", (name,))

            names = [f"{number:02}" for number in range(64)]
            await asyncio.gather(
                *(a.write(add, name, key="k") for name in names * 2),
                *(b.write(add, name, key="k") for name in reversed(names * 2)),
            )

    asyncio.run(asyncio.wait_for(run(), 20))
    assert query(rig.url, "SELECT DISTINCT n FROM exercise") == [(4,)]


def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    """When the server goes away and comes back, reads and writes that waited go through, each write once."""
    server = postgres.PostgresServer()
    rig = DatabaseRig("postgresql", tmp_path)
    rig.url = server.fresh_database()

    def count(reader: Reader) -> int:
        return len(ids(reader))

    async def run() -> None:
        database = rig.connect()
        await database.open(Recorder())
        await database.write(lambda tx: tx.run("CREATE TABLE exercise (id TEXT PRIMARY KEY, n BIGINT)"))
        for round_ in range(2):
            await asyncio.to_thread(server.stop, ("fast", "immediate")[round_])
            writes = [asyncio.ensure_future(database.write(put, f"{round_}:{n}", key=str(n))) for n in range(20)]
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
            assert len(await asyncio.gather(*writes)) == 20
            assert await database.read(count) == 20 * (round_ + 1)
        await database.close()

    try:
        asyncio.run(run())
    finally:
        server.close()
