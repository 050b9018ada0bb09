"""The protocol between the server and a program that is run as an agent: one JSON object a line. Pure.

docs/reference/runner-protocol.md is its reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal, cast

import msgspec

from adjourn import typed
from adjourn.runner import (
    Agent,
    Cost,
    Done,
    Opening,
    RunnerConfig,
    Said,
    TextDelta,
    ToolCall,
    ToolResult,
    Turn,
    TurnEvent,
    TurnFailed,
    Usage,
)

VERSION = 1
COUNT_MAX = 2**53
USD_MAX = 1_000_000
NANO = 1_000_000_000
SHOWN = 200
"""Of a line that is refused, in characters."""


class Fault(Exception):
    """The program breaks the protocol, or its limits, or has gone: what its turn fails with."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.event = TurnFailed(code, message, retryable)


# --- from the server -------------------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open", tag_field="type"):
    """The first line."""

    protocol: int
    tenant: str
    session_id: str
    user_id: str
    workspace: str
    model: str
    system_prompt: str
    allowed_tools: Sequence[str]
    max_turns: int | None
    max_output_tokens: int
    agents: Sequence[Agent]
    options: Mapping[str, object]


class TurnLine(msgspec.Struct, frozen=True, kw_only=True, tag="turn", tag_field="type"):
    """Begin a turn. `text`: the message's text parts; `agent`: to whom."""

    turn_id: str
    agent: str
    text: str
    message: Said
    state: Mapping[str, object]
    options: Mapping[str, object]
    budget_usd: str | None


class Conversation(msgspec.Struct, frozen=True, kw_only=True, tag="history", tag_field="type"):
    """What was asked for."""

    turn_id: str
    messages: Sequence[Said]


class Interrupt(msgspec.Struct, frozen=True, kw_only=True, tag="interrupt", tag_field="type"):
    turn_id: str


class Close(msgspec.Struct, frozen=True, tag="close", tag_field="type"):
    """Nothing follows."""


def open_line(opening: Opening, workspace: str) -> bytes:
    config: RunnerConfig = opening.config
    return line(
        Open(
            protocol=VERSION,
            tenant=opening.tenant,
            session_id=opening.session_id,
            user_id=opening.user_id,
            workspace=workspace,
            model=config.model,
            system_prompt=config.system_prompt,
            allowed_tools=config.allowed_tools,
            max_turns=config.max_turns,
            max_output_tokens=config.max_output_tokens,
            agents=config.agents,
            options=config.options,
        )
    )


def turn_line(turn: Turn, config: RunnerConfig) -> bytes:
    budget = turn.budget_nanousd
    return line(
        TurnLine(
            turn_id=turn.turn_id,
            agent=turn.said.agent,
            text="".join(part.text for part in turn.said.parts if part.type == "text"),
            message=turn.said,
            state=turn.state,
            options={**config.options, **turn.options},
            budget_usd=None if budget is None else f"{Decimal(budget) / NANO:.9f}",
        )
    )


def line(said: msgspec.Struct) -> bytes:
    return msgspec.json.encode(said) + b"\n"


# --- from the program ------------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field="type"):
    """The first line: turns may come."""


class Log(msgspec.Struct, frozen=True, kw_only=True, tag="log", tag_field="type"):
    """For the server's log."""

    message: str
    level: Literal["debug", "info", "warning", "error"] = "info"


class HistoryWanted(msgspec.Struct, frozen=True, tag="history", tag_field="type"):
    """Send the conversation before this turn."""


class CostLine(msgspec.Struct, frozen=True, kw_only=True, tag="cost", tag_field="type"):
    """Spent since the last such line."""

    usd: Decimal
    agent: str = ""


ProgramLine = Ready | Log | HistoryWanted | CostLine | TextDelta | ToolCall | ToolResult | Usage | TurnFailed | Done


class Heading(msgspec.Struct, frozen=True):
    """What may stand in any line from a program: which turn it belongs to."""

    turn_id: str = ""


OF_AGENTS = (TextDelta, ToolCall, ToolResult, Usage, Cost)
"""Events that say which agent they are of."""

_PROGRAM_LINE = cast("type[ProgramLine]", ProgramLine)


def read(text: bytes, turn_id: str) -> Ready | Log | HistoryWanted | TurnEvent | None:
    """None for a line of another turn. Raises Fault for what is no line of the protocol. Pure."""
    try:
        # Only who says a turn pays for looking whether it is the right one.
        if b'"turn_id"' in text and typed.decoder(Heading).decode(text).turn_id not in ("", turn_id):
            return None
        said = typed.decoder(_PROGRAM_LINE).decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shown = text[:SHOWN].decode("utf-8", "replace")
        raise Fault(
            "protocol_error", f"the program said what is no line of the protocol: {shown!r} ({error}); mend the program"
        ) from None
    if isinstance(said, CostLine):
        if not said.usd.is_finite() or not 0 <= said.usd <= USD_MAX:
            raise Fault("protocol_error", "the program said a cost that is negative or absurd; mend it")
        return Cost(int(said.usd * NANO), said.agent)
    _check(said)
    return said


def _check(said: Ready | Log | HistoryWanted | TurnEvent) -> None:
    if isinstance(said, Usage):
        counts = (
            said.input_tokens,
            said.output_tokens,
            said.cache_read_tokens,
            said.cache_creation_tokens,
            said.reasoning_tokens,
        )
        if not all(0 <= count <= COUNT_MAX for count in counts):
            raise Fault("protocol_error", "the program said a number of tokens that is negative or absurd; mend it")
    elif isinstance(said, ToolCall) and not bytes(said.arguments).startswith(b"{"):
        raise Fault("protocol_error", "the program said a tool call whose arguments are no JSON object; mend it")
