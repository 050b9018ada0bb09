"""The echo runner."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest

from adjourn.errors import RunnerFailed, RunnerRefused
from adjourn.runner import Cost, Done, Opening, RunnerConfig, TextDelta, ToolCall, Turn, TurnEvent, TurnFailed, Usage
from adjourn.runners.echo import EchoRunner
from adjourn.testing.exercise_runner import exercise_runner
from tests.runners.rigs import EchoRig, asked, failure_of, in_loop, opening, text_of


async def turn(turn: Turn, **config: object) -> list[TurnEvent]:
    runner = EchoRunner()
    await runner.open(opening(Path("/nowhere"), **config))
    return [event async for event in runner.turn("sess_1", turn)]


@in_loop
async def test_it_keeps_the_contract() -> None:
    """Echo passes the suite of runners."""
    await exercise_runner(EchoRig)


@in_loop
async def test_it_answers_the_same_twice() -> None:
    """The same turn gives the same events, tokens counted in words."""
    events = await turn(asked("one two three"))
    assert events == [TextDelta("one two three"), Usage(input_tokens=3, output_tokens=3), Done("end_turn")]
    assert await turn(asked("one two three")) == events


@in_loop
async def test_shares_add_up() -> None:
    """However a turn is cut into pieces, tokens and cost are those that it was told, to the last nano-USD."""
    for chunks in (1, 3, 7, 100):
        events = await turn(asked("abc", chunks=chunks, cost_usd="0.000000010", input_tokens=11, output_tokens=5))
        assert sum(event.nanousd for event in events if isinstance(event, Cost)) == 10
        assert sum(event.output_tokens for event in events if isinstance(event, Usage)) == 5
        assert sum(event.input_tokens for event in events if isinstance(event, Usage)) == 11
        assert text_of(events) == "abc"


@in_loop
async def test_a_turns_options_are_over_those_of_its_session() -> None:
    """What a turn does not say is as its session says."""
    events = await turn(asked("x", chunks=1), options={"reply": "always this", "chunks": 4})
    assert [event for event in events if isinstance(event, TextDelta)] == [TextDelta("always this")]


@in_loop
async def test_replies_tell_what_the_runner_was_given() -> None:
    """Agent, state and text can be put into the answer; text that looks like a name in braces stays as it is."""
    given = asked("{state}", agent="ann", reply="{agent}: {state} {text}")
    events = await turn(
        Turn(turn_id="t", said=given.said, history=given.history, state={"a": 1}, options=given.options)
    )
    assert text_of(events) == 'ann: {"a":1} {state}'


@in_loop
async def test_it_can_fail_without_an_answer() -> None:
    """Told to say nothing and fail, it says nothing and fails, and has used tokens all the same."""
    events = await turn(asked("a b", chunks=0, fail={"code": "overloaded", "message": "later", "retryable": True}))
    assert events == [Usage(input_tokens=2, output_tokens=2), TurnFailed("overloaded", "later", True)]


@pytest.mark.parametrize(
    ("options", "path", "words"),
    [
        ({"dely_ms": 1}, "options.dely_ms", "did you mean 'delay_ms'?"),
        ({"zzz": 1}, "options.zzz", "there are reply, delay_ms"),
        ({"delay_ms": -1}, "options.delay_ms", ">= 0"),
        ({"delay_ms": "soon"}, "options.delay_ms", "Expected `int`"),
        ({"cost_usd": "-0.1"}, "options.cost_usd", "give 0 to"),
        ({"cost_usd": "NaN"}, "options.cost_usd", "give 0 to"),
        ({"input_tokens": -1}, "options.input_tokens", ">= 0"),
        ({"fail": {"cod": "x"}}, "options.fail", "cod"),
        ({"tools": [{"name": "look"}, {"name": "shell"}]}, "options.tools[1].name", "not in allowed_tools"),
    ],
)
@in_loop
async def test_bad_options_are_refused(options: dict[str, object], path: str, words: str) -> None:
    """A mistake in the options is refused with its path and a remedy; in a turn it fails that turn."""
    with pytest.raises(RunnerRefused) as refused:
        EchoRunner().check(RunnerConfig(options=options, allowed_tools=["look"]))
    assert refused.value.path == path
    assert words in refused.value.message
    failed = failure_of(await turn(asked("x", **options), allowed_tools=["look"]))
    assert (failed.code, failed.message) == ("runner_refused", refused.value.message)


@in_loop
async def test_a_tool_that_is_allowed_is_called() -> None:
    """Tools may be called by every turn, each call with an id of its own."""
    events = await turn(asked("x", tools=[{"name": "look"}] * 2), allowed_tools=["look"])
    assert [event.id for event in events if isinstance(event, ToolCall)] == ["turn_1.1", "turn_1.2"]


@in_loop
async def test_costs_may_be_numbers() -> None:
    """A cost that JSON gives as a number is what it says."""
    assert Cost(1_500_000) in await turn(asked("x", cost_usd=0.0015))
    assert Cost(10**9) in await turn(asked("x", cost_usd=Decimal(1)))


@in_loop
async def test_it_has_no_workspaces() -> None:
    """There is nothing to archive, and nothing that could be restored."""
    runner = EchoRunner()
    assert await runner.archive("sess_1", "/nowhere", bytes_max=1) is None
    with pytest.raises(RunnerFailed):
        await runner.restore("/nowhere", b"")


@in_loop
async def test_an_open_session_costs_next_to_nothing() -> None:
    """10,000 sessions that are open and have had a turn hold a few hundred bytes each at most."""
    runner, config = EchoRunner(), RunnerConfig()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            name = f"sess_{number}"
            await runner.open(Opening(tenant="org_a", session_id=name, config=config, workspace=""))
            async for _ in runner.turn(name, asked("x")):
                pass
        assert tracemalloc.get_traced_memory()[0] - before < 10_000 * 300
    finally:
        tracemalloc.stop()
