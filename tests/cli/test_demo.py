"""`adjourn serve --demo`: real events through the real server, counted at both ends."""

from __future__ import annotations

import asyncio
import json
import math
import shlex
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from adjourn.cli.demo import Demo, destinations, percentile
from adjourn.configfile import parse
from adjourn.http.server import serve
from adjourn.node import Node
from tests.cli.conftest import Run
from tests.cli.serving import serving

pytestmark = pytest.mark.usefixtures("run", "database")


def replay(then: Callable[[str], None] = lambda url: None) -> None:
    """A demo of a fifth of a second in the working directory; `then` runs while the server still serves."""
    settings = parse({"routing": {"destinations": destinations("data")}, "server": {"port": 0}}, "test", {})
    demo = Demo(settings, replay_s=0.2)
    node = Node(settings, on_delivered=demo.on_delivered)

    async def on_ready(url: str) -> None:
        try:
            await demo.run(node, url)
            await asyncio.to_thread(then, url)
        finally:
            signal.raise_signal(signal.SIGTERM)

    asyncio.run(serve(node, on_ready=on_ready))


def arrived(directory: Path) -> tuple[list[str], list[str]]:
    """The ids at the two destinations."""
    connection = sqlite3.connect(directory / "data" / "completions.db")
    rows = [str(row[0]) for row in connection.execute("SELECT event_id FROM session_completions")]
    connection.close()
    lines = (directory / "data" / "completions.jsonl").read_text().splitlines()
    return rows, [json.loads(line)["event_id"] for line in lines]


def test_all_arrives_and_what_is_printed_can_be_pasted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """2,000 events are at both destinations, once; the summary says so, and each curl line works by itself."""
    pasted: list[str] = []

    def paste(url: str) -> None:
        told.append(capfd.readouterr().out)
        for line in told[0].splitlines():
            if line.startswith("  curl"):
                pasted.append(subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout)

    told: list[str] = []
    replay(paste if shutil.which("curl") else lambda url: told.append(capfd.readouterr().out))
    rows, lines = arrived(tmp_path)
    own = [event_id for event_id in rows if event_id.startswith("evt_demo_")]
    assert len(own) == len(set(own)) == 2000
    assert sorted(rows) == sorted(lines)
    assert "delivered     completions 2,000 · logfile 2,000" in told[0]
    assert told[0].count("2,000 captured = 2,000 delivered + 0 pending; difference 0") == 2
    if pasted:
        sent, read = (json.loads(answer) for answer in pasted)
        assert sent["accepted"] == 1
        assert read["event"]["usage"]["output_tokens"] == 890


def test_each_demo_revokes_the_key_of_the_last(run: Run) -> None:
    """After two demos there are two keys, of which only the newer is good."""
    replay()
    replay()
    listed = json.loads(run("keys", "list", "--json").out)
    assert [(key["name"], key["role"], key["revoked_at"] is None) for key in listed] == [
        ("demo", "admin", False),
        ("demo", "admin", True),
    ]


def test_a_kill_in_the_middle_loses_and_doubles_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """SIGKILL during the replay: with the next demo, all that the first had captured has arrived, each event once."""
    with serving(tmp_path, "--demo", "-s", "server.host=127.0.0.1") as server:
        server.read_until(r"captured [2-9]\d\d")
        server.process.kill()
    (spool,) = (tmp_path / "data" / "demo-spool").glob("*.jsonl")
    captured = [part.split('"', 1)[0] for part in spool.read_text().split('"event_id":"')[1:]]
    assert len(captured) > 200
    capfd.readouterr()
    replay()
    rows, lines = arrived(tmp_path)
    assert len(rows) == len(set(rows))
    assert set(captured) <= set(rows)
    assert len(rows) == len(captured) + 2000
    # A logfile may hold the batch twice that was being written when the process died: at least once, never lost.
    assert set(lines) == set(rows)
    assert capfd.readouterr().out.count("difference 0") == 2


def test_percentiles_are_nearest_ranks() -> None:
    """The 50th of 1…100 is 50, the 99th is 99; of nothing there is none."""
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, q) for q in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert math.isnan(percentile([], 0.5))


def test_the_settings_destinations_are_used(tmp_path: Path) -> None:
    """Where the settings name destinations, the demo adds none of its own."""
    (tmp_path / "adjourn.yaml").write_text("destinations: [{type: logfile, name: mine, log_path: mine.jsonl}]\n")
    with serving(tmp_path, "--demo") as server:
        assert "mine (logfile)" in server.read_until("destinations")
        assert "completions" not in "".join(server.told)


def test_the_demo_has_a_spool_of_its_own(tmp_path: Path) -> None:
    """What other programs left in their spool is not sent as the demo's tenant."""
    theirs = tmp_path / "data" / "spool"
    theirs.mkdir()
    replay()
    assert list(theirs.iterdir()) == []
    assert (tmp_path / "data" / "demo-spool").is_dir()
