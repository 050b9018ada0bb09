"""The table of completions in SQLite under real faults: locks, full disks, files that vanish."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adjourn.destinations.database import DatabaseDestination, store
from adjourn.destinations.database_rows import rows
from adjourn.destinations.database_sqlite import SqliteTable
from adjourn.errors import DestinationOutage
from adjourn.testing.exercise_destination import Sample
from tests.destinations.conftest import TinyDisk
from tests.destinations.rigs import TABLE, batch, query, sqlite_url

LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked_by_another_process(path: Path) -> Iterator[None]:
    arguments = [sys.executable, "-c", LOCKER, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


def sqlite_destination(folder: Path) -> DatabaseDestination:
    return DatabaseDestination(name="main", connection_string=sqlite_url(folder), table=TABLE)


def test_a_database_is_waited_for_no_longer_than_the_setting_says(tmp_path: Path) -> None:
    """`timeout_ms` bounds a batch: a file that stays locked is an outage that names it, and the batch goes in later."""

    async def main() -> None:
        url = sqlite_url(tmp_path)
        destination = DatabaseDestination(name="main", connection_string=url, table=TABLE, timeout_ms=100)
        await sqlite_destination(tmp_path).open()
        with locked_by_another_process(tmp_path / "out.db"):
            with pytest.raises(DestinationOutage, match="has not answered within 0.1 s"):
                await destination.send(batch(Sample(1)))
        await destination.close()
        patient = sqlite_destination(tmp_path)
        assert await patient.send(batch(Sample(1))) == []
        await patient.close()

    asyncio.run(main())


def test_a_lock_is_an_outage_until_it_is_let_go(tmp_path: Path) -> None:
    """A file that another process keeps locked is an outage, and takes the same batch afterwards."""
    table = SqliteTable("main", str(tmp_path / "out.db"), TABLE)
    table.busy_timeout_ms = 50
    table.open()
    readable = rows(batch(Sample(1)).events).completions
    with locked_by_another_process(tmp_path / "out.db"):
        with pytest.raises(sqlite3.OperationalError) as failed:
            store(table, readable)
        verdict = table.judge(failed.value)
        assert isinstance(verdict, DestinationOutage)
        assert "another process holds its lock" in verdict.message
    assert store(table, readable) == []
    table.close()
    assert query(sqlite_url(tmp_path), f"SELECT event_id FROM {TABLE}") == [("evt_1",)]


def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    """A lock that is let go within the busy timeout costs time, not an outage."""

    async def send() -> None:
        target = sqlite_destination(tmp_path)
        await target.open()
        with locked_by_another_process(tmp_path / "out.db"):
            sending = asyncio.create_task(target.send(batch(Sample(1))))
            await asyncio.sleep(0.1)
            assert not sending.done()
        assert not await sending
        await target.close()

    asyncio.run(send())


def test_a_full_disk_is_an_outage_and_loses_nothing(tiny_disk: TinyDisk) -> None:
    """When the disk fills up, whole batches are there or not at all, and delivery goes on when there is room."""

    async def fill() -> int:
        target = sqlite_destination(tiny_disk.path)
        number, fact = 0, ""
        while not fact:
            try:
                await target.send(batch(*(Sample(number * 10 + n, final_message="m" * 1000) for n in range(10))))
            except DestinationOutage as outage:
                fact = outage.message
            else:
                number += 1
        assert re.search(r"space|limit", fact)
        assert number > 0
        tiny_disk.make_room()
        assert not await target.send(batch(*(Sample(number * 10 + n, final_message="m" * 1000) for n in range(10))))
        await target.close()
        return number

    number = asyncio.run(fill())
    assert query(sqlite_url(tiny_disk.path), f"SELECT count(*) FROM {TABLE}") == [((number + 1) * 10,)]


def test_a_file_that_vanished_is_begun_anew(tmp_path: Path) -> None:
    """After the file was moved away, events go to the path that was configured, not to the moved file."""

    async def send() -> None:
        target = sqlite_destination(tmp_path)
        await target.send(batch(Sample(1)))
        (tmp_path / "out.db").rename(tmp_path / "moved.db")
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"out.db{suffix}").unlink(missing_ok=True)
        await target.send(batch(Sample(2)))
        await target.close()

    asyncio.run(send())
    assert query(sqlite_url(tmp_path), f"SELECT event_id FROM {TABLE}") == [("evt_2",)]


def test_what_is_no_database_is_an_outage(tmp_path: Path) -> None:
    """A file that is not SQLite's, and a directory that cannot be made, are outages with their remedies."""
    (tmp_path / "out.db").write_bytes(b"these are not the bytes of a database" * 100)

    async def open_it(folder: Path, remedy: str) -> None:
        target = sqlite_destination(folder)
        with pytest.raises(DestinationOutage, match=remedy):
            await target.open()
        await target.close()

    asyncio.run(open_it(tmp_path, "name another"))
    asyncio.run(open_it(tmp_path / "out.db" / "below", "check that its directory exists"))


def test_a_commit_is_synced(tmp_path: Path) -> None:
    """Commits are durable: write-ahead log, synchronous FULL."""
    table = SqliteTable("main", str(tmp_path / "out.db"), TABLE)
    table.open()
    connection = table._connection  # synchronous is a setting of the connection alone: nothing outside shows it
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    table.close()


def test_another_thread_can_interrupt(tmp_path: Path) -> None:
    """A statement that runs too long is cut short from the event loop, as an outage."""

    async def interrupt() -> None:
        target = sqlite_destination(tmp_path)
        await target.open()
        target._worker.timeout_s = 0.2
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        connection = target._completions._connection  # no public way to be slow
        began = time.monotonic()
        with pytest.raises(DestinationOutage, match="has not answered within"):
            await target._worker.run(lambda: connection.execute(endless).fetchone())
        assert time.monotonic() - began < 3
        assert not await target.send(batch(Sample(1)))
        await target.close()

    asyncio.run(interrupt())


def test_sums_of_cost_are_exact(tmp_path: Path) -> None:
    """cost_usd is text with nine places, and nano-USD sum to the last digit."""

    async def send() -> None:
        target = sqlite_destination(tmp_path)
        await target.send(batch(*(Sample(n, cost_nanousd=100_000_001) for n in range(10))))
        await target.close()

    asyncio.run(send())
    assert query(sqlite_url(tmp_path), f"SELECT sum(cost_nanousd) FROM {TABLE}") == [(1_000_000_010,)]
    assert query(sqlite_url(tmp_path), f"SELECT DISTINCT cost_usd FROM {TABLE}") == [("0.100000001",)]


def test_billing_and_support_queries_use_an_index(tmp_path: Path) -> None:
    """A user's month, a model's month, failures and a session are found without reading the table."""

    async def make() -> None:
        target = sqlite_destination(tmp_path)
        await target.open()
        await target.close()

    asyncio.run(make())
    for where in (
        "user_id = 'u' AND occurred_at >= '2025-12-01'",
        "model = 'm' AND occurred_at >= '2025-12-01'",
        "status = 'error' AND status <> 'success' AND occurred_at >= '2025-12-01'",
        "session_id = 's'",
    ):
        plan = query(sqlite_url(tmp_path), f"EXPLAIN QUERY PLAN SELECT * FROM {TABLE} WHERE tenant = 't' AND {where}")
        assert "USING INDEX" in plan[0][3], (where, plan)


def test_the_file_is_whole_after_a_kill(tmp_path: Path) -> None:
    """What `send` returned from is there after SIGKILL."""
    program = f"""
import asyncio, os, signal
from tests.destinations.conftest import TinyDisk
from tests.destinations.rigs import *
async def main():
    target = DatabaseDestination(name="main", connection_string={sqlite_url(tmp_path)!r}, table=TABLE)
    await target.send(batch(*(Sample(n) for n in range(500))))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False, env={**os.environ}
    )
    assert done.returncode == -9
    assert query(sqlite_url(tmp_path), f"SELECT count(*) FROM {TABLE}") == [(500,)]
    assert query(sqlite_url(tmp_path), "PRAGMA integrity_check") == [("ok",)]
