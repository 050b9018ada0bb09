"""The node that watches: what it abandons, what it must not, and that there is one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.faults.rigs import raw
from tests.sessions.rigs import events, mapped_of, node_of, parts, until

from adjourn.clock import ManualClock
from adjourn.node import Node
from adjourn.sessions import watch_service, watched_service
from adjourn.sessions.watch import Begin, Heartbeat

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
ME = "default"
TAKEN_OVER = "UPDATE leases SET owner = 'another', epoch = epoch + 1 WHERE name = 'watch'"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_service, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(watched_service, "GATHER_S", 0.01)


async def looked(node: Node, clock: ManualClock, seconds: float) -> None:
    """Let time pass in steps that the node looks in between, as a node does that runs."""
    while seconds > 0:
        step = min(1.0, seconds)
        clock.advance(step)
        seconds -= step
        for _ in range(2):
            seen = node.watched.watch.looks
            while node.watched.watch.looks == seen:
                await asyncio.sleep(0.005)


@KINDS
def test_silence_for_a_whole_lease_is_abandonment_and_nothing_less_is(tmp_path: Path, kind: str) -> None:
    """Heartbeats keep a session for as long as they come; then it ends, once, with the last usage they brought."""
    clock = ManualClock()

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path), clock) as node:
            await node.watched.begin(ME, Begin(session_id="s", lease_ms=10_000, usage=parts(model="gpt-4o")))
            await looked(node, clock, 1)
            for number in range(4):
                await looked(node, clock, 9)
                await node.watched.heartbeat(ME, "s", Heartbeat(usage=parts(input_tokens=number)))
            await looked(node, clock, 9)
            assert (await node.watched.get(ME, "s")).state == "open"
            await looked(node, clock, 3)
            assert await until(node, "s", lambda state: state != "open") == "abandoned"
            await looked(node, clock, 30)
            (event,) = await events(node)
            assert event["usage"] == {"model": "gpt-4o", "input_tokens": 3}
            assert event["session"]["duration_ms"] == 37_000

    asyncio.run(run())


def test_a_step_of_the_wall_clock_ends_no_lease(tmp_path: Path) -> None:
    """A day forwards or back on the wall is no time at all to a lease."""
    clock = ManualClock()

    async def run() -> None:
        async with node_of(mapped_of("sqlite", tmp_path), clock) as node:
            await node.watched.begin(ME, Begin(session_id="s", lease_ms=5000))
            for step in (86_400, -2 * 86_400):
                clock.step_wall(step)
                await looked(node, clock, 2)
            assert (await node.watched.get(ME, "s")).state == "open"
            # It ends by the steady clock, although it now began "tomorrow", which validation would refuse.
            await looked(node, clock, 5)
            assert await until(node, "s", lambda state: state != "open") == "abandoned"
            (event,) = await events(node)
            assert event["outcome"] == {"status": "error", "error_code": "abandoned"}

    asyncio.run(run())


@KINDS
def test_leases_begin_anew_when_a_node_takes_over(tmp_path: Path, kind: str) -> None:
    """Nobody could be heard while there was no server; after its start each session has its whole lease again."""
    mapped, clock = mapped_of(kind, tmp_path), ManualClock()

    async def first() -> None:
        async with node_of(mapped, clock) as node:
            await node.watched.begin(ME, Begin(session_id="s", lease_ms=5000))
            await looked(node, clock, 4)

    async def second() -> None:
        async with node_of(mapped, clock) as node:
            await looked(node, clock, 4)
            assert (await node.watched.get(ME, "s")).state == "open"
            await looked(node, clock, 3)
            assert await until(node, "s", lambda state: state != "open") == "abandoned"
            assert len(await events(node)) == 1

    asyncio.run(first())
    clock.advance(3600)
    asyncio.run(second())


def test_leases_begin_anew_after_a_standstill(tmp_path: Path) -> None:
    """A node that did not run for a minute (stopped, suspended) abandons nothing for that."""
    clock = ManualClock()

    async def run() -> None:
        async with node_of(mapped_of("sqlite", tmp_path), clock) as node:
            await node.watched.begin(ME, Begin(session_id="s", lease_ms=5000))
            await looked(node, clock, 2)
            clock.advance(60)
            await looked(node, clock, 4)
            assert (await node.watched.get(ME, "s")).state == "open"

    asyncio.run(run())


@KINDS
def test_one_of_two_nodes_watches_and_hears_what_the_other_was_told(tmp_path: Path, kind: str) -> None:
    """Heartbeats count on whichever node they arrive; when the node that watches is gone, the other one does."""
    mapped, clock = mapped_of(kind, tmp_path), ManualClock()

    async def run() -> None:
        async with node_of(mapped, clock) as one, node_of(mapped, clock) as other:
            await one.watched.begin(ME, Begin(session_id="s", lease_ms=10_000))
            await looked(one, clock, 3)
            assert sorted((one.watched.watch.holds_role, other.watched.watch.holds_role)) == [False, True]
            watching, silent = (one, other) if one.watched.watch.holds_role else (other, one)
            for _ in range(4):
                await looked(watching, clock, 4)
                await silent.watched.heartbeat(ME, "s", Heartbeat())
            assert (await one.watched.get(ME, "s")).state == "open"
            await watching.close()
            await looked(silent, clock, 16)
            assert await until(silent, "s", lambda state: state != "open") == "abandoned"
            assert len(await events(silent)) == 1

    asyncio.run(run())


@KINDS
def test_an_abandonment_is_fenced(tmp_path: Path, kind: str) -> None:
    """Whoever lost the role cannot abandon a session any more, whatever it believes: nothing is written."""

    clock = ManualClock()

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path), clock) as node:
            await node.watched.begin(ME, Begin(session_id="s", lease_ms=1000))
            await looked(node, clock, 3)
            await node.watched.begin(ME, Begin(session_id="t", lease_ms=1000))
            while not node.watched.watch.holds_role:
                await looked(node, clock, 1)
            await node.database.write(lambda tx: tx.run(TAKEN_OVER))
            ended = await events(node)
            clock.advance(2)  # not long enough to have noticed: it abandons, and hears that it may not
            while node.watched.watch.holds_role:
                await asyncio.sleep(0.005)
            assert await events(node) == ended
            assert (await node.watched.get(ME, "t")).state == "open"

    asyncio.run(run())


def test_a_beginning_that_new_settings_refuse_still_ends_in_a_completion(tmp_path: Path) -> None:
    """What the settings of now refuse goes to quarantine, and the session is completed with what nobody can refuse."""
    mapped = mapped_of("sqlite", tmp_path)

    async def first() -> None:
        async with node_of(mapped) as node:
            await node.watched.begin(ME, Begin(session_id="s", lease_ms=1000, metadata=parts(source="web")))

    async def second() -> None:
        async with node_of({**mapped, "capture": {"sources": ["telegram"]}}) as node:
            assert await until(node, "s", lambda state: state != "open") == "abandoned"
            (event,) = await events(node)
            assert event["outcome"] == {"status": "error", "error_code": "abandoned"}
            assert "metadata" not in event
            assert node.ingest.counters.invalid == 1

    asyncio.run(first())
    asyncio.run(second())


@KINDS
def test_a_completion_that_came_another_way_is_not_followed_by_an_abandonment(tmp_path: Path, kind: str) -> None:
    """Also where the dedupe window has long forgotten it: the log is asked."""
    clock = ManualClock()

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path), clock) as node:
            begun, _ = await node.watched.begin(ME, Begin(session_id="s", lease_ms=600_000))
            (taken,) = await node.ingest.take(ME, [raw("s", usage={"input_tokens": 1})], source="test")
            assert taken.event_id == begun.event_id
            await looked(node, clock, 1)
            for _ in range(150):
                clock.advance(4)  # less than would be an absence
                seen = node.watched.watch.looks
                while node.watched.watch.looks < seen + 2:
                    await asyncio.sleep(0.005)
            assert await until(node, "s", lambda state: state != "open") == "completed"
            assert len(await events(node)) == 1

    asyncio.run(run())


def test_a_node_with_nothing_to_watch_writes_nothing(tmp_path: Path) -> None:
    """Unused, the feature costs no commit: the role is taken with the first session and given back with the last."""

    async def run() -> None:
        clock = ManualClock()
        async with node_of(mapped_of("sqlite", tmp_path), clock) as node:
            await looked(node, clock, 10)
            assert await node.database.read(lambda r: r.rows("SELECT name FROM leases WHERE name = 'watch'")) == []
            await node.watched.begin(ME, Begin(session_id="s", lease_ms=1000))
            await until(node, "s", lambda _: node.watched.watch.holds_role or clock.advance(1) is not None)
            await looked(node, clock, 6)
            assert await until(node, "s", lambda state: state != "open") == "abandoned"
            await looked(node, clock, 6)
            assert not node.watched.watch.holds_role

    asyncio.run(run())
