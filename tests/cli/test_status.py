"""`adjourn status`: true beside a server and without one."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adjourn.cli.status import DestinationStatus, Status, _age, _table
from tests import postgres
from tests.cli.conftest import Run
from tests.http.serving import event, serving


def look(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ADJOURN_")}
    command = [sys.executable, "-m", "adjourn", "status", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def until(url: str, holds: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 90
    while True:
        found = json.loads(look("--once", "--json", "--set", f"database.url={url}").stdout)
        if holds(found):
            return found
        assert time.monotonic() < deadline, found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_it_says_how_each_destination_stands(kind: str, tmp_path: Path) -> None:
    """One delivers, one is away and says why, one is paused: another process sees it, with a server and without."""
    url = f"sqlite:///{tmp_path}/a.db" if kind == "sqlite" else postgres.fresh_database()
    (tmp_path / "file").write_text("in the way")
    routing = {
        "retry_delay_ms": 10,
        "destinations": [
            {"type": "logfile", "name": "good", "log_path": str(tmp_path / "out.jsonl")},
            {"type": "logfile", "name": "away", "log_path": str(tmp_path / "file" / "out.jsonl")},
            {"type": "logfile", "name": "held", "log_path": str(tmp_path / "held.jsonl")},
        ],
    }

    def settled(found: dict[str, Any]) -> bool:
        by_name = {one["name"]: one for one in found["destinations"]}
        return by_name["good"]["delivered"] == 4 and bool(by_name["away"]["waiting"])

    with serving(url, tmp_path, routing=routing) as server:
        server.request("POST", "/v1/destinations/held/pause", json={"reason": "a move"})
        server.post(b"\n".join([*(event() for _ in range(4)), b"bad"]))
        beside = until(url, settled)
    without = until(url, settled)
    for found in (beside, without):
        assert (found["captured"], found["quarantine_held"]) == (4, 1)
        assert found["log_bytes"] > 0
        by_name = {one["name"]: one for one in found["destinations"]}
        assert (by_name["good"]["pending"], by_name["good"]["waiting"], by_name["good"]["lag_s"]) == (0, "", 0)
        assert by_name["away"]["pending"] == 4
        assert by_name["away"]["lag_s"] > 0
        assert "a part of log_path is a file" in by_name["away"]["waiting"]
        assert by_name["held"]["waiting"] == "paused: a move"
        assert [one["difference"] for one in found["destinations"]] == [0, 0, 0]


def test_what_is_not_accounted_for_is_exit_code_1(run: Run, database: Path) -> None:
    """The one number that must be 0 is not: said, and told to whatever runs it."""
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO cursors VALUES ('destination:odd', 0, 0, NULL, 1)")
        connection.execute("INSERT INTO consumer_counts VALUES ('destination:odd', 0, 'delivered', 3)")
    done = run("status", "--once")
    assert done.code == 1
    assert "odd: -3 events are not accounted for; run: adjourn db check" in done.out


def test_an_empty_database_and_none(run: Run, database: Path) -> None:
    """Nothing configured yet is said in words; no database is an error, and none is made."""
    assert "no destination was ever configured" in run("status", "--once").out
    database.unlink()
    done = run("status", "--once")
    assert done.code == 2
    assert "there is no database" in done.err


def test_it_goes_on_until_it_is_stopped(database: Path) -> None:
    """Without a terminal: a JSON object for each look, with the rate from the second on; Ctrl-C ends it with 130."""
    command = [sys.executable, "-m", "adjourn", "status", "--json", "--interval-s", "0.1"]
    with subprocess.Popen(command, cwd=database.parents[1], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert first["captured_per_s"] is None
        assert second["captured_per_s"] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def standing(**other: Any) -> DestinationStatus:
    counts = ("delivered", "filtered", "sampled_out", "dead_lettered", "expired", "discarded", "lost", "before")
    given: dict[str, Any] = {**dict.fromkeys(counts, 0), "pending": 0, "parked": 0, "difference": 0, "lag_s": 0.0}
    given |= {"rate_per_s": None, "paused": False, "waiting": "", "waiting_since_ms": None}
    return DestinationStatus(name="billing", **(given | other))


@pytest.mark.parametrize("width", [80, 160])
def test_a_difference_is_red(width: int) -> None:
    """In the live table it stands out, on a narrow terminal too, and a destination keeps its name."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width, color_system="standard")
    console.print(_table(Status(7, 1.0, 100, 0, [standing(difference=2), standing(waiting="x\x1b[2Jy")])))
    text = output.getvalue()
    assert "\x1b[1;31m2\x1b[0m" in text
    assert "billing" in text
    assert "\x1b[2J" not in text
    assert "2 events are not accounted for" in text


def test_ages_are_short() -> None:
    """Seconds while they matter, then minutes, hours and days."""
    assert [_age(s) for s in (0, 0.04, 3.21, 119, 120, 7300, 259_200)] == [
        "0",
        "0.0 s",
        "3.2 s",
        "119.0 s",
        "2 min",
        "2 h",
        "3 d",
    ]
