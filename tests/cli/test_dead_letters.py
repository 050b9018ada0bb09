"""`adjourn dead-letters`: look, give back, discard."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Run

DAY_MS = 86_400_000


@pytest.fixture
def letters(database: Path) -> Path:
    """Five of them at `hook`, one a day, those with odd numbers of the tenant `other`."""
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO cursors VALUES ('destination:hook', 0, 10, NULL, 1)")
        connection.execute("INSERT INTO consumer_counts VALUES ('destination:hook', 0, 'dead_lettered', 5)")
        for n in range(5):
            body = json.dumps({"event_id": f"e{n}", "session": {"session_id": f"s{n}"}}).encode()
            tenant = "other" if n % 2 else "default"
            connection.execute(
                "INSERT INTO held_events VALUES "
                "('hook', 0, ?, 'dead', ?, ?, ?, 1, NULL, '', 'http_400', 'no\tgood', 1, ?, 0, ?, 0)",
                (n, tenant, f"s{n}", f"e{n}", 1_700_000_000_000 + n * DAY_MS, body),
            )
    return database


def rows(database: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize(
    ("picks", "found"),
    [
        ([], ["e4", "e3", "e2", "e1", "e0"]),
        (["--limit", "2"], ["e4", "e3"]),
        (["--cursor", f"{1_700_000_000_000 + 3 * DAY_MS}:hook:0:3"], ["e2", "e1", "e0"]),
        (["--tenant", "other"], ["e3", "e1"]),
        (["--destination", "nope"], []),
        (["--code", "http_400"], ["e4", "e3", "e2", "e1", "e0"]),
        (["--since", "2023-11-17", "--until", "2023-11-18T22:13:20Z"], ["e3"]),
        (["--filter", 'session.session_id == "s2"'], ["e2"]),
    ],
)
def test_they_are_listed_newest_first(run: Run, letters: Path, picks: list[str], found: list[str]) -> None:
    """Every option picks what it says, and a page goes on behind the one before."""
    done = run("dead-letters", "list", "--json", *picks)
    assert [entry["event_id"] for entry in json.loads(done.out)] == found
    for_people = run("dead-letters", "list", *picks).out
    assert [line.split()[1] for line in for_people.splitlines()[1:]] == found
    assert "\t" not in for_people


def test_one_is_shown_whole(run: Run, letters: Path) -> None:
    """The event on standard output, byte for byte; why, on standard error."""
    done = run("dead-letters", "show", "hook:0:2")
    assert json.loads(done.out) == {"event_id": "e2", "session": {"session_id": "s2"}}
    assert "http_400 after 1 attempts" in done.err
    assert run("dead-letters", "show", "hook:0:77").code == 2


def test_they_are_given_back_and_discarded(run: Run, letters: Path) -> None:
    """One, some or all; the counts follow, and what is gone is not found again."""
    assert run("dead-letters", "redrive", "hook:0:1").err == "1 given back; a running server delivers them\n"
    assert run("dead-letters", "redrive", "hook:0:1").code == 2
    assert run("dead-letters", "discard", "--tenant", "other").err == "1 discarded\n"
    assert run("dead-letters", "redrive", "--all").err == "3 given back; a running server delivers them\n"
    assert rows(letters, "SELECT state, attempts, count(*) FROM held_events GROUP BY 1, 2") == [("parked", 0, 4)]
    counts = dict(rows(letters, "SELECT kind, count FROM consumer_counts WHERE consumer = 'destination:hook'"))
    assert (counts["dead_lettered"], counts["discarded"]) == (0, 1)


@pytest.mark.parametrize("picks", [[], ["hook:0:1", "--all"], ["--all", "--code", "x"]])
def test_which_ones_must_be_said(run: Run, letters: Path, picks: list[str]) -> None:
    """Neither nothing nor two ways at once: deleting for good is never a guess."""
    done = run("dead-letters", "discard", *picks)
    assert (done.code, "say which" in done.err) == (2, True)
    assert rows(letters, "SELECT count(*) FROM held_events") == [(5,)]


def test_times_that_are_none_say_so(run: Run, letters: Path) -> None:
    """A time that cannot be read is an error with an example."""
    assert "2026-01-31T12:00:00Z" in run("dead-letters", "list", "--since", "yesterday").err
