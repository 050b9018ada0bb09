"""`adjourn quarantine`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("database")

EVENT = '{"session": {"session_id": "s"}, "metadata": {"source": "elsewhere"}}'
ONLY_HERE = ("-s", "capture.sources=[here]")


@pytest.fixture
def entry_id(run: Run, tmp_path: Path) -> str:
    """One event that was refused because of a setting."""
    (tmp_path / "events.ndjson").write_text(EVENT + "\n")
    assert run("capture", "events.ndjson", *ONLY_HERE).code == 1
    (entry,) = json.loads(run("quarantine", "list", "--json").out)
    return entry["id"]


def test_what_was_refused_is_listed_and_shown_whole(run: Run, entry_id: str) -> None:
    """The list names the reason, and show gives back the bytes as they were sent, alone on standard output."""
    listed = run("quarantine", "list").out
    assert entry_id in listed
    assert "metadata.source" in listed
    shown = run("quarantine", "show", entry_id)
    assert shown.out == EVENT + "\n"
    assert "source_refused" in shown.err
    assert json.loads(run("quarantine", "show", entry_id, "--json").out)["body"] == EVENT


def test_a_retry_works_under_the_settings_of_now(run: Run, entry_id: str) -> None:
    """What is refused again stays held, exit code 1; once the setting is mended, it is accepted."""
    again = run("quarantine", "retry", entry_id, *ONLY_HERE)
    assert (again.code, "invalid" in again.out) == (1, True)
    mended = run("quarantine", "retry", "--all")
    assert (mended.code, "accepted" in mended.out) == (0, True)
    assert json.loads(run("quarantine", "list", "--json").out) == []
    assert [e["id"] for e in json.loads(run("quarantine", "list", "--accepted", "--json").out)] == [entry_id]


def test_retry_wants_to_know_what(run: Run) -> None:
    """Neither an id nor --all, or both, is refused; so is an id that is not there."""
    assert run("quarantine", "retry").code == 2
    assert run("quarantine", "retry", "qrn_1", "--all").code == 2
    assert run("quarantine", "retry", "qrn_1").code == 2
    assert run("quarantine", "show", "qrn_1").code == 2


def test_pages_follow_each_other(run: Run, tmp_path: Path) -> None:
    """--limit and --before walk through all entries, each once."""
    (tmp_path / "bad.ndjson").write_text("".join(f"bad {n}\n" for n in range(5)))
    assert run("capture", "bad.ndjson").code == 1
    seen: list[str] = []
    while page := json.loads(run("quarantine", "list", "--limit", "2", "--json", "--before", "".join(seen[-1:])).out):
        seen += [entry["id"] for entry in page]
    assert (len(seen), len(set(seen))) == (5, 5)
