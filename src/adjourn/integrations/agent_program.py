"""Write a program that Adjourn runs as an agent: `serve(answer)` speaks the runner protocol for a plain function.

    from adjourn.integrations.agent_program import Turn, serve

    def answer(turn: Turn) -> str:
        return f"You said {turn.text}"

    serve(answer)

The function returns its answer, or yields it in pieces. Only the standard library is used, and nothing else of Adjourn:
the file may be copied. What the program prints goes to standard error, since the protocol needs its standard output.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, TextIO

Answer = Callable[["Turn"], str | Iterator[str] | None]
Line = Mapping[str, Any]


class Failed(Exception):
    """Raise it to fail the turn with a code of your own."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.retryable = code, message, retryable


class Turn:
    """What a turn is asked for, and what can be said in it."""

    def __init__(self, line: Line, session: Line, program: _Program) -> None:
        self.id: str = line["turn_id"]
        self.text: str = line["text"]
        """The text of the message."""
        self.agent: str = line["agent"]
        """To whom it was said, where a session has several agents."""
        self.message: Line = line["message"]
        """Role and parts."""
        self.state: Line = line["state"]
        self.options: Line = line["options"]
        self.budget_usd: str | None = line["budget_usd"]
        self.session = session
        """Of the `open` line: session_id, model, system_prompt, allowed_tools, agents …"""
        self.interrupted = False
        """Stop soon, and return."""
        self._program = program
        self._calls = 0

    def say(self, text: str, *, agent: str = "") -> None:
        """A piece of the answer."""
        self._line("text_delta", text=text, agent=agent)

    def usage(self, *, agent: str = "", model: str = "", **tokens: int) -> None:
        """Since the last call: input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens and
        reasoning_tokens."""
        self._line("usage", agent=agent, model=model, **tokens)

    def cost(self, usd: str, *, agent: str = "") -> None:
        """Spent since the last call, as decimal text."""
        self._line("cost", usd=usd, agent=agent)

    def tool_call(self, name: str, arguments: Mapping[str, Any], *, agent: str = "") -> str:
        """Say that a tool is called; its id, for the result."""
        self._calls += 1
        call = f"{self.id}.{self._calls}"
        self._line("tool_call", id=call, name=name, arguments=arguments, agent=agent)
        return call

    def tool_result(self, call: str, output: Any, *, is_error: bool = False, agent: str = "") -> None:
        self._line("tool_result", id=call, output=output, is_error=is_error, agent=agent)

    def log(self, message: str, *, level: str = "info") -> None:
        """For the server's log: debug, info, warning or error."""
        self._line("log", message=message, level=level)

    def history(self) -> list[dict[str, Any]]:
        """The conversation before this turn, oldest first. Once a turn."""
        self._line("history")
        return self._program.histories.get()

    def _line(self, kind: str, **fields: Any) -> None:
        self._program.say({"type": kind, "turn_id": self.id, **fields})


class _Program:
    def __init__(self, lines: TextIO, answers: TextIO) -> None:
        self._lines, self._answers = lines, answers
        self._turns: SimpleQueue[Line | None] = SimpleQueue()
        self._turn: Turn | None = None
        self._interrupted = ""
        self.histories: SimpleQueue[list[dict[str, Any]]] = SimpleQueue()

    def say(self, line: Line) -> None:
        self._answers.write(json.dumps(line) + "\n")
        self._answers.flush()

    def run(self, answer: Answer) -> None:
        session: Line = json.loads(self._lines.readline() or '{"type": "close"}')
        if session["type"] != "open":
            return
        threading.Thread(target=self._listen, daemon=True).start()
        self.say({"type": "ready"})
        while (line := self._turns.get()) is not None:
            turn = self._turn = Turn(line, session, self)
            turn.interrupted = self._interrupted == turn.id
            self.say({**self._answer(answer, turn), "turn_id": turn.id})

    def _answer(self, answer: Answer, turn: Turn) -> Line:
        try:
            said = answer(turn)
            for piece in (said,) if isinstance(said, str) else said or ():
                if piece:
                    turn.say(piece)
                if turn.interrupted:
                    break
        except Failed as failed:
            return {"type": "error", "code": failed.code, "message": failed.message, "retryable": failed.retryable}
        except Exception as error:
            traceback.print_exc()
            return {"type": "error", "code": "exception", "message": f"{type(error).__name__}: {error}"}
        return {"type": "done", "stop_reason": "interrupted" if turn.interrupted else "end_turn"}

    def _listen(self) -> None:
        for text in self._lines:
            line: Line = json.loads(text)
            if line["type"] == "turn":
                self._turns.put(line)
            elif line["type"] == "history":
                self.histories.put(line["messages"])
            elif line["type"] == "interrupt":
                self._interrupted = line["turn_id"]
                if self._turn is not None and self._turn.id == self._interrupted:
                    self._turn.interrupted = True
            elif line["type"] == "close":
                break
        self._turns.put(None)
        self.histories.put([])  # whoever waits for one will not get it


def serve(answer: Answer) -> None:
    """Answer turns until the session closes."""
    lines = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        _Program(lines, answers).run(answer)
    except BrokenPipeError:
        os._exit(0)  # the server has gone; there is nobody to tell
