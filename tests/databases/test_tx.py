"""What a function sees of its batch, and what its buffers hold when it failed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from tests.databases.rigs import KINDS, DatabaseRig, opened

from adjourn.database import Appended, Tx
from adjourn.databases.driver import Driver
from adjourn.databases.sqlite import SqliteDriver
from adjourn.databases.tx import LaneTx, StepTx
from adjourn.testing.database_rig import event


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    driver = SqliteDriver(tmp_path / "a.db", durability="full")
    driver.connect()
    driver.begin()
    driver.run("CREATE TABLE t (n INTEGER)")
    return driver


def test_an_attempt_takes_its_events_and_debits_back(driver: Driver) -> None:
    """Inside nested attempts, only what was not undone is left to be appended and debited."""
    tx = LaneTx(driver)
    tx.debit("a", 1)
    tx.append([event("kept")])
    with suppress(KeyError), tx.attempt():
        tx.debit("a", 10)
        tx.debit("b", 10)
        tx.append([event("lost")])
        with tx.attempt():
            tx.run("INSERT INTO t VALUES (1)")
        raise KeyError
    with tx.attempt():
        tx.debit("a", 2)
    assert tx.debits == {"a": (3, True)}
    assert [a.records[0].event_id for a in tx.appended] == ["kept"]
    assert tx.rows("SELECT count(*) FROM t") == [(0,)]


def test_a_member_that_only_appends_needs_no_savepoint(driver: Driver) -> None:
    """The savepoint is opened by a member's first statement, not before."""
    tx = LaneTx(driver)
    tx.append([event("a")])
    tx.debit("a", 1)
    assert not tx.touched
    tx.rows("SELECT 1")
    assert tx.touched


def test_nothing_is_written_outside_a_transaction(driver: Driver) -> None:
    """After an error that ended the transaction, a function that goes on is stopped at its next statement."""
    tx = LaneTx(driver)
    tx.run("INSERT INTO t VALUES (1)")
    driver.rollback()
    with pytest.raises(RuntimeError, match="ended the transaction"):
        tx.run("CREATE TABLE u (n INTEGER)")
    assert driver.rows("SELECT count(*) FROM sqlite_master") == [(0,)]


def test_the_log_s_step_neither_appends_nor_debits(driver: Driver) -> None:
    """What runs last in a batch cannot ask for more; its attempts are undone alone."""
    step = StepTx(driver)
    with pytest.raises(RuntimeError):
        step.append([event("a")])
    with pytest.raises(RuntimeError):
        step.debit("a", 1)
    with suppress(KeyError), step.attempt():
        step.run("INSERT INTO t VALUES (1)")
        raise KeyError
    with step.attempt():
        step.run("INSERT INTO t VALUES (2)")
    assert step.rows("SELECT n FROM t") == [(2,)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_that_runs_again_has_no_double_effect(kind: str, tmp_path: Path) -> None:
    """When a batch breaks and its members run again, each function's rows, events and debits count once."""
    rig = DatabaseRig(kind, tmp_path)
    runs: list[int] = []

    def work(tx: Tx, number: int) -> Appended:
        runs.append(number)
        tx.run("UPDATE exercise SET n = n + 1 WHERE id = 'row'")
        tx.debit("a", 1)
        if number == 5:
            tx.debit("a", 1_000)
        return tx.append([event(f"{number}")])

    def prepare(tx: Tx) -> None:
        tx.run("CREATE TABLE exercise (id TEXT PRIMARY KEY, n BIGINT)")
        tx.run("INSERT INTO exercise VALUES ('row', 0)")
        tx.run("INSERT INTO accounts (name, balance) VALUES ('a', 100)")

    async def run() -> None:
        async with opened(rig.connect()) as database:
            await database.write(prepare)
            writes = [database.write(work, n) for n in range(10)]
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert [isinstance(r, Appended) for r in results] == [n != 5 for n in range(10)]
            assert len(runs) > 10, "the batch broke"
            rows = await database.read(
                lambda reader: reader.rows(
                    "SELECT (SELECT n FROM exercise WHERE id = 'row'), (SELECT balance FROM accounts), "
                    "(SELECT count(*) FROM exercise WHERE id LIKE 'event:%')"
                )
            )
            assert rows == [(9, 91, 9)]

    asyncio.run(run())
