"""`adjourn db`."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.postgres import fresh_database


def fill(tmp_path: Path, run: Run, count: int = 300) -> None:
    lines = [json.dumps({"event_id": f"evt_{n}", "session": {"session_id": f"s_{n}"}}) for n in range(count)]
    (tmp_path / "events.ndjson").write_text("\n".join(lines))
    assert run("capture", "events.ndjson").code == 0


def test_upgrade_makes_the_database(run: Run, tmp_path: Path) -> None:
    """db upgrade creates what is missing, and the second time changes nothing."""
    first = run("db", "upgrade")
    assert first.code == 0
    assert (tmp_path / "data" / "adjourn.db").exists()
    assert run("db", "upgrade").out == first.out


def test_a_whole_database_passes(run: Run, tmp_path: Path, database: Path) -> None:
    """db check finds nothing in a database that is whole: exit code 0 and an empty list."""
    fill(tmp_path, run)
    done = run("db", "check", "--json")
    assert (done.code, json.loads(done.out)) == (0, [])
    assert "whole" in done.err


def test_damage_is_found_and_told(run: Run, tmp_path: Path, database: Path) -> None:
    """A database of which a stretch was overwritten fails the check, which says what can be done."""
    fill(tmp_path, run)
    content = bytearray(database.read_bytes())
    content[8192 : len(content) // 2] = b"\xa5" * (len(content) // 2 - 8192)
    database.write_bytes(content)
    done = run("db", "check")
    assert done.code == 1
    assert "damaged" in done.out
    assert "restore" in done.out
    assert "Traceback" not in done.err


def test_no_database_is_an_error(run: Run, tmp_path: Path) -> None:
    """Checking what does not exist is an error, and does not create it."""
    assert run("db", "check").code == 2
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_empty_database_is_a_finding(run: Run, tmp_path: Path, kind: str) -> None:
    """Where no server has ever been, db check says so and does not fail over missing tables."""
    path = tmp_path / "empty.db"
    sqlite3.connect(path).execute("CREATE TABLE other (a)").connection.close()
    done = run("db", "check", "-s", f"database.url={f'sqlite:///{path}' if kind == 'sqlite' else fresh_database()}")
    assert done.code == 1
    assert "holds no Adjourn database" in done.out
    assert "Traceback" not in done.err


def test_a_backup_can_be_restored(run: Run, tmp_path: Path, database: Path) -> None:
    """What a backup holds is in the database that it was restored into; an existing one is never overwritten."""
    fill(tmp_path, run)
    assert "300 events" in run("db", "backup", "saved.db").out
    assert run("db", "backup", "saved.db").code == 2
    assert run("db", "backup", "--force", "saved.db").code == 0
    assert run("db", "restore", "saved.db").code == 2
    assert "300 events" in run("db", "restore", "saved.db", "-s", "data_dir=other").out
    assert "0 accepted, 300 duplicate" in run("capture", "events.ndjson", "-s", "data_dir=other").out
