"""`adjourn destinations`: balances, and letting one go."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.cli.conftest import Run


def test_a_destination_is_listed_until_it_is_forgotten(run: Run, database: Path) -> None:
    """The log waits for a destination that is configured no more, and stops waiting when it is told to."""
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO cursors VALUES ('destination:old', 0, 0, NULL, 1)")
    listed = run("destinations", "list", "--json")
    assert listed.code == 0
    assert json.loads(listed.out)[0]["destination"] == "old"
    assert run("destinations", "forget", "old").code == 0
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT live FROM cursors").fetchall() == [(0,)]


def test_forgetting_what_is_not_there_says_so(run: Run, database: Path) -> None:
    """An unknown name is an error with the command that lists the names."""
    done = run("destinations", "forget", "nope")
    assert done.code == 2
    assert "adjourn destinations list" in done.err
