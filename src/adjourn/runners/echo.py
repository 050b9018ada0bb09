"""The runner that answers with what it is told: for trying things out, and for tests that must come out the same twice.

Its options make it slow, make it cost money, call tools, fail or hang. It holds a few words a session, and no process.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncGenerator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta

from adjourn import typed
from adjourn.errors import RunnerFailed, RunnerRefused
from adjourn.runner import (
    Cost,
    Done,
    Facts,
    Opening,
    RunnerConfig,
    StopReason,
    TextDelta,
    ToolCall,
    ToolResult,
    Turn,
    TurnEvent,
    TurnFailed,
    Usage,
)

Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]
USD_MAX = 1_000_000
Tokens = Annotated[int, Meta(ge=0, le=2**53)]


class EchoTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool call to make, and its result. Both go into the turn as they are; nothing is run."""

    name: str
    arguments: Mapping[str, object] = {}
    output: object = None
    is_error: bool = False


class EchoFailure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    code: str = "echo_failed"
    message: str = "told to fail"
    retryable: bool = False


class EchoOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a session (`config.options`), or of a turn over those of its session."""

    reply: str = "{text}"
    """The answer. `{text}`: what was said; `{agent}`: to whom; `{messages}`: how many messages the conversation had
    before; `{state}`: the session's state as JSON."""
    delay_ms: Milliseconds = 0
    """Before the answer begins."""
    chunks: Annotated[int, Meta(ge=0, le=10_000)] = 1
    """How many pieces the answer comes in, each with its share of the tokens and the cost."""
    chunk_ms: Milliseconds = 0
    """Between two pieces."""
    tools: Sequence[EchoTool] = ()
    input_tokens: Tokens | None = None
    """None: as many as there are words in what was said."""
    output_tokens: Tokens | None = None
    """None: as many as there are words in the answer."""
    cost_usd: Decimal | None = None
    """None: the turn says no cost, and is priced by its tokens."""
    fail: EchoFailure | None = None
    """End with this after the answer."""
    hang: bool = False
    """After the answer, do not end before an interrupt."""
    stop_reason: StopReason = "end_turn"


class EchoRunner:
    """See the module."""

    def __init__(self) -> None:
        self._configs: dict[str, RunnerConfig] = {}
        self._interrupts: dict[str, asyncio.Event] = {}
        """Of the turns that run."""

    def check(self, config: RunnerConfig) -> None:
        _options(config, {})

    async def open(self, opening: Opening) -> None:
        self._configs[opening.session_id] = opening.config

    async def turn(self, session_id: str, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        config = self._configs.get(session_id)
        if config is None:
            raise RunnerFailed(f"{session_id} is not open; open it before its turn")
        try:
            options = _options(config, turn.options)
        except RunnerRefused as error:
            yield TurnFailed(error.code, error.message)
            return
        interrupted = self._interrupts[session_id] = asyncio.Event()
        try:
            async for event in _turn(turn, options, interrupted):
                yield event
        finally:
            self._interrupts.pop(session_id, None)

    async def interrupt(self, session_id: str) -> None:
        if running := self._interrupts.get(session_id):
            running.set()

    def facts(self, session_id: str) -> Facts | None:
        return Facts() if session_id in self._configs else None

    async def archive(self, session_id: str, workspace: str, *, bytes_max: int) -> bytes | None:
        return None

    async def restore(self, workspace: str, archive: bytes) -> None:
        raise RunnerFailed("echo has no workspaces; restore this archive with the runner that made it")

    async def close(self, session_id: str, workspace: str = "") -> None:
        self._configs.pop(session_id, None)
        await self.interrupt(session_id)


async def _turn(turn: Turn, options: EchoOptions, interrupted: asyncio.Event) -> AsyncGenerator[TurnEvent, None]:
    agent = turn.said.agent
    text = "".join(part.text for part in turn.said.parts)
    answer = await _answer(options, turn, text)
    if await _interrupted(interrupted, options.delay_ms):
        yield Done("interrupted")
        return
    for number, tool in enumerate(options.tools, 1):
        call = f"{turn.turn_id}.{number}"
        yield ToolCall(call, tool.name, msgspec.Raw(msgspec.json.encode(tool.arguments)), agent)
        yield ToolResult(call, msgspec.Raw(msgspec.json.encode(tool.output)), tool.is_error, agent)
    for number, events in enumerate(_chunks(options, text, answer, agent)):
        if await _interrupted(interrupted, options.chunk_ms if number else 0):
            yield Done("interrupted")
            return
        for event in events:
            yield event
    if options.hang:
        await interrupted.wait()
        yield Done("interrupted")
    elif options.fail is not None:
        yield TurnFailed(options.fail.code, options.fail.message, options.fail.retryable)
    else:
        yield Done(options.stop_reason)


async def _answer(options: EchoOptions, turn: Turn, text: str) -> str:
    answer = options.reply
    if "{messages}" in answer:
        answer = answer.replace("{messages}", str(len(await turn.history())))
    if "{state}" in answer:
        answer = answer.replace("{state}", msgspec.json.encode(turn.state, order="sorted").decode())
    return answer.replace("{agent}", turn.said.agent).replace("{text}", text)


async def _interrupted(interrupted: asyncio.Event, wait_ms: int) -> bool:
    """Whether the turn was interrupted, at the latest after that time."""
    if wait_ms and not interrupted.is_set():
        try:
            await asyncio.wait_for(interrupted.wait(), wait_ms / 1_000)
        except TimeoutError:
            pass
    return interrupted.is_set()


def _chunks(options: EchoOptions, text: str, answer: str, agent: str) -> list[list[TurnEvent]]:
    """The answer in pieces, each with its share of tokens and cost; the shares add up exactly."""
    pieces = max(options.chunks, 1)
    tokens_in = options.input_tokens if options.input_tokens is not None else len(text.split())
    tokens_out = options.output_tokens if options.output_tokens is not None else len(answer.split())
    outputs = _shares(tokens_out, pieces)
    costs = _shares(int(options.cost_usd * 1_000_000_000), pieces) if options.cost_usd is not None else None
    ends = [(number + 1) * len(answer) // pieces for number in range(pieces)]
    chunks: list[list[TurnEvent]] = []
    for number, end in enumerate(ends):
        events: list[TurnEvent] = []
        if options.chunks and (piece := answer[ends[number - 1] if number else 0 : end]):
            events.append(TextDelta(piece, agent))
        events.append(Usage(input_tokens=0 if number else tokens_in, output_tokens=outputs[number], agent=agent))
        if costs is not None:
            events.append(Cost(costs[number], agent))
        chunks.append(events)
    return chunks


def _shares(whole: int, count: int) -> list[int]:
    return [(number + 1) * whole // count - number * whole // count for number in range(count)]


def _options(config: RunnerConfig, over: Mapping[str, object]) -> EchoOptions:
    """Raises RunnerRefused, with the path in the config."""
    given = {**config.options, **over}
    known = EchoOptions.__struct_fields__
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise RunnerRefused(f"echo has no option {name!r}; {hint}", path=f"options.{name}")
    try:
        options = typed.convert(given, EchoOptions)
    except msgspec.ValidationError as error:
        fact, _, where = str(error).partition(" - at `$")
        path = f"options{where.removesuffix('`')}"
        raise RunnerRefused(f"{path} is refused: {fact}; see the options of echo", path=path) from None
    cost = options.cost_usd
    if cost is not None and (not cost.is_finite() or not 0 <= cost <= USD_MAX):
        path = "options.cost_usd"
        raise RunnerRefused(f"{path} is {cost}; give 0 to {USD_MAX}", path=path)
    for number, tool in enumerate(options.tools):
        if tool.name not in config.allowed_tools:
            path = f"options.tools[{number}].name"
            raise RunnerRefused(f"{path} is {tool.name!r}, which is not in allowed_tools; add it there", path=path)
    return options
