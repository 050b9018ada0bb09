from __future__ import annotations

import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from adjourn.testing.faults import SqliteFaults
from adjourn.testing.power_cut import PowerCut


def open_wal(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA wal_autocheckpoint = 8")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return connection


@dataclass
class Examiner:
    """Takes an image, opens it with SQLite, and counts what should be there and is not."""

    cut: PowerCut
    target: Path
    acknowledged: list[int] = field(default_factory=list[int])
    images: int = 0
    missing: int = 0
    unacknowledged: int = 0
    _numbers: Iterator[int] = field(default_factory=count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def examine(self, _path: Path | None = None) -> None:
        # Before the image: what is acknowledged after this need not be in it.
        promised = set(self.acknowledged)
        for keep in ("none", "random"):
            number = next(self._numbers)
            directory = self.target / str(number)
            self.cut.image(directory, keep=keep, seed=number)
            with closing(sqlite3.connect(directory / "app.db")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                found = {row[0] for row in connection.execute("SELECT id FROM rows")}
            with self._lock:
                self.images += 1
                self.missing += len(promised - found)
                self.unacknowledged += len(found - promised)
            shutil.rmtree(directory)


def commit_under_power_cuts(tmp_path: Path, rng: random.Random, synchronous: str, commits: int) -> Examiner:
    """Commits, with images at every sync and at random instants from a second thread."""
    done = threading.Event()
    (tmp_path / "live").mkdir()
    with PowerCut(tmp_path / "live") as cut, SqliteFaults(tmp_path / "live") as faults:
        examiner = Examiner(cut, tmp_path / "images")

        def at_random_instants() -> None:
            while not done.wait(rng.random() / 100):
                examiner.examine()

        with closing(open_wal(tmp_path / "live" / "app.db", synchronous)) as connection:
            faults.on_sync(examiner.examine)
            with ThreadPoolExecutor(1) as pool:
                second = pool.submit(at_random_instants)
                for number in range(1, commits + 1):
                    connection.execute("INSERT INTO rows VALUES (?, randomblob(?))", (number, number * 37 % 5000))
                    examiner.acknowledged.append(number)
                done.set()
                second.result()
            examiner.examine()
    return examiner


def test_a_synced_commit_survives_a_power_cut(tmp_path: Path, rng: random.Random) -> None:
    """With synchronous=FULL every acknowledged row is in every image, taken at each sync and at random instants."""
    examiner = commit_under_power_cuts(tmp_path, rng, "FULL", commits=120)
    assert examiner.images >= 300
    assert examiner.missing == 0
    # Some images held a commit whose sync had not returned: unsynced writes do survive at random.
    assert examiner.unacknowledged > 0


def test_a_commit_that_was_not_synced_is_lost(tmp_path: Path, rng: random.Random) -> None:
    """With synchronous=NORMAL the same images lose acknowledged rows: the shim does fail a program that errs."""
    examiner = commit_under_power_cuts(tmp_path, rng, "NORMAL", commits=60)
    assert examiner.missing > 0


def test_without_a_journal_pages_tear(tmp_path: Path) -> None:
    """A database that overwrites its pages without a journal is found corrupt after some power cuts."""
    corrupt = 0
    with PowerCut(tmp_path) as cut, closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)")
        connection.execute("CREATE INDEX bodies ON rows (body)")
        connection.execute("PRAGMA synchronous = OFF")
        for number in range(60):
            connection.execute("INSERT INTO rows (body) VALUES (randomblob(300))")
            cut.image(tmp_path / "images" / str(number), keep="random", seed=number)
    for number in range(60):
        with closing(sqlite3.connect(tmp_path / "images" / str(number) / "app.db")) as connection:
            try:
                corrupt += connection.execute("PRAGMA integrity_check").fetchone() != ("ok",)
            except sqlite3.DatabaseError:
                corrupt += 1
    assert corrupt > 0


def test_a_failed_sync_is_not_made_good_by_the_next(tmp_path: Path) -> None:
    """What a failed sync should have written is gone even after a later sync succeeds, as on Linux."""
    with PowerCut(tmp_path) as cut, SqliteFaults(tmp_path) as faults:
        connection = open_wal(tmp_path / "app.db", "NORMAL")
        connection.execute("INSERT INTO rows VALUES (1, x'00')")
        faults.fail_sync(match="-wal")
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("INSERT INTO rows VALUES (2, x'00')")
        cut.image(tmp_path / "none", keep="none")
        survivors: set[int] = set()
        for seed in range(40):
            cut.image(tmp_path / str(seed), keep="random", seed=seed)
            with closing(sqlite3.connect(tmp_path / str(seed) / "app.db")) as image:
                survivors.add(image.execute("SELECT count(*) FROM rows").fetchone()[0])
        connection.close()
    with closing(sqlite3.connect(tmp_path / "none" / "app.db")) as image:
        assert image.execute("SELECT count(*) FROM rows").fetchone() == (0,)
    # By luck both rows survive (the pages had been written back); never the second without the first.
    assert survivors == {0, 2}


def test_an_image_repeats_under_its_seed(tmp_path: Path) -> None:
    """The same instant and seed give the same bytes, and a directory that holds anything is refused."""
    (tmp_path / "live").mkdir()
    with PowerCut(tmp_path / "live") as cut:
        with closing(open_wal(tmp_path / "live" / "app.db", "OFF")) as connection:
            connection.executemany("INSERT INTO rows VALUES (?, randomblob(900))", [(n,) for n in range(40)])
            for name, seed in (("a", 7), ("b", 7), ("c", 8)):
                cut.image(tmp_path / name, keep="random", seed=seed)
        with pytest.raises(FileExistsError, match="not empty"):
            cut.image(tmp_path / "a", keep="none")
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b != c
    assert set(a) == {"app.db", "app.db-wal"}


def test_a_full_image_equals_the_files(tmp_path: Path) -> None:
    """After everything was synced, the image is the files byte for byte: nothing escapes the shim."""
    (tmp_path / "live").mkdir()
    with PowerCut(tmp_path / "live") as cut:
        connection = open_wal(tmp_path / "live" / "app.db", "FULL")
        for number in range(50):
            connection.execute("INSERT INTO rows VALUES (?, randomblob(2000))", (number,))
        connection.execute("DELETE FROM rows WHERE id > 5")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("INSERT INTO rows VALUES (99, x'00')")
        cut.image(tmp_path / "image", keep="none")
        live = {p.name: p.read_bytes() for p in (tmp_path / "live").iterdir() if not p.name.endswith("-shm")}
        connection.close()
    assert {p.name: p.read_bytes() for p in (tmp_path / "image").iterdir()} == live
