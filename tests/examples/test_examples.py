"""The programs of examples/, as a user runs them; and what the log has of them afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from adjourn.node import Node
from adjourn.settings import Settings
from adjourn.testing.account import bodies

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/__main__.py"))

pytestmark = pytest.mark.timeout(400)  # several starts of a server, on a machine that may be slow


def run(data: Path, example: str, *arguments: str) -> str:
    """What it printed. It writes to `data`, and to no other place."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ADJOURN_")}
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{example}", *arguments],
        cwd=ROOT,
        env={**env, "ADJOURN_DATA_DIR": str(data)},
        capture_output=True,
        text=True,
        check=False,
        timeout=350,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{(data / 'server.log').read_text()}"
    return done.stdout


def completions(data: Path) -> dict[str, str]:
    """Session → how it ended, of all that the log has; that each ended once is asserted here."""

    async def read() -> list[bytes]:
        node = Node(Settings(data_dir=str(data)))
        await node.open()
        try:
            return await bodies(node)
        finally:
            await node.close()

    events = [json.loads(body) for body in asyncio.run(read())]
    ended = [event for event in events if event["event_type"] == "session.completed"]
    assert set(Counter(event["session"]["session_id"] for event in ended).values()) <= {1}
    return {event["session"]["session_id"]: event["outcome"]["status"] for event in ended}


def test_bug_fix(tmp_path: Path) -> None:
    """A failing test passes after a turn whose steps are real; the session completes itself, with usage and cost."""
    said = run(tmp_path, "bug_fix")
    assert re.findall(r"^(\w+)\(|^  the tests (\w+)", said, re.MULTILINE) == [
        ("checkout", ""), ("run_tests", ""), ("", "fail"), ("read_file", ""), ("read_file", ""), ("edit_file", ""),
        ("run_tests", ""), ("", "pass"),
    ]  # fmt: skip
    assert "completed: 6 tool calls, 7,560 tokens, 0.0216 USD" in said
    assert re.search(r"^completion evt_\w+: success, 7560 tokens, 0.0216 USD$", said, re.MULTILINE)
    assert said.endswith("in our repository: OK\n")
    assert list(completions(tmp_path).values()) == ["success"]


def test_email_monitor(tmp_path: Path) -> None:
    """Each mail wakes the session, once: it is filed, answered or archived, and paid for; then the session is ended."""
    said = run(tmp_path, "email_monitor")
    for did in ("'Invoice 1207' from billing@paper.example: filed", "open?' from anna@customer.example: answered"):
        assert said.count(did) == 1
    assert said.count(": archived") == 1
    assert re.search(r"^terminated: [234] turns, 0.0063 USD$", said, re.MULTILINE)
    assert list(completions(tmp_path).values()) == ["user_terminated"]


def test_project_manager(tmp_path: Path) -> None:
    """Plan, state and conversation outlive a stop and a SIGKILL of the server; each of both sessions ends once."""
    said = run(tmp_path, "project_manager")
    assert "the server was killed, and is back --\n  resumed: active\n" in said
    assert "Sprint 2: order the wood (messages before: 2)" in said
    assert "completed: 3 turns, 6 messages" in said
    assert "goes on with its 6 messages, in sprint 2" in said
    assert list(completions(tmp_path).values()) == ["success", "success"]


def test_simulation(tmp_path: Path) -> None:
    """Three agents talk to each other in one process, each with an account; together they are the session's."""
    said = run(tmp_path, "simulation")
    assert "Sold for 80 euros, to which the seller agreed." in said
    assert "3 agents in 1 process" in said
    used = [tuple(map(float, row)) for row in re.findall(r": (\d+) turns, (\d+) tokens, ([\d.]+) USD", said)]
    assert len(used) == 4
    assert [sum(column) for column in zip(*used[:3], strict=True)] == pytest.approx(used[3])
    assert list(completions(tmp_path).values()) == ["success"]


def test_monitor(tmp_path: Path) -> None:
    """The table has the sessions that live, with what they have used, and a sum of all."""
    said = run(tmp_path, "monitor", "--once")
    assert "3 of 4 sessions live, 0.004 USD in all" in said
    assert len(re.findall(r"│ hybrid +│ idle +│ 1 +│ 8 +│ 0.002 ", said)) == 2
    assert "Count to one" not in said


def test_cleanup(tmp_path: Path) -> None:
    """It shows what it would do, and does it only then; what has another tag stays."""
    shown = run(tmp_path, "cleanup", "--quiet-s", "0", "--ended-s", "0", "--tag", "shop")
    assert shown.endswith("2 to end, 2 to delete; --yes does it\n")
    assert list(completions(tmp_path).values()) == ["success", "success"]

    done = run(tmp_path, "cleanup", "--quiet-s", "0", "--ended-s", "0", "--tag", "shop", "--yes")  # it adds as many
    assert done.count("\nended ") + done.startswith("ended ") == 4
    assert done.count("\ndeleted ") == 4
    assert "Somebody else's" not in shown + done
    assert Counter(completions(tmp_path).values()) == {"success": 4, "user_terminated": 4}


def test_all_are_described() -> None:
    """examples/README.md has each example, and no other; each has its test here."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "examples" / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == EXAMPLES
    assert [name for name in EXAMPLES if f"test_{name}" not in globals()] == []
