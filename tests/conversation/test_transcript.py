"""Turns as messages, and histories in which every call has its result."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import msgspec
import pytest
from tests.conversation.rigs import call, result, words

from adjourn.conversation.message import Draft, pack
from adjourn.conversation.transcript import INTERRUPTED, messages_of, paired
from adjourn.runner import Cost, Done, Part, Said, TextDelta, ToolCall, ToolResult, TurnEvent, TurnFailed, Usage


def told(drafts: list[Draft]) -> list[tuple[str, str, str]]:
    return [(draft.role, draft.agent, words(draft)) for draft in drafts]


def test_a_turn_is_text_calls_and_results_in_order() -> None:
    """Deltas are joined, each step is a message of the assistant, and the results of its calls stand behind it."""
    events: list[TurnEvent] = [
        TextDelta("Let me "),
        TextDelta("look."),
        ToolCall("1", "look", msgspec.Raw(b'{"at": "a"}')),
        ToolCall("2", "look"),
        Usage(input_tokens=5, output_tokens=7),
        ToolResult("1", msgspec.Raw(b'{"found": 3}')),
        ToolResult("2", msgspec.Raw(b'"no"'), is_error=True),
        TextDelta(""),
        TextDelta("Three."),
        Cost(12),
        Done(),
    ]
    drafts = messages_of(events, "finder", turn_id="turn_1")
    assert {draft.turn_id for draft in drafts} == {"turn_1"}
    assert told(drafts) == [
        ("assistant", "finder", "Let me look. call 1 call 2"),
        ("tool", "finder", "result 1 error 2"),
        ("assistant", "finder", "Three."),
    ]
    assert bytes(drafts[0].parts[1].arguments) == b'{"at": "a"}'
    assert bytes(drafts[1].parts[0].output) == b'{"found": 3}'


def test_several_agents_have_messages_of_their_own() -> None:
    """Each agent's words are its message, in the order of the talk; a result that comes late stands behind its call."""
    events: list[TurnEvent] = [
        TextDelta("hello", "anna"),
        ToolCall("1", "look", agent="anna"),
        TextDelta("hi", "ben"),
        ToolResult("1"),
        TextDelta("how are ", "ben"),
        TextDelta("you"),
        TextDelta("fine", "ben"),
        Done(),
    ]
    assert told(messages_of(events, "anna")) == [
        ("assistant", "anna", "hello call 1"),
        ("tool", "anna", "result 1"),
        ("assistant", "ben", "hihow are "),
        ("assistant", "anna", "you"),
        ("assistant", "ben", "fine"),
    ]


@pytest.mark.parametrize("end", [[], [TurnFailed("boom", "it broke")], [Done("interrupted")]])
def test_an_interrupted_turn_leaves_no_call_without_a_result(end: list[TurnEvent]) -> None:
    """However a turn ends, a call that got no result has an error as its result, and what was said is kept."""
    events: list[TurnEvent] = [TextDelta("wait"), ToolCall("1", "a"), ToolCall("2", "b"), ToolResult("2"), *end]
    drafts = messages_of(events)
    assert told(drafts) == [("assistant", "", "wait call 1 call 2"), ("tool", "", "result 2 error 1")]
    assert drafts[1].parts[1] == Part(type="tool_result", id="1", output=INTERRUPTED, is_error=True)
    assert messages_of(end) == []


def test_ids_that_are_counted_anew_in_every_step_are_told_apart() -> None:
    """A program that calls every call `1` gets each result to its own call; a second result takes the first's place,
    and a result of no call is left out."""
    events: list[TurnEvent] = [
        ToolCall("1", "a"),
        ToolResult("1", msgspec.Raw(b'"first"')),
        ToolCall("1", "b"),
        ToolCall("1", "c"),
        ToolResult("1", msgspec.Raw(b'"second"')),
        ToolResult("1", msgspec.Raw(b'"draft"')),
        ToolResult("1", msgspec.Raw(b'"third"')),
        ToolResult("none"),
        Done(),
    ]
    drafts = messages_of(events)
    assert told(drafts) == [
        ("assistant", "", "call 1"),
        ("tool", "", "result 1"),
        ("assistant", "", "call 1 call 1"),
        ("tool", "", "result 1 result 1"),
    ]
    assert [json.loads(bytes(part.output)) for part in drafts[3].parts] == ["second", "third"]


@pytest.mark.parametrize(
    ("said", "whole", "expected"),
    [
        ([], "all of it", ["all of it"]),
        ([TextDelta("all "), TextDelta("of it")], "all of it", ["all of it"]),
        ([TextDelta("al of i")], "all of it", ["all of it"]),
        (
            [TextDelta("look"), ToolCall("1", "a"), ToolResult("1"), TextDelta("4")],
            "4",
            ["look call 1", "result 1", "4"],
        ),
        ([TextDelta("look"), ToolCall("1", "a"), ToolResult("1")], "4", ["look call 1", "result 1", "4"]),
        ([TextDelta("a"), ToolCall("1", "a"), ToolResult("1"), TextDelta("b")], "ab", ["a call 1", "result 1", "b"]),
        ([TextDelta("aside", "ben")], "4", ["aside", "4"]),
    ],
)
def test_a_whole_answer_stands_for_what_was_said_last(said: list[TurnEvent], whole: str, expected: list[str]) -> None:
    """`Done.text` is kept once: not again where the deltas said it, and instead of them where they said less."""
    assert [words(draft) for draft in messages_of([*said, Done(text=whole)], "anna")] == expected


def test_what_is_not_json_or_not_unicode_is_kept_readable() -> None:
    """A runner's broken arguments, outputs and characters become what can be written and read."""
    drafts = messages_of(
        [
            TextDelta("smile \ud83d"),
            TextDelta("\ude42 and \ud83d"),
            ToolCall("1", "a", msgspec.Raw(b'{"half')),
            ToolResult("1", msgspec.Raw(b"\xff?")),
        ]
    )
    assert drafts[0].parts[0].text == "smile 🙂 and \ufffd"
    assert json.loads(bytes(drafts[0].parts[1].arguments)) == {"unreadable": '{"half'}
    assert json.loads(bytes(drafts[1].parts[0].output)) == "\ufffd?"
    for draft in drafts:
        pack(draft)


def test_any_stream_of_events_makes_a_sound_conversation(rng: random.Random) -> None:
    """Whatever runners say, in whichever order: each message can be written, has parts, and every call has one result
    in the message behind it; no text is lost."""
    for _ in range(500):
        events = list(noise(rng))
        drafts = messages_of(events, "anna")
        spoken = "".join(event.text for event in events if isinstance(event, TextDelta))
        kept = "".join(part.text for draft in drafts for part in draft.parts)
        assert sorted(kept) == sorted(spoken)
        for index, draft in enumerate(drafts):
            pack(draft)
            assert draft.parts
            asked = sorted(part.id for part in draft.parts if part.type == "tool_call")
            if asked:
                assert asked == sorted(part.id for part in drafts[index + 1].parts)
            assert (draft.role == "tool") == (draft.parts[0].type == "tool_result")
        said = [Said(role=draft.role, parts=draft.parts, agent=draft.agent) for draft in drafts]
        assert paired(said) == said, "and nothing of it needs mending"


def noise(rng: random.Random) -> Iterator[TurnEvent]:
    for _ in range(rng.randrange(20)):
        agent = rng.choice(["", "anna", "ben"])
        name = str(rng.randrange(4))
        yield rng.choice([TextDelta(name, agent), ToolCall(name, "a", agent=agent), ToolResult(name, agent=agent)])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["result 1", "a"], ["a"]),
        (["result 1 result 2", "call 3", "result 3"], ["call 3", "result 3"]),
        (["result 1 a", "b"], ["a", "b"]),
        (["call 1", "a"], ["call 1", "error 1", "a"]),
        (["call 1 call 2", "result 2", "a"], ["call 1 call 2", "result 2 error 1", "a"]),
        (["call 1", "a", "result 1"], ["call 1", "a", "result 1"]),
        (["call 1", "result 1", "result 1"], ["call 1", "result 1"]),
        (["call 1", "call 1", "result 1"], ["call 1", "error 1", "call 1", "result 1"]),
        (["call 1 call 1", "result 1 result 1"], ["call 1 call 1", "result 1 result 1"]),
        (["a", "call 1"], ["a", "call 1", "error 1"]),
        ([], []),
    ],
)
def test_a_history_has_every_call_with_its_result(before: list[str], after: list[str]) -> None:
    """Results without their call are left out, calls without a result get one, and all else stays as it is."""
    assert [words(each) for each in paired([said(line) for line in before])] == after


def said(line: str) -> Said:
    pieces = line.split()
    parts: list[Part] = []
    while pieces:
        word = pieces.pop(0)
        parts.append({"call": call, "result": result}[word](pieces.pop(0)) if pieces and len(word) > 1 else plain(word))
    role = "tool" if parts[0].type == "tool_result" else "assistant"
    return Said(role=role, parts=parts)


def plain(word: str) -> Part:
    return Part(type="text", text=word)
