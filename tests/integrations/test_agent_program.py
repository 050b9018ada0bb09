"""Writing a program that is run as an agent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

OPEN = {"type": "open", "protocol": 1, "session_id": "sess_1", "model": "m"}


def turn(text: str, number: int = 1) -> dict[str, Any]:
    said = {"role": "user", "parts": [{"type": "text", "text": text}]}
    return {
        "type": "turn", "turn_id": f"turn_{number}", "agent": "", "text": text, "message": said, "state": {},
        "options": {}, "budget_usd": None,
    }  # fmt: skip


def talk(answer: str, *lines: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """What a program that serves this function says to these lines, and its standard error."""
    source = f"from adjourn.integrations.agent_program import Failed, Turn, serve\n{answer}\nserve(answer)\n"
    given = "".join(json.dumps(line) + "\n" for line in (OPEN, *lines))
    run = subprocess.run([sys.executable, "-c", source], input=given, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()], run.stderr


def test_it_loads_nothing_else() -> None:
    """A program that serves turns pays for the standard library alone."""
    source = "import sys, adjourn.integrations.agent_program; sys.exit('msgspec' in sys.modules)"
    subprocess.run([sys.executable, "-c", source], check=True)


def test_a_function_answers_turns() -> None:
    """It may return its answer; it is ready before the first, and gone after the last."""
    said, _ = talk("def answer(turn): return f'{turn.session[\"model\"]} {turn.text}'", turn("a"), turn("b\n🦀", 2))
    assert said == [
        {"type": "ready"},
        {"type": "text_delta", "turn_id": "turn_1", "text": "m a", "agent": ""},
        {"type": "done", "turn_id": "turn_1", "stop_reason": "end_turn"},
        {"type": "text_delta", "turn_id": "turn_2", "text": "m b\n🦀", "agent": ""},
        {"type": "done", "turn_id": "turn_2", "stop_reason": "end_turn"},
    ]


def test_what_it_prints_is_no_answer() -> None:
    """Prints, also those of a process that it starts, go to standard error: the protocol stays clean."""
    said, error = talk(
        "import os\ndef answer(turn): print('printed'); os.system('echo echoed; cat'); return 'x'", turn("a")
    )
    assert [line["type"] for line in said] == ["ready", "text_delta", "done"]
    assert error.split() == ["printed", "echoed"] or error.split() == ["echoed", "printed"]


def test_an_exception_fails_the_turn_alone() -> None:
    """An exception is the turn's error, with its trace on standard error; the next turn is answered."""
    said, error = talk("def answer(turn): return str(1 // int(turn.text))", turn("0"), turn("1", 2))
    assert said[1] == {
        "type": "error", "turn_id": "turn_1", "code": "exception",
        "message": "ZeroDivisionError: integer division or modulo by zero",
    }  # fmt: skip
    assert "Traceback" in error
    assert [line["type"] for line in said[2:]] == ["text_delta", "done"]


def test_a_failure_has_a_code() -> None:
    """`Failed` gives the code, and whether trying again may help."""
    said, _ = talk("def answer(turn): raise Failed('busy', 'come back later', retryable=True)", turn("a"))
    assert said[1] == {
        "type": "error", "turn_id": "turn_1", "code": "busy", "message": "come back later", "retryable": True,
    }  # fmt: skip


def test_everything_that_can_be_said() -> None:
    """Usage, cost, tools, log lines and the history, each as the protocol has it."""
    answer = """
def answer(turn):
    turn.usage(input_tokens=3)
    turn.cost("0.01")
    call = turn.tool_call("look", {"at": "sky"})
    turn.tool_result(call, ["blue"])
    turn.log("half way")
    yield str(len(turn.history()))
"""
    said, _ = talk(answer, turn("a"), {"type": "history", "turn_id": "turn_1", "messages": [{}, {}]})
    assert [(line["type"], line.get("id"), line.get("text")) for line in said] == [
        ("ready", None, None),
        ("usage", None, None),
        ("cost", None, None),
        ("tool_call", "turn_1.1", None),
        ("tool_result", "turn_1.1", None),
        ("log", None, None),
        ("history", None, None),
        ("text_delta", None, "2"),
        ("done", None, None),
    ]


def test_an_interrupt_ends_what_is_said() -> None:
    """A function that yields stops between two pieces, whether the interrupt comes before or within its turn."""
    answer = "import itertools\ndef answer(turn):\n    for n in itertools.count(): yield str(n)"
    said, _ = talk(answer, turn("a"), {"type": "interrupt", "turn_id": "turn_1"})
    assert said[-1] == {"type": "done", "turn_id": "turn_1", "stop_reason": "interrupted"}


def test_the_file_may_be_copied(tmp_path: Path) -> None:
    """The file alone, without Adjourn, serves turns."""
    source = Path(__file__).parents[2] / "src" / "adjourn" / "integrations" / "agent_program.py"
    (tmp_path / "agent_program.py").write_text(source.read_text())
    (tmp_path / "main.py").write_text("from agent_program import serve\nserve(lambda turn: turn.text)\n")
    given = json.dumps(OPEN) + "\n" + json.dumps(turn("hi")) + "\n" + '{"type":"close"}\n'
    run = subprocess.run([sys.executable, "-S", tmp_path / "main.py"], input=given, capture_output=True, text=True)
    assert '"hi"' in run.stdout
