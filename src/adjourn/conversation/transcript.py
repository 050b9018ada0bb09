"""Turns as messages: what a runner's events say, and which tool calls and results belong together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from adjourn.conversation.message import Draft
from adjourn.runner import Done, Part, Said, TextDelta, ToolCall, ToolResult, TurnEvent

INTERRUPTED = msgspec.Raw(b'"interrupted"')


class _Call(msgspec.Struct):
    part: Part
    result: Part | None = None


class _Step(msgspec.Struct):
    """What an agent says until it hears a result; the results of its calls stand behind it, whenever they came."""

    agent: str
    said: list[Part | str]
    """Pieces of text, and calls."""
    calls: list[_Call]
    answered: list[_Call]
    """In the order of their results."""

    def drafts(self, turn_id: str | None) -> list[Draft]:
        drafts = [Draft(role="assistant", parts=_joined(self.said), agent=self.agent, turn_id=turn_id)]
        if self.calls:
            silent = [_interrupted(call.part.id) for call in self.calls if call.result is None]
            results = [call.result for call in self.answered if call.result is not None]
            drafts.append(Draft(role="tool", parts=[*results, *silent], agent=self.agent, turn_id=turn_id))
        return drafts


class _Turn:
    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.steps: list[_Step] = []
        self._calls: dict[str, list[_Call]] = {}
        self._homes: dict[int, _Step] = {}

    def take(self, event: TurnEvent) -> None:
        match event:
            case TextDelta(text, agent) if text:
                self._step(agent).said.append(text)
            case ToolCall():
                self._call(event)
            case ToolResult():
                self._result(event)
            case Done(_, text) if text:
                self._whole(text)
            case _:
                pass

    def _step(self, agent: str) -> _Step:
        agent = agent or self.agent
        if not self.steps or self.steps[-1].agent != agent or self.steps[-1].answered:
            self.steps.append(_Step(agent, [], [], []))
        return self.steps[-1]

    def _call(self, event: ToolCall) -> None:
        arguments = event.arguments if _is_json(event.arguments) else _text(event.arguments, "unreadable")
        call = _Call(Part(type="tool_call", id=event.id, name=event.name, arguments=arguments))
        step = self._step(event.agent)
        step.said.append(call.part)
        step.calls.append(call)
        self._calls.setdefault(event.id, []).append(call)
        self._homes[id(call)] = step

    def _result(self, event: ToolResult) -> None:
        """It belongs to the first call of that id that waits, since some count them anew in every step; if none waits,
        it takes the place of the last one's. A result of no call is no part of the conversation."""
        calls = self._calls.get(event.id)
        if not calls:
            return
        output = event.output if _is_json(event.output) else _text(event.output)
        call = next((each for each in calls if each.result is None), calls[-1])
        if call.result is None:
            self._homes[id(call)].answered.append(call)
        call.result = Part(type="tool_result", id=event.id, output=output, is_error=event.is_error)

    def _whole(self, text: str) -> None:
        """The answer as the runner sums it up: it stands for what was said last, unless that was the same."""
        final = self.steps[-1] if self.steps else None
        everything = "".join(piece for step in self.steps for piece in step.said if isinstance(piece, str))
        if text == everything or (final is not None and text == _words(final)):
            return
        if final is None or final.calls or final.agent != self.agent:
            self.steps.append(_Step(self.agent, [text], [], []))
        else:
            final.said[:] = [text]


def messages_of(events: Iterable[TurnEvent], agent: str = "", *, turn_id: str | None = None) -> list[Draft]:
    """What is to be kept of a turn that has ended, in whichever way. Text and calls of an agent are one message of role
    `assistant`, up to the next result or the next agent; the results of its calls are one message of role `tool` right
    behind it. A call that got no result has an error as its result. `agent` said what has no agent of its own."""
    turn = _Turn(agent)
    for event in events:
        turn.take(event)
    return [draft for step in turn.steps for draft in step.drafts(turn_id)]


def paired(history: Sequence[Said]) -> list[Said]:
    """A part of a conversation that a model can be given: results whose call is not in it are left out, and so are
    messages of which nothing remains; calls without a result get an error as theirs, right behind them."""
    told: list[Said] = []
    waiting: dict[str, list[int]] = {}
    for said in history:
        parts = [part for part in said.parts if _belongs(part, waiting, len(told))]
        if parts:
            told.append(said if len(parts) == len(said.parts) else msgspec.structs.replace(said, parts=parts))
    silent = [(index, call_id) for call_id, indexes in waiting.items() for index in indexes]
    for index, call_id in sorted(silent, key=lambda each: each[0], reverse=True):
        _answer(told, index, _interrupted(call_id))
    return told


def _belongs(part: Part, waiting: dict[str, list[int]], index: int) -> bool:
    """`waiting`: where calls stand that have no result yet, by id. A result is that of the last one."""
    if part.type == "tool_call":
        waiting.setdefault(part.id, []).append(index)
    elif part.type == "tool_result":
        if not waiting.get(part.id):
            return False
        waiting[part.id].pop()
    return True


def _answer(told: list[Said], index: int, result: Part) -> None:
    behind = told[index + 1] if index + 1 < len(told) else None
    if behind is not None and behind.role == "tool":
        told[index + 1] = msgspec.structs.replace(behind, parts=[*behind.parts, result])
    else:
        told.insert(index + 1, Said(role="tool", parts=[result], agent=told[index].agent))


def _interrupted(call_id: str) -> Part:
    return Part(type="tool_result", id=call_id, output=INTERRUPTED, is_error=True)


def _joined(said: Sequence[Part | str]) -> list[Part]:
    parts: list[Part] = []
    text: list[str] = []
    for piece in (*said, None):
        if isinstance(piece, str):
            text.append(piece)
            continue
        if text:
            parts.append(Part(type="text", text=_sound("".join(text))))
            text.clear()
        if piece is not None:
            parts.append(piece)
    return parts


def _sound(text: str) -> str:
    """A character whose halves came in two pieces is whole again; half of one cannot be written, and is replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _words(step: _Step) -> str:
    return "".join(piece for piece in step.said if isinstance(piece, str))


def _is_json(raw: msgspec.Raw) -> bool:
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _text(raw: msgspec.Raw, name: str = "") -> msgspec.Raw:
    """What a runner gave instead of JSON, as JSON: one bad call must not make its conversation unreadable."""
    text = bytes(raw).decode("utf-8", "replace")
    return msgspec.Raw(msgspec.json.encode({name: text} if name else text))
