"""The lines of the runner protocol."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from adjourn.runner import Cost, Done, RunnerConfig, TextDelta, ToolCall, Turn, TurnFailed, Usage
from adjourn.runners.jsonlines import Fault, HistoryWanted, Log, Ready, open_line, read, turn_line
from tests.runners.rigs import asked, opening


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"type":"ready"}', Ready()),
        ('{"type":"ready","later_field":{"a":[1]}}', Ready()),
        ('{"type":"log","message":"m","level":"warning"}', Log(message="m", level="warning")),
        ('{"type":"history"}', HistoryWanted()),
        ('{"type":"text_delta","text":"a","agent":"ann"}', TextDelta("a", "ann")),
        (' {"text":"a" , "type":"text_delta","turn_id":"t"}\r', TextDelta("a")),
        ('{"type":"tool_call","id":"1","name":"n"}', ToolCall("1", "n")),
        ('{"type":"usage","input_tokens":3}', Usage(input_tokens=3)),
        ('{"type":"cost","usd":"0.0015"}', Cost(1_500_000)),
        ('{"type":"cost","usd":0.000000001}', Cost(1)),
        ('{"type":"error","code":"c","message":"m","retryable":true}', TurnFailed("c", "m", True)),
        ('{"type":"done"}', Done()),
        ('{"type":"text_delta","text":"\\"turn_id\\""}', TextDelta('"turn_id"')),
        ('{"type":"done","turn_id":"an earlier one"}', None),
    ],
)
def test_lines_are_read(line: str, said: object) -> None:
    """Each kind of line is the event that it says; what is not known in it is ignored, and so is another turn's."""
    assert read(line.encode(), "t") == said


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"{}",
        b"[]",
        b'"done"',
        b'{"type":"done"',
        b'{"type":"done"},"x":1',
        b'{"type":"turn"}',
        b'{"type":"text_delta"}',
        b'{"type":"text_delta","text":1}',
        b'{"type":"text_delta","text":"\xff"}',
        b'{"type":"done","stop_reason":"bored"}',
        b'{"type":"tool_call","id":"1","name":"n","arguments":[]}',
        b'{"type":"usage","input_tokens":-1}',
        b'{"type":"usage","input_tokens":1e300}',
        b'{"type":"cost","usd":"-0.1"}',
        b'{"type":"cost","usd":"NaN"}',
        b'{"type":"cost","usd":"1e30"}',
        b'{"type":"done","turn_id":7}',
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    """What the protocol does not know is refused, and the message shows it."""
    with pytest.raises(Fault) as fault:
        read(line, "t")
    assert fault.value.event.code == "protocol_error"
    assert "mend" in fault.value.event.message


def test_a_session_is_told_whole() -> None:
    """The first line says who, where and how; it and a turn's are one line each, whatever is in them."""
    config = {"model": "m", "system_prompt": "line\nline\u2028", "allowed_tools": ["look"], "options": {"a": 1, "b": 2}}
    first = open_line(opening(Path("/w"), **config), "/w/sess_1")
    assert first.count(b"\n") == 1
    assert msgspec.json.decode(first) == {
        "type": "open", "protocol": 1, "tenant": "org_a", "session_id": "sess_1", "user_id": "", "max_turns": None,
        "workspace": "/w/sess_1", "agents": [], "max_output_tokens": 4096, **config,
    }  # fmt: skip
    given = asked("a\nb", agent="ann", b=3)
    turn = Turn(turn_id="t", said=given.said, history=given.history, options=given.options, budget_nanousd=1_500_000)
    assert msgspec.json.decode(turn_line(turn, RunnerConfig(**config))) == {
        "type": "turn", "turn_id": "t", "agent": "ann", "text": "a\nb", "state": {}, "options": {"a": 1, "b": 3},
        "message": {"role": "user", "parts": [{"type": "text", "text": "a\nb"}], "agent": "ann"},
        "budget_usd": "0.001500000",
    }  # fmt: skip
