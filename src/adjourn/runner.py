"""The contract of a runner: what executes a turn of a hosted session. `adjourn.testing.exercise_runner` is its suite.

A runner knows nothing of limits, money or the database: it is asked for a turn and tells what happens in it, as a
stream of events that ends with `Done` or `TurnFailed`. What it holds open between turns (a process, a connection) is
its own, one for each session that it was asked to open, and is gone when `close` returns.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

Role = Literal["user", "assistant", "system", "tool"]
StopReason = Literal["end_turn", "max_tokens", "max_turns", "interrupted"]


# --- what is said ----------------------------------------------------------------------------------------------------


class Part(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """One part of a message. `text` for text and reasoning; `id`, `name` and `arguments` (a JSON object) for a tool
    call; `id`, `output` (any JSON) and `is_error` for its result; `url` and `media_type` for an image or attachment."""

    type: Literal["text", "image", "tool_call", "tool_result", "reasoning", "attachment"]
    text: str = ""
    id: str = ""
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"")
    output: msgspec.Raw = msgspec.Raw(b"")
    is_error: bool = False
    url: str = ""
    media_type: str = ""


class Said(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A message as a runner reads it, and as it gives new ones."""

    role: Role
    parts: Sequence[Part]
    agent: str = ""
    """Which of several agents said it, or was spoken to."""


# --- what happens in a turn ------------------------------------------------------------------------------------------


class TextDelta(msgspec.Struct, frozen=True, tag="text_delta", tag_field="type", omit_defaults=True):
    """A piece of the answer."""

    text: str
    agent: str = ""


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call", tag_field="type", omit_defaults=True):
    """`arguments` is a JSON object."""

    id: str
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    agent: str = ""


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result", tag_field="type", omit_defaults=True):
    """`output` is any JSON value."""

    id: str
    output: msgspec.Raw = msgspec.Raw(b"null")
    is_error: bool = False
    agent: str = ""


class Usage(msgspec.Struct, frozen=True, tag="usage", tag_field="type", omit_defaults=True, kw_only=True):
    """Tokens used since the last such event. `input_tokens` includes the cached ones. `model`: which, where that is not
    the session's own."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    reasoning_tokens: int = 0
    model: str = ""
    agent: str = ""


class Cost(msgspec.Struct, frozen=True, tag="cost", tag_field="type", omit_defaults=True):
    """What was spent since the last such event, where the runner knows it better than the price table: a turn that
    brings one is not priced by its tokens."""

    nanousd: int
    agent: str = ""


class TurnFailed(msgspec.Struct, frozen=True, tag="error", tag_field="type", omit_defaults=True):
    """The last event of a turn that failed: fact and remedy. `retryable`: the same turn may succeed later."""

    code: str
    message: str
    retryable: bool = False


class Done(msgspec.Struct, frozen=True, tag="done", tag_field="type", omit_defaults=True):
    """The last event of a turn that succeeded. `text` is the whole answer, where it is not that of the deltas."""

    stop_reason: StopReason = "end_turn"
    text: str = ""


TurnEvent = TextDelta | ToolCall | ToolResult | Usage | Cost | TurnFailed | Done


# --- what a runner is given ------------------------------------------------------------------------------------------


class Agent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of several agents that share a session's runner and workspace."""

    name: str
    system_prompt: str = ""
    model: str = ""
    allowed_tools: Sequence[str] | None = None
    """None: the session's."""


class RunnerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a session wants its turns run. `max_turns` bounds the steps that an agent takes by itself within one turn;
    `options` are the runner's own, and it checks them."""

    model: str = ""
    system_prompt: str = ""
    allowed_tools: Sequence[str] = ()
    max_turns: int | None = None
    max_output_tokens: int = 4_096
    agents: Sequence[Agent] = ()
    options: Mapping[str, object] = {}


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """A session to be opened. `workspace` is the folder that is its own, made by whoever needs it."""

    tenant: str
    session_id: str
    config: RunnerConfig
    workspace: str
    user_id: str = ""


History = Callable[[], Awaitable[Sequence[Said]]]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn is asked for. `history` reads the conversation before it, oldest first, when it is needed."""

    turn_id: str
    said: Said
    history: History
    state: Mapping[str, object] = {}
    options: Mapping[str, object] = {}
    """Over those of the session, for this turn."""
    budget_nanousd: int | None = None
    """What is left to spend, as far as anybody knows at its beginning; None: no limit."""


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a runner can tell of a session that it holds open."""

    pid: int | None = None
    """Of the process (group) that runs it."""
    isolation: Sequence[str] = ()
    """What confines it: `bubblewrap`, `cgroup2`, `rlimits` …"""


class Runner(Protocol):
    """Turns of one session come one after another, those of several sessions at once."""

    def check(self, config: RunnerConfig) -> None:
        """Raises RunnerRefused, with the path within the config, for a model, tool or option that is not there."""
        ...

    async def open(self, opening: Opening) -> None:
        """Prepare for turns. Raises RunnerFailed. Idempotent. What it holds for the session until `close` is bounded by
        the session, never by the turn."""
        ...

    def turn(self, session_id: str, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        """Run a turn of an open session. Its last event is `Done` or `TurnFailed`; closing the generator early ends the
        turn, and nothing of it goes on when that returns."""
        ...

    async def interrupt(self, session_id: str) -> None:
        """Ask the turn to end soon, by itself: it ends with `Done("interrupted")`. Nothing where none runs."""
        ...

    def facts(self, session_id: str) -> Facts | None:
        """Of a session that is open; None of another."""
        ...

    async def archive(self, session_id: str, workspace: str, *, bytes_max: int) -> bytes | None:
        """The session's workspace, compressed; None where it has none. Raises RunnerFailed if it is larger."""
        ...

    async def restore(self, workspace: str, archive: bytes) -> None:
        """Fill a new workspace from an archive that `archive` made. Raises RunnerFailed."""
        ...

    async def close(self, session_id: str, workspace: str = "") -> None:
        """Release everything that the session holds; with `workspace`, that too. Bounded, idempotent, complete on
        return, and never raises for what has gone already."""
        ...
