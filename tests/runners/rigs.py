"""Rigs for the suite of runners, and what their tests share."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from adjourn.runner import Done, Opening, Part, RunnerConfig, Said, TextDelta, Turn, TurnEvent, TurnFailed
from adjourn.runners.command import CommandRunner, CommandSettings
from adjourn.runners.echo import EchoRunner
from adjourn.runners.sandbox import Isolation, why_no_bubblewrap
from adjourn.testing.exercise_runner import Deed

AGENT = str(Path(__file__).with_name("agent.py"))
HELPER = str(Path(__file__).parents[2] / "src" / "adjourn" / "integrations")
COMMAND = (os.path.realpath(sys.executable), "-S", AGENT)
READABLE = (sys.base_prefix, HELPER)

NO_BUBBLEWRAP = why_no_bubblewrap()
"""Why its tests are skipped; empty where they run."""


def settings(isolation: Isolation, **more: Any) -> CommandSettings:
    given: dict[str, Any] = {
        "name": "agent",
        "command": COMMAND,
        "readable": READABLE,
        "tools": ["look"],
        "options": ["deed"],
        "isolation": isolation,
        "start_timeout_ms": 60_000,
        "stop_grace_ms": 200,
        **more,
    }
    given["env"] = {"AGENT_PROGRAM": HELPER, **given.get("env", {})}
    return CommandSettings(**given)


class CommandRig:
    pids = True

    def __init__(self, isolation: Isolation, **more: Any) -> None:
        self.runner = CommandRunner(settings(isolation, stop_grace_ms=20_000, **more))
        self._before = set(children())

    def options(self, deed: Deed) -> Mapping[str, object]:
        return {"deed": deed}

    def remains(self) -> Sequence[str]:
        return [str(pid) for pid in children() if pid not in self._before]

    async def close(self) -> None:
        pass


class EchoRig:
    pids = False

    def __init__(self) -> None:
        self.runner = EchoRunner()

    def options(self, deed: Deed) -> Mapping[str, object]:
        return {
            "answer": {},
            "stream": {"reply": "{text} and so on, and on, and on", "chunks": 25, "chunk_ms": 10},
            "hang": {"hang": True},
            "fail": {"fail": {"code": "told_to"}},
            "cost": {"input_tokens": 7, "output_tokens": 3, "cost_usd": "0.0015", "chunks": 2},
            "tool": {"tools": [{"name": "look", "arguments": {"at": "sky"}, "output": ["blue"]}]},
            "count": {"reply": "{messages}"},
        }[deed]

    def remains(self) -> Sequence[str]:
        return []

    async def close(self) -> None:
        pass


def in_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Run the test in the event loop that the server has."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        uvloop.run(test(*args, **named))

    return run


def children() -> list[int]:
    """All processes below this one, and those that have lost their parent: of the tests' programs none may do that."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, parent = int(stat.parent.name), int(stat.read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(pid)
    found = list(parents.get(os.getpid(), ()))
    for pid in found:
        found += parents.get(pid, ())
    return found


def strays(words: str) -> list[int]:
    """Processes anywhere whose command line has these words."""
    found: list[int] = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in line.read_bytes() and int(line.parent.name) != os.getpid():
                found.append(int(line.parent.name))
        except OSError:
            continue
    return found


def opening(folder: Path, session_id: str = "sess_1", **config: Any) -> Opening:
    return Opening(
        tenant="org_a", session_id=session_id, config=RunnerConfig(**config), workspace=str(folder / session_id)
    )


async def nothing() -> Sequence[Said]:
    return []


def asked(text: str = "hello", *, agent: str = "", turn_id: str = "turn_1", **options: Any) -> Turn:
    said = Said(role="user", parts=[Part(type="text", text=text)], agent=agent)
    return Turn(turn_id=turn_id, said=said, history=nothing, options=options)


def text_of(events: Sequence[TurnEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def failure_of(events: Sequence[TurnEvent]) -> TurnFailed:
    *before, last = events
    assert isinstance(last, TurnFailed), last
    assert not any(isinstance(event, Done | TurnFailed) for event in before)
    return last
