from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from adjourn.testing.faults import SqliteFaults, kill_at_random, run_python, small_disk, stopped
from adjourn.testing.power_cut import PowerCut


def open_wal(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE rows (body BLOB)")
    return connection


def rows(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT count(*) FROM rows").fetchone()[0]


@pytest.mark.parametrize(("error", "message"), [("io", "disk I/O error"), ("full", "database or disk is full")])
def test_a_failed_sync_fails_the_commit(tmp_path: Path, error: str, message: str) -> None:
    """An error in the commit's own fsync reaches the program, once, and the next commit goes through."""
    with SqliteFaults(tmp_path) as faults, closing(open_wal(tmp_path / "app.db")) as connection:
        faults.fail_sync(error="io" if error == "io" else "full")
        with pytest.raises(sqlite3.OperationalError, match=message):
            connection.execute("INSERT INTO rows VALUES (1)")
        connection.execute("INSERT INTO rows VALUES (2)")
        assert rows(connection) == 1


def test_a_disk_that_fills_up_refuses_from_there_on(tmp_path: Path) -> None:
    """After the given bytes each write fails until the fault is healed; the write that crosses the limit is torn."""
    with PowerCut(tmp_path) as cut, SqliteFaults(tmp_path) as faults:
        with closing(open_wal(tmp_path / "app.db")) as connection:
            connection.execute("INSERT INTO rows VALUES (randomblob(3000))")
            before = (tmp_path / "app.db-wal").stat().st_size
            faults.fail_write(after_bytes=5000, match="-wal")
            for _ in range(3):
                with pytest.raises(sqlite3.OperationalError, match="full"):
                    connection.execute("INSERT INTO rows VALUES (randomblob(30000))")
            assert (tmp_path / "app.db-wal").stat().st_size == before + 5000
            faults.heal()
            connection.execute("INSERT INTO rows VALUES (randomblob(30000))")
            assert rows(connection) == 2
            cut.image(tmp_path / "image", keep="none")
        with closing(sqlite3.connect(tmp_path / "image" / "app.db")) as image:
            assert rows(image) == 2


def test_a_failed_write_is_an_io_error(tmp_path: Path) -> None:
    """A write can fail for another reason than a full disk, and only on the files that were named."""
    a, b = tmp_path / "a.db", tmp_path / "b.db"
    with SqliteFaults(tmp_path) as faults, closing(open_wal(a)) as failing, closing(open_wal(b)) as sound:
        faults.fail_write(error="io", match="a.db-wal")
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            failing.execute("INSERT INTO rows VALUES (1)")
        sound.execute("INSERT INTO rows VALUES (1)")
        assert (rows(failing), rows(sound)) == (0, 1)


def test_syncs_are_counted_and_watched(tmp_path: Path) -> None:
    """A commit in FULL is one sync of the WAL; counters and callbacks see it and the bytes before it."""
    seen: list[str] = []
    with SqliteFaults(tmp_path) as faults, closing(open_wal(tmp_path / "app.db")) as connection:
        faults.on_sync(lambda path: seen.append(path.name), match="-wal")
        syncs, written = faults.syncs("-wal"), faults.bytes_written("-wal")
        for number in range(10):
            connection.execute("INSERT INTO rows VALUES (?)", (number,))
        assert faults.syncs("-wal") - syncs == 10
        assert faults.bytes_written("-wal") - written >= 10 * 4096
        assert seen == ["app.db-wal"] * 10


def test_a_held_sync_holds_the_commit(tmp_path: Path) -> None:
    """A commit is not acknowledged while its sync is held, other threads go on, and it returns when released."""
    release = threading.Event()
    with SqliteFaults(tmp_path) as faults, closing(open_wal(tmp_path / "app.db")) as connection:
        begun = faults.syncs("-wal")
        faults.hold_sync(release)
        thread = threading.Thread(target=connection.execute, args=("INSERT INTO rows VALUES (1)",))
        thread.start()
        while faults.syncs("-wal") == begun:
            time.sleep(0.001)
        thread.join(0.05)
        assert thread.is_alive()
        with closing(sqlite3.connect(tmp_path / "app.db")) as other:
            assert rows(other) == 0
        release.set()
        thread.join(5)
        assert not thread.is_alive()
        assert rows(connection) == 1


def test_a_callback_that_raises_fails_the_test(tmp_path: Path) -> None:
    """An exception inside SQLite's call is an I/O error to SQLite, and is raised where the faults end."""

    def refuse(_path: Path) -> None:
        raise AssertionError("a row is missing")

    faults = SqliteFaults(tmp_path)
    faults.install()
    with closing(open_wal(tmp_path / "app.db")) as connection:
        faults.on_sync(refuse, match="-wal")
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            connection.execute("INSERT INTO rows VALUES (1)")
    with pytest.raises(AssertionError, match="a row is missing"):
        faults.uninstall()


def test_nothing_stays_behind(tmp_path: Path) -> None:
    """After the block SQLite has its own VFS back, and a connection that outlives the faults goes on without them."""
    with SqliteFaults(tmp_path) as faults:
        connection = open_wal(tmp_path / "app.db")
        faults.fail_sync(count=1000)
    with closing(connection):
        connection.execute("INSERT INTO rows VALUES (1)")
        counted = faults.syncs()
        with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
            other.execute("INSERT INTO rows VALUES (2)")
        assert rows(connection) == 2
        assert faults.syncs() == counted


OPEN_AT_EXIT = """
import sqlite3, sys
from adjourn.testing.faults import SqliteFaults
with SqliteFaults(sys.argv[1]):
    committed, interrupted = (sqlite3.connect(f"{sys.argv[1]}/{name}.db", isolation_level=None) for name in "ab")
    for connection in (committed, interrupted):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE rows (body BLOB)")
    interrupted.execute("BEGIN")
    interrupted.execute("INSERT INTO rows VALUES (1)")
    keep = [committed, interrupted]
    keep.append(keep)  # a cycle: collected when the interpreter ends
"""


def test_a_connection_may_be_open_when_the_process_exits(tmp_path: Path) -> None:
    """SQLite calls nothing of Python's when the interpreter that is ending closes its connections."""
    process = run_python(OPEN_AT_EXIT, str(tmp_path))
    assert process.wait(10) == 0


def test_a_small_disk_fills_up() -> None:
    """A disk of 1 MB gives SQLite a real `disk is full`, keeps what was committed, and is gone afterwards."""
    with small_disk(1) as directory, closing(open_wal(directory / "app.db")) as connection:
        committed = 0

        def insert() -> None:
            nonlocal committed
            for _ in range(100):
                connection.execute("INSERT INTO rows VALUES (randomblob(40000))")
                committed += 1

        with pytest.raises(sqlite3.OperationalError, match="full"):
            insert()
        assert 5 < committed < 30
        assert rows(connection) == committed
    assert not directory.exists()


COUNTER = """
import sys
for number in range(10**9):
    print(number, flush=True)
"""


def test_a_child_is_killed_at_a_random_time(rng: random.Random) -> None:
    """The child dies by SIGKILL within the given time, and one that had ended by itself is told apart."""
    process = run_python(COUNTER)
    assert kill_at_random(process, between=(0.1, 0.2), rng=rng)
    assert process.returncode == -9
    process = run_python("import sys; sys.exit(int(sys.argv[1]) + int(sys.argv[2]))", "1", "2")
    assert process.wait(10) == 3
    assert not kill_at_random(process, between=(0, 0), rng=rng)


def test_a_child_runs_a_module_with_its_arguments() -> None:
    """A module runs as with `python -m`, with the environment that was added."""
    process = run_python("json.tool", "--compact", module=True, env={"ADJOURN_TEST": "1"})
    out, _ = process.communicate(b'{"a": 1}', timeout=10)
    assert out == b'{"a":1}\n'
    out, _ = run_python("import os; print(os.environ['ADJOURN_TEST'])", env={"ADJOURN_TEST": "1"}).communicate()
    assert out == b"1\n"


def test_no_child_outlives_its_parent() -> None:
    """When the process that started a child is killed, the child dies with it."""
    parent = run_python(
        "from adjourn.testing.faults import run_python\n"
        "child = run_python('import time; print(1, flush=True); time.sleep(60)')\n"
        "child.stdout.readline(); print(child.pid, flush=True); child.wait()"
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether it still runs; a zombie that waits for init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_stopped_process_stands_still() -> None:
    """Nothing is done by the process inside the block, and it goes on after it."""
    process = run_python("import os, time\nwhile True: os.write(1, b'x'); time.sleep(0.001)")
    try:
        output = output_of(process)
        assert os.read(output, 1)
        with stopped(process.pid):
            os.set_blocking(output, False)
            drain(output)
            time.sleep(0.05)
            assert drain(output) == b""
            os.set_blocking(output, True)
        assert os.read(output, 1)
    finally:
        process.kill()
        process.wait()


def output_of(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return process.stdout.fileno()


def drain(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1_000_000)
    except BlockingIOError:
        return b""
