"""The suite that every runner passes: `await exercise_runner(make)` raises AssertionError where one does not.

`make` gives a rig: a runner, and the options that make it do what each check needs.

    async def test() -> None:
        await exercise_runner(lambda: MyRig())
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from adjourn.errors import RunnerFailed, RunnerRefused
from adjourn.runner import (
    Agent,
    Cost,
    Done,
    History,
    Opening,
    Part,
    Runner,
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

Deed = Literal["answer", "stream", "hang", "fail", "cost", "tool", "count"]
"""What a turn is told to do:

- `answer`: with the text of the message, and nothing else;
- `stream`: twenty pieces of text at least, some time between them, and an answer that begins with the message's;
- `hang`: say something, and then not end by itself; it ends when it is interrupted;
- `fail`: with the code `told_to`, after some text;
- `cost`: 7 input and 3 output tokens and 1.5 million nano-USD, each in one or several events;
- `tool`: call the tool `look` with `{"at": "sky"}`, which gives `["blue"]`;
- `count`: answer with how many messages the conversation had before."""

DEADLINE_S = 60.0


class Rig(Protocol):
    runner: Runner
    pids: bool
    """Whether a session that is open has a process."""

    def options(self, deed: Deed) -> Mapping[str, object] | None:
        """The options of a turn that does this; None if the runner cannot be made to."""
        ...

    def remains(self) -> Sequence[str]:
        """What of its sessions is still there: processes, files, connections."""
        ...

    async def close(self) -> None: ...


async def exercise_runner(make: Callable[[], Rig]) -> None:
    """Run every check below, each with a rig of its own. Raises AssertionError naming the check that failed."""
    for check in CHECKS:
        rig = make()
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(rig, folder)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    with suppress(Skipped):
                        await check(bench)
                    await bench.close()
                    assert not list(rig.remains()), f"left over: {rig.remains()}"
                    assert not os.listdir(folder), f"left over: {os.listdir(folder)}"
            except Exception as error:
                raise AssertionError(f"{check.__name__}: {error!r}") from error
            finally:
                await bench.close()
                await rig.close()


class Bench:
    """A rig with sessions in it."""

    def __init__(self, rig: Rig, folder: str) -> None:
        self.rig, self.runner = rig, rig.runner
        self._folder = folder
        self._opened: set[str] = set()
        self._turns = 0

    def workspace(self, session_id: str) -> str:
        return os.path.join(self._folder, session_id)

    async def open(self, session_id: str = "sess_1", *, agents: Sequence[str] = ()) -> None:
        self._opened.add(session_id)
        config = RunnerConfig(model="model-1", allowed_tools=["look"], agents=[Agent(name=name) for name in agents])
        self.runner.check(config)
        await self.runner.open(
            Opening(tenant="org_a", session_id=session_id, config=config, workspace=self.workspace(session_id))
        )

    def turn(
        self,
        deed: Deed,
        session_id: str = "sess_1",
        *,
        text: str = "hello there",
        agent: str = "",
        history: Sequence[Said] | History = (),
    ) -> AsyncGenerator[TurnEvent, None]:
        """Raises Skipped where the runner cannot do that."""
        options = self.rig.options(deed)
        if options is None:
            raise Skipped
        self._turns += 1

        async def given() -> Sequence[Said]:
            return history if not callable(history) else await history()

        said = Said(role="user", parts=[Part(type="text", text=text)], agent=agent)
        return self.runner.turn(
            session_id, Turn(turn_id=f"turn_{self._turns}", said=said, history=given, options=options)
        )

    async def close(self) -> None:
        for session_id in self._opened:
            await self.runner.close(session_id, self.workspace(session_id))


class Skipped(Exception):
    """The runner cannot be made to do what the check needs."""


async def answers(bench: Bench) -> None:
    """A turn's events end with one `Done`, and its text is the answer; the next turn's too."""
    await bench.open()
    for text in ("hello there", 'a line\nand 🦀 "quotes" \\ \u2028', "x" * 200_000):
        events = [event async for event in bench.turn("answer", text=text)]
        _ends(events, Done("end_turn"))
        assert _text(events) == text, f"{_text(events)[:80]!r}"


async def streams(bench: Bench) -> None:
    """Text comes in pieces while the turn runs, and the pieces are the answer."""
    await bench.open()
    events = [event async for event in bench.turn("stream")]
    _ends(events, Done("end_turn"))
    assert sum(isinstance(event, TextDelta) for event in events) >= 20, f"{len(events)} events"
    assert _text(events).startswith("hello there"), _text(events)


async def fails(bench: Bench) -> None:
    """A turn that fails ends with one `TurnFailed`; the session goes on."""
    await bench.open()
    events = [event async for event in bench.turn("fail")]
    assert isinstance(events[-1], TurnFailed), f"{events[-1]}"
    assert events[-1].code == "told_to", f"{events[-1]}"
    assert events[-1].message, "it says nothing"
    _ends(events, events[-1])
    _ends([event async for event in bench.turn("answer")], Done("end_turn"))


async def counts_what_was_used(bench: Bench) -> None:
    """Usage and cost come as what was used since the last time: their sums are the turn's, in each turn anew."""
    await bench.open()
    for _ in range(2):
        events = [event async for event in bench.turn("cost")]
        _ends(events, Done("end_turn"))
        used = [event for event in events if isinstance(event, Usage)]
        assert (sum(u.input_tokens for u in used), sum(u.output_tokens for u in used)) == (7, 3), f"{used}"
        assert sum(event.nanousd for event in events if isinstance(event, Cost)) == 1_500_000, f"{events}"


async def calls_tools(bench: Bench) -> None:
    """A tool's call comes before its result, under one id, with JSON on both."""
    await bench.open()
    events = [event async for event in bench.turn("tool")]
    _ends(events, Done("end_turn"))
    tools = [event for event in events if isinstance(event, ToolCall | ToolResult)]
    assert len(tools) == 2, f"{tools}"
    call, result = tools
    assert isinstance(call, ToolCall), f"{call}"
    assert isinstance(result, ToolResult), f"{result}"
    assert call.id == result.id, f"{call.id} {result.id}"
    assert (call.name, _squeezed(call.arguments), _squeezed(result.output)) == ("look", b'{"at":"sky"}', b'["blue"]')


async def reads_history_when_it_needs_it(bench: Bench) -> None:
    """The conversation is read by a turn that wants it, and only then."""
    await bench.open()
    read: list[int] = []

    async def history() -> Sequence[Said]:
        read.append(1)
        return [Said(role="user", parts=[Part(type="text", text=f"message {n}")]) for n in range(1_000)]

    _ends([event async for event in bench.turn("answer", history=history)], Done("end_turn"))
    assert not read, "a turn that did not need the history has read it"
    assert _text([event async for event in bench.turn("count", history=history)]) == "1000"
    assert len(read) == 1, f"read {len(read)} times"


async def stops_when_interrupted(bench: Bench) -> None:
    """An interrupt ends the turn with `Done("interrupted")`; the session goes on. Where no turn runs it does
    nothing."""
    await bench.open()
    await bench.runner.interrupt("sess_1")
    await bench.runner.interrupt("sess_unknown")
    for deed in ("hang", "stream"):
        events: list[TurnEvent] = []
        async for event in bench.turn(deed):
            events.append(event)
            if len(events) == 1:
                await bench.runner.interrupt("sess_1")
                await bench.runner.interrupt("sess_1")
        _ends(events, Done("interrupted"))
        _ends([event async for event in bench.turn("answer")], Done("end_turn"))


async def ends_where_nobody_listens(bench: Bench) -> None:
    """Who closes the events early ends the turn; nothing of it comes in the next one."""
    await bench.open()
    for deed in ("hang", "stream"):
        async with aclosing(bench.turn(deed)) as events:
            await anext(events)
        events_after = [event async for event in bench.turn("answer", text="and now")]
        _ends(events_after, Done("end_turn"))
        assert _text(events_after) == "and now", _text(events_after)


async def ends_with_the_task_that_listens(bench: Bench) -> None:
    """Cancelling the task that reads a turn ends the turn."""
    await bench.open()
    began = asyncio.Event()

    async def listen() -> None:
        async with aclosing(bench.turn("hang")) as events:
            async for _ in events:
                began.set()

    task = asyncio.create_task(listen())
    await began.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled(), "the cancellation was swallowed"
    _ends([event async for event in bench.turn("answer")], Done("end_turn"))


async def runs_sessions_at_once(bench: Bench) -> None:
    """Turns of several sessions run at once, and none hears the other."""
    names = [f"sess_{n}" for n in range(8)]
    await asyncio.gather(*(bench.open(name) for name in names))
    hanging = [bench.turn("hang", name) for name in names[:4]]
    for events in hanging:
        await anext(events)

    async def answer(name: str) -> str:
        return _text([event async for event in bench.turn("answer", name, text=f"I am {name}")])

    assert await asyncio.gather(*map(answer, names[4:])) == [f"I am {name}" for name in names[4:]]
    for name, events in zip(names, hanging, strict=False):
        await bench.runner.interrupt(name)
        _ends([TextDelta(""), *[event async for event in events]], Done("interrupted"))


async def shares_one_process_among_agents(bench: Bench) -> None:
    """Agents of one session are spoken to by name, have their own usage, and are one process."""
    await bench.open(agents=["ann", "bob"])
    pids: set[int | None] = set()
    for agent in ("ann", "bob", "ann"):
        events = [event async for event in bench.turn("cost", agent=agent)]
        _ends(events, Done("end_turn"))
        agents = {event.agent for event in events if isinstance(event, TextDelta | Usage | Cost)}
        assert agents == {agent}, f"{agents}"
        facts = bench.runner.facts("sess_1")
        assert facts is not None, "no facts of an open session"
        pids.add(facts.pid)
    assert len(pids) == 1, f"{pids}"
    assert (None in pids) is not bench.rig.pids, f"{pids}"


async def closes_completely(bench: Bench) -> None:
    """`close` releases everything, within a turn too, and may be called again, and for what never was; then the session
    can be opened anew. `open` twice is once."""
    await bench.open()
    await bench.open()
    assert bench.runner.facts("sess_1") is not None
    turn = bench.turn("hang")
    await anext(turn)
    rest = asyncio.create_task(_rest(turn))
    await bench.close()
    _ends_somehow(await rest)
    assert not list(bench.rig.remains()), f"left over: {bench.rig.remains()}"
    await bench.close()
    await bench.runner.close("sess_unknown", bench.workspace("sess_unknown"))
    assert bench.runner.facts("sess_1") is None
    assert bench.runner.facts("sess_unknown") is None
    try:
        await anext(bench.turn("answer"))
    except RunnerFailed:
        pass
    else:
        raise AssertionError("a session that is closed has answered")
    await bench.open()
    _ends([event async for event in bench.turn("answer")], Done("end_turn"))


async def archives_and_restores(bench: Bench) -> None:
    """A workspace that is archived is the same when restored. A runner without workspaces gives None, and says so."""
    await bench.open()
    workspace, other = bench.workspace("sess_1"), bench.workspace("sess_2")
    archive = await bench.runner.archive("sess_1", workspace, bytes_max=1_000_000)
    if archive is None:
        raise Skipped
    _write(workspace, b"kept")
    archive = await bench.runner.archive("sess_1", workspace, bytes_max=1_000_000)
    assert archive is not None
    await bench.runner.restore(other, archive)
    await bench.open("sess_2")
    assert _read(other) == b"kept", "the file has changed"
    _write(workspace, os.urandom(1_100_000))
    try:
        await bench.runner.archive("sess_1", workspace, bytes_max=1_000_000)
    except RunnerFailed:
        return
    raise AssertionError("a workspace that is too large was archived")


async def refuses_unknown_options(bench: Bench) -> None:
    """An option that is not there is refused before anything runs, with the path of what is wrong."""
    try:
        bench.runner.check(RunnerConfig(options={"no_such_option": 1}))
    except RunnerRefused as error:
        path = error.path
    else:
        path = "nothing"
    assert path == "options.no_such_option", f"{path} was refused"


def _ends(events: Sequence[TurnEvent], last: TurnEvent) -> None:
    _ends_somehow(events)
    assert events[-1] == last, f"the last event is {events[-1]}, not {last}"


def _ends_somehow(events: Sequence[TurnEvent]) -> None:
    ends = [event for event in events if isinstance(event, Done | TurnFailed)]
    assert len(ends) == 1, f"{len(ends)} ends"
    assert ends == [*events[-1:]], "something follows the end"


async def _rest(turn: AsyncGenerator[TurnEvent, None]) -> list[TurnEvent]:
    return [event async for event in turn]


def _text(events: Sequence[TurnEvent]) -> str:
    whole = events[-1].text if isinstance(events[-1], Done) else ""
    return whole or "".join(event.text for event in events if isinstance(event, TextDelta))


def _write(workspace: str, content: bytes) -> None:
    file = Path(workspace, "folder", "file")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


def _read(workspace: str) -> bytes:
    return Path(workspace, "folder", "file").read_bytes()


def _squeezed(raw: Any) -> bytes:
    return bytes(raw).replace(b" ", b"")


CHECKS = (
    answers,
    streams,
    fails,
    counts_what_was_used,
    calls_tools,
    reads_history_when_it_needs_it,
    stops_when_interrupted,
    ends_where_nobody_listens,
    ends_with_the_task_that_listens,
    runs_sessions_at_once,
    shares_one_process_among_agents,
    closes_completely,
    archives_and_restores,
    refuses_unknown_options,
)
