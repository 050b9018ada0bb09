"""The lease of a node: what it writes holds only while it has it, and what it leaves is taken over once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.sessions.hosted import ME, got, made, new, say, sound, story, until, until_told
from tests.sessions.rigs import mapped_of, node_of

import adjourn.logs.leases
from adjourn.errors import Fenced, StatusRefused, TurnRunning, Unavailable
from adjourn.node import Node
from adjourn.runner import TextDelta, Turn, TurnEvent
from adjourn.runners.echo import EchoRunner
from adjourn.sessions import owner_service
from adjourn.sessions.live import Stop

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adjourn.logs.leases, "LEASE_MS", 1_000)
    monkeypatch.setattr(owner_service, "LOOK_EVERY_S", 0.1)


@asynccontextmanager
async def frozen(node: Node) -> AsyncIterator[None]:
    """Its lease stands still, as if the machine were frozen; all the rest of it goes on, which is worse."""
    task = node.sessions.owner._task
    assert task is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    try:
        yield
    finally:
        node.sessions.owner._task = asyncio.create_task(node.sessions.owner._run())


@KINDS
def test_a_node_whose_lease_was_taken_writes_nothing(tmp_path: Path, kind: str) -> None:
    """Before it knows: a session is not created, a turn not begun; it is told that it was fenced, and that it is to
    read anew. Soon it has another lease, and works."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node)
            name = node.sessions.owner.name
            async with frozen(node):
                await node.database.write(
                    lambda tx: tx.run("UPDATE leases SET owner = 'another', epoch = epoch + 1 WHERE name = ?", (name,))
                )
                with pytest.raises(Fenced):
                    await node.sessions.send(ME, session.id, say())
                with pytest.raises(Fenced):
                    await node.sessions.create(ME, new("single_container"))
                found = await sound(node)
                assert (found.turns, list(found.sessions)) == ({}, [session.key])

            async def works() -> bool:
                try:
                    return (await node.sessions.send(ME, session.id, say())).turn.status == "done"
                except (Fenced, Unavailable):
                    return False

            await until(works)
            assert node.sessions.owner.name != name
            await sound(node)

    asyncio.run(run())


@KINDS
@pytest.mark.usefixtures("short_leases")
def test_what_a_frozen_node_still_says_of_its_turns_is_not_written(tmp_path: Path, kind: str) -> None:
    """Another node takes its sessions over by their patterns while its turns go on. When they end, none of that is
    written: each session has one end at most, the money that was held is spent, and whoever waits is told that the turn
    was abandoned."""

    async def run() -> None:
        mapped = mapped_of(kind, tmp_path)
        async with node_of(mapped) as one, node_of(mapped) as other:
            patterns = ("ephemeral", "hybrid", "long_running", "single_container")
            sessions = [await made(one, pattern, budget="1", options={"hang": True}) for pattern in patterns]  # type: ignore[arg-type]  # all are patterns
            turns = [await one.sessions.begin(ME, session.id, say()) for session in sessions]
            for session in sessions:
                await until_told(one, session, "text_delta")
            lives = [one.sessions.turns.live[session.key] for session in sessions]
            async with frozen(one):

                async def taken() -> bool:
                    return other.sessions.owner.taken_over == 4

                await until(taken)
                before = await sound(other)
                for live in lives:
                    one.sessions.turns.stop_turn(live.key, Stop())
                for live in lives:
                    await live.settled.wait()
                after = await sound(other)
            statuses = [after.sessions[session.key].status for session in sessions]
            assert statuses == ["error", "idle", "active", "error"]
            assert after.log == before.log
            for session, turn in zip(sessions, turns, strict=True):
                row = after.sessions[session.key]
                assert row == before.sessions[session.key]
                assert row.spent.cost_nanousd > 0
                assert row.described.cost_estimated
                answer = await one.sessions.answer(ME, session.id, turn.turn_id)
                assert answer.turn.status == "abandoned"
            again = await other.sessions.send(ME, sessions[1].id, say(options={"hang": False, "reply": "{messages}"}))
            assert again.turn.text == "1"
            await sound(other)

    asyncio.run(run())


@KINDS
def test_a_settlement_of_an_earlier_owner_is_nothing(tmp_path: Path, kind: str) -> None:
    """The epoch in the session's row is another one by then: even where the fence would let it through, what it says of
    the turn is not written, and the turn that runs now is not ended by it."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, options={"hang": True})
            await node.sessions.begin(ME, session.id, say())
            await until_told(node, session, "text_delta")
            live = node.sessions.turns.live[session.key]
            await node.database.write(
                lambda tx: tx.run("UPDATE sessions SET epoch = epoch + 1 WHERE id = ?", (session.id,))
            )
            before = await story(node)
            node.sessions.turns.stop_turn(live.key, Stop())
            await live.settled.wait()
            after = await story(node)
            assert (after.log, after.sessions) == (before.log, before.sessions)

    asyncio.run(run())


@KINDS
def test_two_nodes_that_send_at_once_run_one_turn(tmp_path: Path, kind: str) -> None:
    """One wins; the others are told that a turn runs, and on which node. In the same call with one key, all get the
    same turn."""

    async def run() -> None:
        mapped = mapped_of(kind, tmp_path)
        async with node_of(mapped) as one, node_of(mapped) as other:
            for _ in range(2):
                session = await made(one, options={"hang": True})
                began = await asyncio.gather(
                    *(node.sessions.begin(ME, session.id, say()) for node in (one, other, one, other)),
                    return_exceptions=True,
                )
                winners = [each for each in began if not isinstance(each, BaseException)]
                refused = [each for each in began if isinstance(each, TurnRunning)]
                assert (len(winners), len(refused)) == (1, 3)
                runs = one if session.key in one.sessions.turns.live else other
                assert any(f"on node {runs.sessions.owner.name}" in each.message for each in refused)
                elsewhere = other if runs is one else one
                assert (await elsewhere.sessions.interrupt(ME, session.id)).status == "idle"
                same = await asyncio.gather(
                    *(
                        node.sessions.begin(ME, session.id, say(queue=bool(n % 2)), idempotency_key="k")
                        for n, node in enumerate((one, one, other, other))
                    )
                )
                assert len({turn.turn_id for turn in same}) == 1
                assert (await elsewhere.sessions.terminate(ME, session.id)).outcome == "user_terminated"
            await sound(one)

    asyncio.run(run())


@KINDS
def test_a_conversation_goes_on_at_any_node(tmp_path: Path, kind: str) -> None:
    """Turn by turn at another one, each knows what was said before and follows what happens elsewhere; only a runner
    that was opened for good binds its session to a node, and who asks elsewhere is told where."""

    async def run() -> None:
        mapped = mapped_of(kind, tmp_path)
        async with node_of(mapped) as one, node_of(mapped) as other:
            for pattern in ("hybrid", "long_running"):
                session = await made(one, pattern, options={"reply": "{messages}"})  # type: ignore[arg-type]  # both are patterns

                async def follow(node: Node, session_id: str = session.id) -> list[int]:
                    return [event.seq async for event in node.sessions.follow(ME, session_id)]

                following = [asyncio.ensure_future(follow(node)) for node in (one, other)]
                for number, node in enumerate((one, other, other, one)):
                    assert (await node.sessions.send(ME, session.id, say())).turn.text == str(2 * number)
                await other.sessions.terminate(ME, session.id)
                count = (await got(one, session)).events
                assert await asyncio.gather(*following) == [list(range(1, count + 1))] * 2
            bound = await made(one, "single_container")
            with pytest.raises(StatusRefused, match=one.sessions.owner.name):
                await other.sessions.send(ME, bound.id, say())
            assert (await one.sessions.send(ME, bound.id, say())).turn.status == "done"
            await sound(one)

    asyncio.run(run())


class Lingers(EchoRunner):
    """Breaks in a turn, and then takes its time to be closed; or hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.closing, self.may = asyncio.Event(), asyncio.Event()
        self.broken: set[str] = set()

    async def turn(self, session_id: str, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        if "breaks" in turn.said.parts[0].text:
            self.broken.add(session_id)
            raise ZeroDivisionError
        yield TextDelta("so far")
        await asyncio.sleep(3600)

    async def close(self, session_id: str, workspace: str = "") -> None:
        if session_id in self.broken:
            self.closing.set()
            await self.may.wait()
        await super().close(session_id, workspace)


@KINDS
def test_with_the_lease_every_turn_ends(tmp_path: Path, kind: str) -> None:
    """Whatever one of them is at, such as closing its runner, the others are ended too."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            runner = Lingers()
            node.sessions._means.runners["echo"] = runner  # type: ignore[index]  # a dict underneath
            sessions = [await made(node) for _ in range(2)]
            await node.sessions.begin(ME, sessions[0].id, say("breaks"))
            await runner.closing.wait()
            await node.sessions.begin(ME, sessions[1].id, say("hangs"))
            await until_told(node, sessions[1], "text_delta")
            hangs = node.sessions.turns.live[sessions[1].key]
            await node.sessions.turns.lost()
            await asyncio.wait_for(hangs.finished.wait(), 60)
            runner.may.set()

    asyncio.run(run())


@KINDS
def test_a_lease_is_not_forgotten_while_something_is_held_under_it(tmp_path: Path, kind: str) -> None:
    """Or nobody would look for what is: what is written last counts."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, "single_container")
            name = node.sessions.owner.name
            assert not await node.database.write(owner_service._forget_unused, name)
            await node.sessions.terminate(ME, session.id)
            assert await node.database.write(owner_service._forget_unused, name)
            assert not await node.database.read(
                lambda reader: reader.rows("SELECT 1 FROM leases WHERE name = ?", (name,))
            )

    asyncio.run(run())
