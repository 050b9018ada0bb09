"""What lists look like."""

from __future__ import annotations

import pytest

from adjourn.cli.output import print_columns, reason


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Each column is as wide as its widest cell, and lines end without spaces."""
    print_columns(("ID", "NAME"), [("1", "a"), ("long-id", "")])
    assert capsys.readouterr().out == "ID       NAME\n1        a\nlong-id\n"


def test_control_characters_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What a sender put into an event cannot move the cursor or forge a line."""
    print_columns(("NAME",), [("\x1b[2Jx\ny",)])
    assert capsys.readouterr().out == "NAME\n\\x1b[2Jx\\ny\n"


def test_a_reason_names_its_path_once() -> None:
    """The path stands in front, unless the message has it."""
    assert reason("a.b", "a.b is no number", "send one") == "a.b is no number; send one"
    assert reason("event_id", "it was taken", "take another") == "event_id: it was taken; take another"
