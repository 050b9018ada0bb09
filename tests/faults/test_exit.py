"""Programs that end without stopping their runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGURED = """
import adjourn
from adjourn.settings import DestinationSettings, RoutingSettings
file = DestinationSettings(type="logfile", log_path="sessions.jsonl")
adjourn.set_runtime(adjourn.Runtime(adjourn.Settings(routing=RoutingSettings(destinations=(file,)))))
def work(number):
    with adjourn.session(session_id=f"sess_{number}"):
        pass
"""

ENDINGS = {
    "it ends": "for n in range(20): work(n)",
    "an exception": "for n in range(20): work(n)\nraise ValueError",
    "after asyncio": "import asyncio\nasync def main():\n    for n in range(20): work(n)\nasyncio.run(main())",
    "in a forked child": (
        "import os, sys\nfor n in range(10): work(n)\nadjourn.get_runtime().drain()\n"
        "if (pid := os.fork()):\n    os.waitpid(pid, 0)\nelse:\n    for n in range(10, 20): work(n)\n    sys.exit(0)"
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_that_just_ends_has_delivered_and_is_quiet(tmp_path: Path, ending: str) -> None:
    """Nobody called stop: what was captured is at the destination, the spool is empty, and nothing was printed."""
    command = [sys.executable, "-c", CONFIGURED + ENDINGS[ending]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    said = done.stderr.splitlines()
    assert (said[-1:], done.returncode) == ((["ValueError"], 1) if ending == "an exception" else ([], 0)), done.stderr
    assert "adjourn" not in done.stderr
    assert len((tmp_path / "sessions.jsonl").read_text().splitlines()) == 20
    assert list((tmp_path / "data" / "spool").glob("*.jsonl")) == []


LEFT_RUNNING = """
import threading, time
def burst():
    for number in range(20):
        work(number)
        time.sleep(0.02)
threading.Thread(target=burst).start()
time.sleep(0.1)
"""


def test_threads_that_outlive_the_main_one_go_on_capturing(tmp_path: Path) -> None:
    """Delivery ends with the main thread, capture does not: the rest is in the spool, and the next start has it."""
    for program in (LEFT_RUNNING, "runtime = adjourn.get_runtime(); runtime.start(); runtime.drain()"):
        command = [sys.executable, "-c", CONFIGURED + program]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines()]
    assert sorted(line["session"]["session_id"] for line in lines) == sorted(f"sess_{n}" for n in range(20))
