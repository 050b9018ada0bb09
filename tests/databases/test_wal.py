"""Damage to a write-ahead log is told from what a crash leaves there."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import threading
from contextlib import closing
from pathlib import Path

import pytest

from adjourn.databases.wal import FRAME_HEADER_BYTES, HEADER_BYTES, CutOff, cut_off

COMMITS = 40
PAGE_BYTES = 4096
FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES


def write(connection: sqlite3.Connection, number: int) -> None:
    """One transaction of one to four pages."""
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (?, ?)", (number, bytes(number * 391 % 9_000)))
    connection.execute("COMMIT")


def opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    for pragma in ("journal_mode=WAL", "wal_autocheckpoint=0", "synchronous=OFF"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


@pytest.fixture
def left(tmp_path: Path) -> tuple[bytes, bytes]:
    """The bytes of a database and of its log with 40 commits, as a killed process leaves them."""
    path = tmp_path / "a.db"
    with closing(opened(path)) as connection:
        connection.execute("CREATE TABLE t (n INTEGER, body BLOB)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(COMMITS):
            write(connection, number)
        return path.read_bytes(), Path(f"{path}-wal").read_bytes()


def readable(folder: Path, database: bytes, log: bytes) -> tuple[int, CutOff | None]:
    """(how many of the commits SQLite reads, what is said of the log)"""
    folder.mkdir()
    (folder / "a.db").write_bytes(database)
    (folder / "a.db-wal").write_bytes(log)
    found = cut_off(folder / "a.db-wal")
    with closing(sqlite3.connect(folder / "a.db")) as connection:
        count = connection.execute("SELECT count(*) FROM t").fetchone()[0]
    shutil.rmtree(folder)
    return int(count), found


def test_every_loss_but_that_of_the_last_transaction_is_told(
    left: tuple[bytes, bytes], tmp_path: Path, rng: random.Random
) -> None:
    """Wherever a byte is changed, header included: if SQLite then reads fewer commits than all but the last, that is
    said with the number of those that it leaves out; else nothing is."""
    database, log = left
    places = [*range(HEADER_BYTES), *(rng.randrange(len(log)) for _ in range(100))]
    told = 0
    for at in places:
        broken = bytearray(log)
        broken[at] ^= 1 << rng.randrange(8)
        count, found = readable(tmp_path / "b", database, bytes(broken))
        if count >= COMMITS - 1:
            assert found is None, at
        else:
            assert found is not None, at
            assert abs(found.commits - (COMMITS - count)) <= 1, at  # whether the broken frame ended one is not known
            assert found.frame == max(1, (at - HEADER_BYTES) // FRAME_BYTES + 1)
            told += 1
    assert told > 60


def test_what_a_crash_leaves_is_no_damage(left: tuple[bytes, bytes], tmp_path: Path, rng: random.Random) -> None:
    """A log that ends anywhere, or whose last transaction is torn, has nothing said about it; nor has an empty one."""
    database, log = left
    for size in (0, 1, HEADER_BYTES, *(rng.randrange(len(log)) for _ in range(20))):
        assert readable(tmp_path / "b", database, log[:size])[1] is None, size
    commits = [at for at in range(HEADER_BYTES, len(log), FRAME_BYTES) if struct.unpack_from(">I", log, at + 4) != (0,)]
    for _ in range(20):
        torn = bytearray(log)
        at = rng.randrange(commits[-2] + FRAME_BYTES, len(log))
        torn[at : at + 600] = bytes(len(torn[at : at + 600]))
        assert readable(tmp_path / "b", database, bytes(torn))[1] is None
    assert cut_off(tmp_path / "nowhere-wal") is None


def test_frames_of_an_earlier_round_are_no_damage(tmp_path: Path) -> None:
    """When a log was copied back and begins anew, what still stands behind its new frames is not missed."""
    path = tmp_path / "a.db"
    with closing(opened(path)) as connection:
        connection.execute("CREATE TABLE t (n INTEGER, body BLOB)")
        for number in range(COMMITS):
            write(connection, number)
        size = Path(f"{path}-wal").stat().st_size
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        for number in range(5):
            write(connection, number)
            assert Path(f"{path}-wal").stat().st_size == size
            assert cut_off(Path(f"{path}-wal")) is None


def test_a_log_in_use_is_whole(tmp_path: Path) -> None:
    """While a process writes, rolls back and begins the log anew, nothing is ever said about it."""
    path = tmp_path / "a.db"
    looks = 0
    done = threading.Event()

    def work() -> None:
        with closing(opened(path)) as connection:
            connection.execute("PRAGMA cache_size=5")  # so that what is rolled back was written before
            connection.execute("CREATE TABLE t (n INTEGER, body BLOB)")
            for number in range(600):
                write(connection, number)
                if number % 7 == 0:
                    connection.execute("BEGIN")
                    connection.execute("INSERT INTO t VALUES (0, zeroblob(90000))")
                    connection.execute("ROLLBACK")
                if number % 40 == 0:
                    connection.execute(f"PRAGMA wal_checkpoint({'RESTART' if number % 80 else 'TRUNCATE'})")
        done.set()

    writer = threading.Thread(target=work)
    writer.start()
    while not done.is_set():
        assert cut_off(Path(f"{path}-wal")) is None
        looks += 1
    writer.join()
    assert looks > 5
