"""Traces on a node, over both databases: no call is lost or counted twice between requests, restarts and nodes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from tests.completion.spans import AGENT, HTTP, TRACE, chat, span, span_id, tokens
from tests.databases.rigs import KINDS
from tests.faults.rigs import mapping, settings_of, url_of

from adjourn.clock import ManualClock
from adjourn.completion import otlp_rows, otlp_service, quarantine
from adjourn.completion.otlp import Span
from adjourn.events import Completion, decode_completion
from adjourn.node import Node
from adjourn.testing.account import bodies

NOW_MS = 1_790_000_000_000  # after the spans
pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_service, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(otlp_service, "FORGET_EVERY_S", 0.0)


def with_nodes(
    kind: str,
    folder: Path,
    *proofs: Callable[[Node, ManualClock], Awaitable[None]],
    **sections: dict[str, object],
) -> None:
    """Each proof has a node of its own over the same database, one after the other."""
    url, clock = url_of(kind, folder), ManualClock(NOW_MS)

    async def main() -> None:
        for proof in proofs:
            async with Node(settings_of(mapping(folder, url, **sections)), clock=clock) as node:
                await proof(node, clock)

    asyncio.run(main())


async def events(node: Node) -> list[Completion]:
    """All that are in the log, in the order in which they came, partition by partition."""
    return [decode_completion(body) for body in await bodies(node)]


async def until(node: Node, count: int) -> list[Completion]:
    while len(found := await events(node)) < count:
        await asyncio.sleep(0.02)
    return found


async def kept_traces(node: Node, *trace_ids: str) -> int:
    return len(await node.database.read(otlp_rows.load, "acme", trace_ids or (TRACE,)))


def test_what_a_child_used_outlives_the_node(kind: str, tmp_path: Path) -> None:
    """The node that took the call ends before the agent does; the next one counts it."""

    async def first(node: Node, _: ManualClock) -> None:
        told = await node.traces.take("acme", [span("c", "http", chat(100, 10)), span("http", "root", HTTP)])
        assert (told.rejected, told.reasons, told.warnings) == (0, [], [])

    async def second(node: Node, _: ManualClock) -> None:
        await node.traces.take("acme", [span("root")])
        (event,) = await events(node)
        assert tokens(event) == (100, 10)
        stored = await node.log.find("acme", f"evt_otlp_{TRACE}_{span_id('root')}")
        assert stored is not None
        assert (stored.cost_nanousd, stored.price_ref.split(":")[1]) == (350_000, "openai/gpt-4o")

    with_nodes(kind, tmp_path, first, second)


def test_a_resend_is_known_however_late(kind: str, tmp_path: Path) -> None:
    """Not by the window of the log, which is over: by the trace."""
    spans = [span("c", "root", chat(100, 10)), span("root")]

    async def first(node: Node, clock: ManualClock) -> None:
        await node.traces.take("acme", spans)
        clock.advance(3600 * 12)

    async def second(node: Node, _: ManualClock) -> None:
        await node.traces.take("acme", spans)
        await node.traces.take("acme", spans[1:])
        assert len(await events(node)) == 1

    with_nodes(kind, tmp_path, first, second)


def test_tenants_do_not_meet(kind: str, tmp_path: Path) -> None:
    """The same trace id under another key is another trace."""

    async def proof(node: Node, _: ManualClock) -> None:
        await node.traces.take("acme", [span("c", "root", chat(100, 10))])
        await node.traces.take("other", [span("root")])
        (event,) = await events(node)
        assert tokens(event) == (None, None)

    with_nodes(kind, tmp_path, proof)


def test_requests_and_nodes_that_race_lose_nothing(kind: str, tmp_path: Path) -> None:
    """Calls and agents of many traces, at once, through two nodes: one completion each, and what it tells in the end is
    all that was used."""
    traces = [f"{number:032x}" for number in range(1, 41)]
    url = url_of(kind, tmp_path)

    def pieces(trace_id: str) -> list[Sequence[Span]]:
        calls = [[span(f"c{n}", "root", chat(10, 1), trace_id=trace_id)] for n in range(4)]
        return [*calls, [span("root", trace_id=trace_id), span("c4", "root", chat(10, 1), trace_id=trace_id)]]

    async def main() -> None:
        settings = settings_of(mapping(tmp_path, url))
        async with Node(settings) as one, Node(settings) as two:
            await asyncio.gather(
                *(
                    (one, two)[(number + place) % 2].traces.take("acme", piece)
                    for number, trace_id in enumerate(traces)
                    for place, piece in enumerate(pieces(trace_id))
                )
            )
            found = await events(one)
            completed = [event for event in found if event.event_type == "session.completed"]
            assert sorted(event.session.session_id for event in completed) == traces
            last = {event.session.session_id: event for event in found}
            assert {tokens(event) for event in last.values()} == {(50, 5)}
            assert len({event.event_id for event in found}) == len(found)

    asyncio.run(main())


def test_a_run_that_is_not_valid_is_quarantined_and_told(kind: str, tmp_path: Path) -> None:
    """It ends in the far future. The rest of its request is taken; sent again, it is known."""
    bad = span("bad", end_s=10**9, trace_id="b" * 32)

    async def proof(node: Node, _: ManualClock) -> None:
        told = await node.traces.take("acme", [bad, span("root")])
        assert told.rejected == 1
        assert span_id("bad") in told.reasons[0]
        assert "qrn_" in told.reasons[0]
        (entry,) = await node.database.read(quarantine.select, "acme", state="held", before="", limit=10)
        assert (entry.source, entry.code) == ("otlp", "time_ahead")
        assert len(await events(node)) == 1
        assert (await node.traces.take("acme", [bad, span("root")])).rejected == 0
        assert len(await events(node)) == 1

    with_nodes(kind, tmp_path, proof)


def test_a_source_that_is_not_wanted_is_told(kind: str, tmp_path: Path) -> None:
    """`capture.sources` holds for this door too."""

    async def proof(node: Node, _: ManualClock) -> None:
        told = await node.traces.take("acme", [span("root")])
        assert told.rejected == 1
        assert "capture.sources" in told.reasons[0]

    with_nodes(kind, tmp_path, proof, capture={"sources": ["web"]})


def test_turns_of_a_conversation_are_all_taken(kind: str, tmp_path: Path) -> None:
    """Even where a session is deduplicated by its id."""
    turns = [
        span("root", "", {**AGENT, "session.id": "conv"}, trace_id="a" * 32),
        span("again", "", {**AGENT, "session.id": "conv"}, trace_id="b" * 32),
    ]

    async def proof(node: Node, _: ManualClock) -> None:
        for turn in turns:
            await node.traces.take("acme", [turn])
        assert len(await events(node)) == 2

    with_nodes(kind, tmp_path, proof, validation={"dedupe_by": "session"})


def test_many_runs_of_one_trace_are_told_of_at_once(kind: str, tmp_path: Path) -> None:
    """An evaluation: hundreds of agents below one span, in several partitions of the log."""
    agents = [span(f"a{n}", "eval") for n in range(300)]
    calls = [span(f"c{n}", f"a{n}", chat(1, 1)) for n in range(300)]

    async def proof(node: Node, _: ManualClock) -> None:
        await node.traces.take("acme", [*calls, *agents])
        assert await events(node) == []
        await node.traces.take("acme", [span("eval", "", HTTP)])
        found = await events(node)
        assert len({event.session.session_id for event in found}) == len(found) == 300
        assert {tokens(event) for event in found} == {(1, 1)}
        assert node.ingest.counters.accepted == 300
        assert node.ingest.in_hand == 0

    with_nodes(kind, tmp_path, proof)


def test_an_agent_whose_parent_is_not_sent_waits_for_silence(kind: str, tmp_path: Path) -> None:
    """Every span that comes prolongs the wait; whichever node runs when it is over tells of it, once."""

    async def first(node: Node, clock: ManualClock) -> None:
        await node.traces.take("acme", [span("root", "lost"), span("c1", "root", chat(5, 1))])
        clock.advance(400)
        await node.traces.take("acme", [span("c2", "root", chat(5, 1))])
        clock.advance(400)
        for _ in range(10):
            await asyncio.sleep(0.02)
        assert await events(node) == []

    async def second(node: Node, clock: ManualClock) -> None:
        clock.advance(400)
        (event,) = await until(node, 1)
        assert tokens(event) == (10, 2)
        clock.advance(4000)
        for _ in range(10):
            await asyncio.sleep(0.02)
        assert len(await events(node)) == 1

    with_nodes(kind, tmp_path, first, second)


def test_a_trace_is_forgotten_in_the_end(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was told of, silently; calls without an agent, with a line in the log."""

    async def proof(node: Node, clock: ManualClock) -> None:
        ids = [letter * 32 for letter in "abc"]
        await node.traces.take("acme", [span("root", trace_id=ids[0])])
        await node.traces.take("acme", [span("c", "lost", chat(5, 1), trace_id=ids[1])])
        assert await kept_traces(node, *ids) == 2
        with caplog.at_level(logging.WARNING, "adjourn.otlp"):
            clock.advance(2 * 86_400)
            await node.traces.take("acme", [span("root", trace_id=ids[2])])
            while await kept_traces(node, *ids) != 1:
                await asyncio.sleep(0.02)
        assert [record.getMessage() for record in caplog.records] == ["otlp_calls_without_agent traces=1"]
        assert await kept_traces(node, ids[2]) == 1

    with_nodes(kind, tmp_path, proof)


def test_what_is_not_ours_is_not_kept(kind: str, tmp_path: Path) -> None:
    """Web requests, and calls of a model in no agent: taken, counted, and gone."""

    async def proof(node: Node, _: ManualClock) -> None:
        told = await node.traces.take("acme", [span("server", "", HTTP), span("c", "server", chat(5, 1))])
        assert told.rejected == 0
        assert await kept_traces(node) == 0
        assert (node.traces.counters.ignored, node.traces.counters.taken) == (1, 1)
        await node.traces.take("acme", [span("c", "server", chat(5, 1))])
        assert await kept_traces(node) == 1
        await node.traces.take("acme", [span("server", "", HTTP)])
        assert await kept_traces(node) == 0

    with_nodes(kind, tmp_path, proof)
