"""What is special to SQLite: durability is asserted, the WAL is kept small, and processes share one file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from tests.databases.rigs import DatabaseRig, opened, query

from adjourn.database import Tx
from adjourn.databases import sqlite
from adjourn.databases.sqlite import SqliteDriver, open_connection
from adjourn.errors import ConfigInvalid, DatabaseCorrupt, Unavailable
from adjourn.testing.database_rig import ids, put
from adjourn.testing.faults import run_python, stopped

WRITER = """
import asyncio, sys
from adjourn.databases.choose import database_for
from adjourn.testing.database_rig import Recorder, put

async def main():
    database = database_for(sys.argv[1])
    await database.open(Recorder())
    print("open", flush=True)
    sys.stdin.readline()
    for part in range(15):
        await asyncio.gather(*(database.write(put, f"{sys.argv[2]}:{part}:{n}") for n in range(20)))
    await database.close()

asyncio.run(main())
"""


def create(tx: Tx) -> None:
    tx.run("CREATE TABLE exercise (id TEXT PRIMARY KEY, n BIGINT, body BLOB)")


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_is_what_was_asked_for(tmp_path: Path, durability: str, level: int) -> None:
    """A connection syncs as its setting says, in WAL mode, and overwrites what is deleted."""
    connection = open_connection(tmp_path / "a.db", durability=durability)
    names = ("synchronous", "journal_mode", "secure_delete")
    pragmas = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    assert pragmas == [level, "wal", 1]
    connection.close()


def test_a_fresh_file_may_be_opened_by_several_at_once(tmp_path: Path) -> None:
    """SQLite refuses one of two that turn a fresh file over to WAL together, whatever its busy timeout: ask again."""
    for number in range(40):
        start = Barrier(4)

        def open_one(path: Path = tmp_path / f"{number}.db", start: Barrier = start) -> None:
            start.wait()
            open_connection(path, durability="full").close()

        with ThreadPoolExecutor(4) as threads:
            for opening in [threads.submit(open_one) for _ in range(4)]:
                opening.result()


def test_a_new_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    """The database holds a secret and all events; an existing file keeps the mode that it has."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    old.touch(0o644)
    for path in (old, new):
        connection = open_connection(path, durability="full")
        connection.execute("CREATE TABLE a (b)")
        modes = {file.stat().st_mode & 0o777 for file in tmp_path.glob(f"{path.name}*")}
        assert modes == {0o600 if path == new else 0o644}
        connection.close()


def test_a_file_without_a_log_is_refused() -> None:
    """Where SQLite cannot keep a write-ahead log, the database is refused rather than used without durability."""
    with pytest.raises(ConfigInvalid, match="durable"):
        open_connection(Path(":memory:"), durability="full")


def test_the_log_is_checkpointed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL is copied back and begun anew when it has grown, also while readers come and go; nothing is lost."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 200_000)
    rig = DatabaseRig("sqlite", tmp_path)
    path = Path(rig.url.removeprefix("sqlite:///"))
    wal = Path(f"{path}-wal")
    sizes: list[int] = []

    def size(of: Path) -> int:
        return of.stat().st_size

    async def run() -> None:
        async with opened(rig.connect()) as database:
            await database.write(create)
            for number in range(200):
                await database.write(
                    lambda tx, n: tx.run("INSERT INTO exercise VALUES (?, 1, zeroblob(10000))", (str(n),)), number
                )
                await database.read(lambda reader: reader.rows("SELECT count(*) FROM exercise"))
                sizes.append(size(wal))
            assert len(await database.read(ids)) == 200
            assert size(path) > 1_500_000

    asyncio.run(run())
    assert max(sizes) < 600_000


def test_processes_share_one_file(tmp_path: Path) -> None:
    """Three processes write to one file at once: all is written, nobody fails."""
    rig = DatabaseRig("sqlite", tmp_path)
    query(rig.url, "CREATE TABLE exercise (id TEXT PRIMARY KEY, n BIGINT, body BLOB)")
    children = [run_python(WRITER, rig.url, str(n)) for n in range(3)]
    go(children)
    assert [child.wait(30) for child in children] == [0, 0, 0]
    assert query(rig.url, "SELECT count(*) FROM exercise") == [(900,)]


def test_a_file_stays_in_use_however_often_its_log_is_looked_at(tmp_path: Path) -> None:
    """SQLite's locks belong to the process, and end when it closes any descriptor of the file: who came next would
    begin the log's index anew, under those who have it mapped: SIGBUS. In the end nothing is open."""
    rig = DatabaseRig("sqlite", tmp_path)
    program = """if True:
        import fcntl, sys
        try:
            fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
        except BlockingIOError:
            sys.exit(9)
    """

    def opened_here() -> list[str]:
        return [at for fd in Path("/proc/self/fd").iterdir() if (at := os.path.realpath(fd)).startswith(str(tmp_path))]

    async def run() -> None:
        async with opened(rig.connect()) as database:
            await database.write(create)
            for number in range(3 * sqlite.LOOK_EVERY_BATCHES):
                await database.write(put, str(number))
            index = rig.url.removeprefix("sqlite:///") + "-shm"
            command = [sys.executable, "-c", program, index]
            tried = await asyncio.to_thread(subprocess.run, command, check=False)
            assert tried.returncode == 9  # in use

    asyncio.run(run())
    assert opened_here() == []


def go(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()


def test_a_stopped_process_does_not_hang_the_other(tmp_path: Path) -> None:
    """While another process stands still with the file's lock, writes answer Unavailable; then they go on."""
    rig = DatabaseRig("sqlite", tmp_path)
    program = """if True:
        import fcntl, sys
        sys.stdin.readline()
        lock = open(sys.argv[1], "a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.readline()
    """

    async def run() -> None:
        async with opened(rig.connect(write_timeout_ms=300)) as database:
            await database.write(create)
            holder = run_python(program, rig.url.removeprefix("sqlite:///") + ".lane")
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write(b"\n")
            holder.stdin.flush()
            assert await asyncio.to_thread(holder.stdout.readline) == b"held\n"
            with stopped(holder.pid):
                with pytest.raises(Unavailable):
                    await asyncio.wait_for(database.write(put, "late"), 10)
                await database.read(ids)
            holder.kill()
            holder.wait()
            assert await database.write(put, "a") == "a"

    asyncio.run(run())


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    """Pages that fail SQLite's own checks raise DatabaseCorrupt, on reading and on writing."""
    rig = DatabaseRig("sqlite", tmp_path)
    path = Path(rig.url.removeprefix("sqlite:///"))
    query(rig.url, "CREATE TABLE exercise (id TEXT PRIMARY KEY, n BIGINT, body BLOB)")
    for number in range(200):
        query(rig.url, "INSERT INTO exercise VALUES (?, 1, zeroblob(500))", f"row:{number}")
    query(rig.url, "PRAGMA wal_checkpoint(TRUNCATE)")
    root = query(rig.url, "SELECT rootpage FROM sqlite_master WHERE name = 'exercise'")[0][0]
    assert isinstance(root, int)
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xee" * 4096)

    async def run() -> None:
        async with opened(rig.connect()) as database:
            with pytest.raises(DatabaseCorrupt, match="db check"):
                await database.read(lambda reader: reader.rows("SELECT sum(n) FROM exercise"))
            with pytest.raises(DatabaseCorrupt, match="db check"):
                await database.write(put, "new")
            assert "damaged" in database.health().detail

    asyncio.run(run())


def test_every_error_has_a_class(tmp_path: Path) -> None:
    """A closed connection counts as lost; a wrong statement, and what is no error of SQLite's, as the member's own."""
    driver = SqliteDriver(tmp_path / "a.db", durability="full")
    driver.connect()
    with pytest.raises(sqlite3.OperationalError) as wrong:
        driver.rows("SELECT nonsense")
    assert driver.classify(wrong.value).value == "member"
    assert driver.classify(KeyError()).value == "member"
    driver.close()
    with pytest.raises(sqlite3.ProgrammingError) as closed:
        driver.rows("SELECT 1")
    assert driver.classify(closed.value).value == "lost"
