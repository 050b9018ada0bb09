"""`adjourn transforms`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("database")

CASE = "cases: [{event: {event_id: e, session: {session_id: s}}, filter: user.tier == null, expect: %s}]"


@pytest.fixture
def captured(run: Run, tmp_path: Path, database: Path) -> None:
    """Five events in the log."""
    lines = [
        f'{{"event_id":"e{n}","session":{{"session_id":"s{n}"}},"usage":{{"total_tokens":{n}}}}}\n' for n in range(5)
    ]
    (tmp_path / "events.ndjson").write_text("".join(lines))
    assert run("capture", "events.ndjson").code == 0


def test_the_built_ins_are_listed(run: Run) -> None:
    """By name, with what each gives."""
    assert "billing_v1" in run("transforms", "list").out
    assert [one["name"] for one in json.loads(run("transforms", "list", "--json").out)] == [
        "billing_v1", "analytics_v2", "audit_v1"
    ]  # fmt: skip


def test_cases_pass_or_fail_with_a_difference(run: Run, tmp_path: Path) -> None:
    """Exit code 0 and a line for each; 1 and what differs; 2 where the file is no file of cases."""
    (tmp_path / "good.yaml").write_text(CASE % "unchanged")
    (tmp_path / "bad.yaml").write_text(CASE % "filtered")
    (tmp_path / "none.yaml").write_text("a: 1")
    good, bad = run("transforms", "test", "good.yaml"), run("transforms", "test", "bad.yaml")
    assert (good.code, good.out.strip()) == (0, "ok  case 1")
    assert (bad.code, "FAILED  case 1" in bad.out, "-filtered" in bad.out) == (1, True, True)
    assert "0 of 1 cases passed" in bad.err
    (tmp_path / "wrong.yaml").write_text((CASE % "unchanged").replace("user.tier == null", "user.tier =="))
    wrong = run("transforms", "test", "wrong.yaml")
    assert (wrong.code, "FAILED  case 1\n    the filter, line 1" in wrong.out) == (1, True)
    assert run("transforms", "test", "none.yaml").code == 2
    assert run("transforms", "test", "missing.yaml").code == 2


@pytest.mark.usefixtures("captured")
def test_a_preview_shows_the_last_events(run: Run) -> None:
    """Sent with its new body, filtered, or failed with the reason and exit code 1; the last ones, oldest first."""
    given = run(
        "transforms",
        "preview",
        "--filter",
        "usage.total_tokens > 2",
        "--transform",
        "{'n': usage.total_tokens}",
        "-n",
        "3",
        "--json",
    )
    assert given.code == 0
    seen = json.loads(given.out)
    assert [(one["event_id"], one["outcome"]) for one in seen] == [("e2", "filtered"), ("e3", "sent"), ("e4", "sent")]
    assert seen[2]["body"]["n"] == 4
    shown = run("transforms", "preview", "--transform", "{'n': 12 / usage.total_tokens}")
    assert (shown.code, "e0  failed: " in shown.out, '"n": 3' in shown.out) == (1, True, True)
    assert "5 events: 4 sent, 0 filtered, 1 failed" in shown.err


@pytest.mark.usefixtures("captured")
def test_a_preview_takes_a_destination_s_settings(run: Run, tmp_path: Path) -> None:
    """By its name, and nothing is sent or counted."""
    (tmp_path / "adjourn.yaml").write_text(
        "destinations: [{type: logfile, log_path: out.jsonl, filter: usage.total_tokens == 4, transform: billing_v1}]"
    )
    shown = run("transforms", "preview", "--destination", "logfile")
    assert (shown.code, shown.out.count("filtered"), '"amount_usd"' in shown.out) == (0, 4, True)
    assert not (tmp_path / "out.jsonl").exists()
    assert json.loads(run("destinations", "list", "--json").out) == []
    (tmp_path / "adjourn.yaml").write_text(
        "destinations: [{type: logfile, log_path: out.jsonl, events: [session.amended], transform: billing_v1}]"
    )
    assert "0 sent, 5 filtered" in run("transforms", "preview", "--destination", "logfile").err


def test_a_preview_wants_to_know_what(run: Run) -> None:
    """Neither or both ways of saying it, an unknown destination and a wrong expression are refused."""
    assert run("transforms", "preview").code == 2
    assert run("transforms", "preview", "--destination", "a", "--filter", "true").code == 2
    assert "there is no destination a" in run("transforms", "preview", "--destination", "a").err
    assert "line 1, column" in run("transforms", "preview", "--filter", "true &&").err


def test_a_preview_of_an_empty_log_says_so(run: Run) -> None:
    """No event, no failure."""
    empty = run("transforms", "preview", "--filter", "true")
    assert (empty.code, empty.out) == (0, "")
    assert "no events yet" in empty.err
