"""Damage is found and reported with what can be saved, and looking never changes anything."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.databases.filling import append, fill, findings, new_url, opened, run

from adjourn.database import Finding
from adjourn.databases.check import check, check_file, reading
from adjourn.errors import ConfigInvalid, DatabaseCorrupt, NotFound, Unavailable
from adjourn.events import StoredEvent
from adjourn.logs.append import BLOCK_COLUMNS, as_block
from adjourn.logs.block import decode
from adjourn.logs.check import check_log

BOTH = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A file of 10,000 events, to be damaged."""
    asyncio.run(fill(f"sqlite:///{tmp_path}/a.db", 10_000))
    return tmp_path / "a.db"


def _state(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def _examined(path: Path) -> list[Finding]:
    """The findings; and the file, and what is beside it, are byte for byte as before."""
    before = _state(path.parent)
    found = findings(f"sqlite:///{path}")
    assert _state(path.parent) == before
    return found


@BOTH
def test_a_whole_database_has_no_findings(kind: str, tmp_path: Path) -> None:
    """Nothing is found in a database that is whole, new or filled, nor while a server has it open."""
    url = new_url(kind, tmp_path)

    async def look_inside() -> list[Finding]:
        async with opened(url):
            return await asyncio.to_thread(findings, url)

    assert asyncio.run(look_inside()) == []
    asyncio.run(fill(url, 500))
    assert findings(url) == []
    assert asyncio.run(look_inside()) == []


def test_checking_leaves_the_file_as_it_was(damaged: Path) -> None:
    """A check of a file that nobody has open changes no byte and leaves no file behind."""
    assert _examined(damaged) == []


def test_a_file_left_by_a_killed_process_is_read_with_its_log(damaged: Path, tmp_path: Path) -> None:
    """Commits that stand only in the write-ahead log are part of the check, which does not move them."""
    left = tmp_path / "left"
    left.mkdir()
    with closing(sqlite3.connect(damaged, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("DELETE FROM log_blocks WHERE first_offset = 100")
        for name in ("a.db", "a.db-wal"):
            (left / name).write_bytes((tmp_path / name).read_bytes())
    before = _state(left)
    assert ["events 100 to 149 are missing" in f.what for f in findings(f"sqlite:///{left}/a.db")] == [True]
    assert {name: digest for name, digest in _state(left).items() if not name.endswith("-shm")} == before


def test_progress_counts_every_event(damaged: Path) -> None:
    """The check of the log says how far it is, up to all of it."""
    seen: list[tuple[int, int]] = []
    with reading(f"sqlite:///{damaged}") as reader:
        assert list(check_log(reader, progress=lambda done, total: seen.append((done, total)))) == []
    assert seen[0] == (50, 10_000)
    assert seen[-1] == (10_000, 10_000)


def test_a_zeroed_header_is_named(damaged: Path) -> None:
    """A file whose first bytes are gone is said to be no database, with the ways left to save it."""
    with damaged.open("r+b") as file:
        file.write(bytes(100))
    first = _examined(damaged)[0]
    assert "is no SQLite database" in first.what
    assert "adjourn db restore" in first.saved
    assert ".recover" in first.saved


def test_a_truncated_file_says_how_much_is_left(damaged: Path) -> None:
    """Of a file that lost its end, the check says what is missing and how many events are intact, and up to where."""
    os.truncate(damaged, damaged.stat().st_size // 2 // 4096 * 4096)
    found = _examined(damaged)
    assert "bytes are missing" in found[0].what
    assert "log_blocks" in found[0].saved
    assert "--salvage" in found[0].saved
    assert any("intact, the last before offset" in finding.saved for finding in found)
    assert sum(_intact(finding) for finding in found) > 1_000


def _intact(finding: Finding) -> int:
    words = finding.saved.split()
    return int(words[0]) if "intact" in finding.saved else 0


def test_an_overwritten_page_costs_only_its_own_events(damaged: Path) -> None:
    """One page of garbage in the middle of the log is found, its offsets are named, and every other block is intact."""
    with closing(sqlite3.connect(damaged)) as connection:
        [(rootpage,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'log_blocks'").fetchall()
        leaves = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'log_blocks' AND pagetype = 'leaf' ORDER BY pageno"
        ).fetchall()
    page = leaves[len(leaves) // 2][0]
    assert page != rootpage
    with damaged.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    found = _examined(damaged)
    assert "is damaged" in found[0].what
    assert "readable in part: log_blocks" in found[0].saved
    unreadable = [finding.what for finding in found if "on pages that cannot be read" in finding.what]
    assert unreadable
    lost = 0
    for what in unreadable:
        words = what.split()
        first, last = int(words[words.index("events") + 1]), int(words[words.index("to") + 1])
        assert 0 < first < last < 10_000
        lost += last - first + 1
    assert sum(_intact(finding) for finding in found) == 10_000 - lost
    assert lost <= 500


def test_no_damage_stops_the_check(tmp_path: Path, rng: random.Random) -> None:
    """However a file is damaged, the check ends with findings, not with an error of its own, and changes nothing."""
    asyncio.run(fill(f"sqlite:///{tmp_path}/a.db", 500))
    path, whole = tmp_path / "a.db", (tmp_path / "a.db").read_bytes()
    for _ in range(12):
        broken = bytearray(whole)
        for _ in range(200):
            broken[rng.randrange(100, len(broken))] ^= rng.randint(1, 255)
        path.write_bytes(broken[: rng.randrange(len(broken) // 2, len(broken))])
        assert _examined(path) != []


def test_what_is_said_to_be_whole_is_whole(tmp_path: Path, rng: random.Random) -> None:
    """Whatever few bytes change, in the header too: either the check has findings, or each event can still be read as
    it was taken and the next one can be appended."""
    source, path = tmp_path / "a.db", tmp_path / "b" / "a.db"
    asyncio.run(fill(f"sqlite:///{source}", 300))
    whole, taken = source.read_bytes(), _events(source)
    header = [(at, 1 << bit) for at in (16, 18, 19, 20, 47, 59, *rng.sample(range(100), 10)) for bit in (0, 3, 7)]
    anywhere = [(rng.randrange(len(whole)), rng.randint(1, 255)) for _ in range(250)]
    said_whole = 0
    for at, change in [*header, *anywhere]:
        broken = bytearray(whole)
        broken[at] ^= change
        path.parent.mkdir()
        path.write_bytes(broken)
        if not _examined(path):
            said_whole += 1
            assert _events(path) == taken, (at, change)
            if at < 100 or said_whole % 4 == 0:
                asyncio.run(_append(path, 301))
                assert len(_events(path)) == 301, (at, change)
        shutil.rmtree(path.parent)
    print(f"{len(header) + len(anywhere)} files, {said_whole} whole")
    assert said_whole > 20
    assert len(header) + len(anywhere) - said_whole > 25


def _events(path: Path) -> list[StoredEvent]:
    with reading(f"sqlite:///{path}") as reader:
        rows = reader.rows(f"SELECT {BLOCK_COLUMNS} FROM log_blocks ORDER BY first_offset")
        return [event for row in rows for event in decode(as_block(row))]


async def _append(path: Path, number: int) -> None:
    async with opened(f"sqlite:///{path}") as database:
        await database.write(append, [number])


def test_a_schema_that_no_server_can_open_is_found(damaged: Path) -> None:
    """The check itself reads around a schema that cannot be parsed; it says so all the same."""
    whole = damaged.read_bytes()
    assert whole.count(b"tableleasesleases") == 1
    damaged.write_bytes(whole.replace(b"tableleasesleases", b"table,easesleases"))
    (found, *_) = _examined(damaged)
    assert "malformed database schema" in found.what
    assert "whole tables: accounts, alembic_version" in found.saved


def test_commits_behind_a_damaged_frame_are_told(tmp_path: Path) -> None:
    """SQLite silently ends a write-ahead log at the first frame that is damaged; the check says what that costs."""
    path, wal = tmp_path / "a.db", tmp_path / "a.db-wal"

    async def write() -> tuple[bytes, bytes]:
        async with opened(f"sqlite:///{path}") as database:
            for number in range(1, 41):
                await database.write(append, [number])
            return path.read_bytes(), wal.read_bytes()

    file, log = asyncio.run(write())
    path.write_bytes(file)
    wal.write_bytes(log)
    assert findings(f"sqlite:///{path}") == []
    broken = bytearray(log)
    broken[len(log) // 2] ^= 1
    wal.write_bytes(broken)
    (tmp_path / "a.db-shm").unlink()
    (found,) = findings(f"sqlite:///{path}")
    left = len(_events(path))
    assert 0 < left < 40
    assert f"the {40 - left} transactions that were committed behind it" in found.what


@BOTH
def test_a_flipped_byte_in_a_block_is_found(kind: str, tmp_path: Path) -> None:
    """What no longer fits its checksum is reported with its partition and offsets; so are numbers that no block has."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 500))
    [(partition, first)] = _some_block(url)
    for change in ("body = keys", "keys = body", "checksum = keys", "codec = 77", "count = -1", "count = 0"):
        [(column, before)] = [(change.split(" ")[0], _value(url, change.split(" ")[0], partition, first))]
        _set(url, change, partition, first)
        found = findings(url)
        assert f"block {partition}/{first} of" in found[0].what
        assert "restore a backup" in found[0].saved
        _set(url, f"{column} = ?", partition, first, before)
    assert findings(url) == []
    _set(url, "max_ts = max_ts + 1", partition, first)
    assert [f"block {partition}/{first} of 50" in finding.what for finding in findings(url)] == [True]


def _some_block(url: str) -> list[tuple[object, ...]]:
    with reading(url) as reader:
        return list(reader.rows("SELECT partition, first_offset FROM log_blocks ORDER BY first_offset DESC LIMIT 1"))


def _value(url: str, column: str, partition: object, first: object) -> object:
    with reading(url) as reader:
        sql = f"SELECT {column} FROM log_blocks WHERE partition = {partition} AND first_offset = {first}"
        return reader.rows(sql)[0][0]


def _set(url: str, change: str, partition: object, first: object, *values: object) -> None:
    run(url, f"UPDATE log_blocks SET {change} WHERE partition = ? AND first_offset = ?", (*values, partition, first))


@BOTH
def test_a_deleted_block_is_a_gap(kind: str, tmp_path: Path) -> None:
    """Offsets that no block holds are named, in the middle and at the end; so is a block that begins too early."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 500, per_block=25))
    run(url, "DELETE FROM log_blocks WHERE partition = 0 AND first_offset = 50")
    assert [finding.what for finding in findings(url)] == [
        "partition 0: the events 50 to 74 are missing: their block is gone"
    ]
    run(url, "DELETE FROM log_blocks WHERE partition = 0 AND first_offset > 50")
    with reading(url) as reader:
        head = int(reader.rows("SELECT next_offset FROM log_heads WHERE partition = 0")[0][0] or 0)
    assert [finding.what for finding in findings(url)] == [
        f"partition 0: the events 50 to {head - 1} are missing: their block is gone"
    ]
    run(url, "UPDATE log_heads SET next_offset = 50 WHERE partition = 0")
    assert findings(url) == []
    run(url, "UPDATE log_heads SET next_offset = 40 WHERE partition = 0")
    assert "has blocks up to 50, but its head is 40" in findings(url)[0].what
    run(url, "UPDATE log_heads SET next_offset = 25 WHERE partition = 0")
    assert "has 1 blocks beyond its head" in findings(url)[0].what


@BOTH
def test_overlapping_blocks_are_found(kind: str, tmp_path: Path) -> None:
    """A block that begins before the end of the one before it is named."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 500, per_block=25))
    run(url, "UPDATE log_blocks SET first_offset = 40 WHERE partition = 0 AND first_offset = 50")
    assert "block 0/40 of 25 events begins before the end of the one before it, at 50" in findings(url)[0].what


@BOTH
def test_cursors_stay_between_tail_and_head(kind: str, tmp_path: Path) -> None:
    """A cursor beyond the head, or a live one below the tail, is named with what its consumer misses."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 100, per_block=25))
    run(url, "UPDATE cursors SET next_offset = 1000 WHERE consumer = 'logfile' AND partition = 0")
    [finding] = findings(url)
    assert "the cursor of logfile in partition 0 is at 1000, beyond the head" in finding.what
    run(url, "UPDATE cursors SET next_offset = 0")
    run(url, "UPDATE log_heads SET tail_offset = 25 WHERE partition = 0")
    run(url, "DELETE FROM log_blocks WHERE partition = 0 AND first_offset < 25")
    run(url, "UPDATE cursors SET live = 0 WHERE consumer = 'warehouse'")
    [finding] = findings(url)
    assert "the cursor of logfile in partition 0 is at 0, below the tail, 25" in finding.what


@BOTH
def test_what_consumers_lost_is_reported(kind: str, tmp_path: Path) -> None:
    """Events that consumers went past are told, with the reason and when it was first seen."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 100))
    run(url, "INSERT INTO log_lost VALUES (0, 10, 5, 'its checksum does not fit', 1700000000000)")
    [finding] = findings(url)
    assert "events 10 to 14 of partition 0" in finding.what
    assert "2023-11-14T22:13:20+00:00" in finding.what


@BOTH
def test_missing_tables_and_other_versions_are_findings(kind: str, tmp_path: Path) -> None:
    """A table or column that is gone, and a version that this code does not have, are told apart from damage."""
    url = new_url(kind, tmp_path)
    asyncio.run(fill(url, 100))
    run(url, "ALTER TABLE quarantine DROP COLUMN path")
    run(url, "DROP TABLE held_events")
    assert sorted(finding.what for finding in check(url)) == [
        "the table held_events is missing",
        "the table quarantine has no column path",
    ]
    run(url, "UPDATE alembic_version SET version_num = '9999'")
    assert ["9999" in finding.what for finding in check(url)] == [True]


def test_postgresql_pages_that_cannot_be_read_are_found(tmp_path: Path) -> None:
    """A reader of PostgreSQL turns its damage report into DatabaseCorrupt, and goes on with the next statement."""
    url = new_url("postgresql", tmp_path)
    run(
        url,
        "CREATE FUNCTION damaged() RETURNS int LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'invalid page in block 3' USING ERRCODE = 'XX001'; END $$",
    )
    with reading(url) as reader:
        with pytest.raises(DatabaseCorrupt, match="invalid page"):
            reader.rows("SELECT damaged()")
        assert reader.rows("SELECT 1") == [(1,)]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    """A missing file, a foreign one, an unknown URL and an unreachable server are told apart."""
    with pytest.raises(NotFound):
        check(f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigInvalid):
        check("mysql://there")
    with pytest.raises(Unavailable, match=r"\*\*\*@127.0.0.1"):
        check("postgresql://me:secret@127.0.0.1:1/x")
    run(f"sqlite:///{tmp_path}/other.db", "CREATE TABLE t (a)")
    assert "holds no Adjourn database" in check_file(tmp_path / "other.db")[0].what
