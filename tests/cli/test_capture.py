"""`adjourn capture`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from adjourn.cli.capture import BATCH_BYTES, LINE_BYTES_MAX, Lines, batches
from adjourn.errors import ConfigInvalid
from tests.cli.conftest import Run
from tests.cli.serving import serving

pytestmark = pytest.mark.usefixtures("database")


def events(count: int, model: str = "gpt-4o") -> str:
    return "".join(
        json.dumps({"event_id": f"evt_{n}", "session": {"session_id": f"s_{n}"}, "usage": {"model": model}}) + "\n"
        for n in range(count)
    )


def test_a_file_sent_twice_is_not_doubled(run: Run, tmp_path: Path) -> None:
    """The second time all events are duplicates, and both times the exit code is 0."""
    (tmp_path / "events.ndjson").write_text(events(1200))
    first = run("capture", "events.ndjson")
    assert (first.code, first.out) == (0, "1,200 events: 1,200 accepted, 0 duplicate, 0 conflict, 0 invalid\n")
    again = run("capture", "events.ndjson")
    assert (again.code, again.out) == (0, "1,200 events: 0 accepted, 1,200 duplicate, 0 conflict, 0 invalid\n")


def test_a_producer_is_exact_whatever_the_content(run: Run, tmp_path: Path) -> None:
    """With --producer the n-th event is taken once: it is known by its number, not by its id or content."""
    (tmp_path / "events.ndjson").write_text(events(5))
    (tmp_path / "other.ndjson").write_text(events(6).replace("evt_", "evt_other_"))
    assert "5 accepted" in run("capture", "events.ndjson", "--producer", "p").out
    assert run("capture", "other.ndjson", "--producer", "p").out.startswith("6 events: 1 accepted, 5 duplicate")


def test_what_is_refused_is_told_by_its_line(run: Run, tmp_path: Path) -> None:
    """Blank lines count for line numbers and for nothing else; refusals and conflicts make the exit code 1."""
    good, conflicting = events(1), events(1, model="other")
    (tmp_path / "mixed.ndjson").write_text(f"\n{good}\n{conflicting}oops\n")
    done = run("capture", "mixed.ndjson")
    assert (done.code, done.out) == (1, "3 events: 1 accepted, 0 duplicate, 1 conflict, 1 invalid\n")
    where, *problems = done.err.splitlines()
    assert where == "into sqlite:///data/adjourn.db, tenant default; --url sends to a server"
    assert problems[0].startswith("line 4: conflict: event_id: ")
    assert problems[1].startswith("line 5: invalid: ")
    assert "adjourn quarantine list" in problems[2]


def test_standard_input_is_a_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads standard input, and --tenant says whose the events are."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(events(3).encode())))
    assert run("capture", "-", "--tenant", "acme").out.startswith("3 events: 3 accepted")


def test_a_file_that_is_not_there_is_an_error(run: Run) -> None:
    """It ends with one line and exit code 2."""
    done = run("capture", "none.ndjson")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("adjourn: none.ndjson cannot be read")


def test_events_go_to_a_server(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --url and $ADJOURN_KEY a file goes to a server, exact if its producer is named; a wrong key ends it."""
    (tmp_path / "events.ndjson").write_text(events(700))
    monkeypatch.setenv("ADJOURN_KEY", run("keys", "create", "--role", "writer").out.strip())
    with serving(tmp_path) as server:
        monkeypatch.setenv("ADJOURN_URL", server.url)
        assert run("capture", "events.ndjson", "--producer", "p").out.startswith("700 events: 700 accepted")
        assert run("capture", "events.ndjson", "--producer", "p").out.startswith("700 events: 0 accepted, 700 dup")
        monkeypatch.setenv("ADJOURN_KEY", "adj_wrong")
        assert run("capture", "events.ndjson").code == 2


def split(text: bytes) -> list[Lines]:
    return list(batches(io.BytesIO(text)))


def test_batches_are_bounded() -> None:
    """At most 500 events and 1 MB, unless a single event is larger; nothing is lost between them."""
    text = b"".join(b"%07d\n" % n for n in range(1201))
    assert [len(lines.events) for lines in split(text)] == [500, 500, 201]
    assert b"".join(e + b"\n" for lines in split(text) for e in lines.events) == text
    big = b"x" * (BATCH_BYTES - 1)
    assert [lines.numbers for lines in split(big + b"\ny\nz\n" + big + big)] == [[1, 2], [3], [4]]


def test_line_numbers_are_those_of_the_file() -> None:
    """Blank lines, carriage returns and a missing last newline change no number."""
    assert [(lines.events, lines.numbers) for lines in split(b"\r\n a\r\n\n\nb")] == [([b"a", b"b"], [2, 5])]
    assert split(b"") == split(b"\n \n") == []


def test_a_line_without_end_is_refused() -> None:
    """What is no NDJSON is refused by its line before it fills the memory."""
    with pytest.raises(ConfigInvalid, match="line 2 is longer"):
        split(b"a\n" + b"x" * (LINE_BYTES_MAX + 1))
