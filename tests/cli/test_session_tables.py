"""Tables of sessions on terminals of several widths, and events as lines."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from rich.console import Console

from adjourn.cli.session_tables import HEADS, age, line_of, table, usd
from adjourn.sdk import SessionEvent

ROW = ("sess_" + "a" * 30, "a name that is rather long", "long_running", "terminated", "12", "3,456", "$1.25", "12 min")


@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (130, list(HEADS)),
        (80, ["ID", "NAME", "STATUS", "TURNS", "COST", "ACTIVE"]),
        (64, ["ID", "STATUS", "TURNS", "COST"]),
    ],
)
def test_a_table_fits_its_terminal(columns: int, heads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The least important columns go first; what is left is whole, but for the name."""
    monkeypatch.setenv("COLUMNS", str(columns))
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(table(HEADS, [ROW, ROW]))
    lines = captured.get().splitlines()
    assert len(lines) == 3
    assert lines[0].split() == heads
    assert max(map(len, lines)) <= columns
    for head, cell in zip(HEADS, ROW, strict=True):
        if head in heads and head != "NAME":
            assert cell in lines[1]


def test_an_empty_column_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no session has a name, nothing is kept free for it; control characters are shown, not obeyed."""
    monkeypatch.setenv("COLUMNS", "130")
    made = table(HEADS, [(ROW[0], "", "\x1b[2J", *ROW[3:])])
    assert [column.header for column in made.columns] == [head for head in HEADS if head != "NAME"]
    assert "\x1b" not in str([str(cell) for cell in made.columns[1].cells])


def test_amounts_and_ages() -> None:
    """Exact, without zeros at the end; the unit that says enough."""
    assert [usd(Decimal(each)) for each in ("0", "1.50", "100", "0.000000001")] == [
        "$0",
        "$1.5",
        "$100",
        "$0.000000001",
    ]
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    ats = [
        "2026-11-21T12:00:01Z",
        "2026-11-21T11:59:57Z",
        "2026-11-21T11:30:00Z",
        "2026-11-21T02:00:00Z",
        "2026-11-01T12:00:00Z",
    ]
    assert [age(at, now) for at in ats] == ["0 s", "3 s", "30 min", "10 h", "20 d"]


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("status_changed", b'{"from":"active","to":"idle","reason":"turn_ended"}', "active -> idle (turn_ended)"),
        ("turn_began", b'{"number":2,"agent":"a","trigger":"tick"}', "#2 a by tick"),
        ("text_delta", b'{"text":"a\\nb\\u001b"}', "a\\nb\\x1b"),
        ("tool_call", b'{"id":"1","name":"look","arguments":{"at":1}}', 'look {"at":1}'),
        ("tool_result", b'{"id":"1","output":[2],"is_error":true}', "failed: [2]"),
        ("usage", b'{"input_tokens":1000}', "1,000 in, 0 out"),
        ("cost", b'{"cost_usd":"0.250"}', "$0.25"),
        ("error", b'{"code":"c","message":"m"}', "c: m"),
        ("completed", b'{"event_id":"evt_1","outcome":"error","error_code":"abandoned"}', "error  abandoned  evt_1"),
        ("of_tomorrow", b'{"x":1}', '{"x":1}'),
    ],
)
def test_an_event_is_a_line(kind: str, data: bytes, said: str) -> None:
    """Number, time, type, and what it brings; on one line, whatever is in it."""
    event = SessionEvent(seq=7, type=kind, at="2026-11-21T20:22:54.219Z", data=msgspec.Raw(data))
    line = line_of(event)
    assert line.split(None, 3) == ["7", "20:22:54.219", kind, said]
