"""Turns on a real node: what ends them, what waits for them, and what they cost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.sessions.hosted import ME, got, made, new, say, sound, story, until, until_told, watching
from tests.sessions.rigs import mapped_of, node_of

from adjourn.errors import BudgetReached, PriceUnknown, SessionEnded, TooBusy, TurnRunning
from adjourn.node import Node
from adjourn.runner import Cost, Done, TextDelta, Turn, TurnEvent, TurnFailed
from adjourn.runners.echo import EchoRunner
from adjourn.sessions.session import Limits, Patch, Session
from adjourn.sessions.turn import Completing

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@KINDS
@pytest.mark.parametrize(("pattern", "status", "outcome"), [("hybrid", "idle", ""), ("ephemeral", "error", "timeout")])
def test_a_turn_that_takes_too_long_fails(tmp_path: Path, kind: str, pattern: Any, status: str, outcome: str) -> None:
    """It has failed with the limit's name, what it said until then is kept, and the session is where its pattern
    leaves it."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, pattern, limits=Limits(turn_timeout_ms=50), options={"hang": True})
            answer = await node.sessions.send(ME, session.id, say("so far"))
            assert answer.turn.error is not None
            assert (answer.turn.status, answer.turn.error.code) == ("failed", "turn_timeout_ms")
            assert (answer.turn.text, answer.session.status, answer.session.outcome) == ("so far", status, outcome)
            assert answer.session.messages == 2
            await sound(node)

    asyncio.run(run())


class Stubborn(EchoRunner):
    """Ignores interrupts; or says what no database can hold; or breaks."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.closed = 0

    async def turn(self, session_id: str, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        if "again" in turn.said.parts[0].text:
            yield Done(text="fine")
            return
        yield TextDelta("so far")
        yield Cost(7)
        if self.how == "hangs":
            await asyncio.sleep(3600)
        elif self.how == "nul":
            yield TurnFailed("a\0b" * 1000, "a\0b")
        elif self.how == "agent":
            yield TextDelta("and more", "a\0b")  # a column, which PostgreSQL cannot store
        elif self.how == "surrogate":
            yield TextDelta("\ud800")
        elif self.how == "breaks":
            raise ZeroDivisionError
        # else it ends without a last event

    async def interrupt(self, session_id: str) -> None:
        if self.how == "hangs":
            await asyncio.sleep(3600)

    async def close(self, session_id: str, workspace: str = "") -> None:
        self.closed += 1
        self._configs.pop(session_id, None)


@KINDS
@pytest.mark.parametrize("how", ["nul", "agent", "surrogate", "breaks", "silent"])
def test_whatever_a_runner_says_its_turn_is_settled(tmp_path: Path, kind: str, how: str) -> None:
    """Codes with NUL, half a character, an exception, no last event: each is a turn that has an end and a cost, and the
    session takes the next message."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            node.sessions._means.runners["echo"] = Stubborn(how)  # type: ignore[index]  # a dict underneath
            session = await made(node)
            first = await node.sessions.send(ME, session.id, say())
            assert first.turn.status in ("failed", "done")
            assert first.turn.cost_nanousd == 7
            assert (await node.sessions.send(ME, session.id, say("again"))).turn.text == "fine"
            ephemeral = await made(node, "ephemeral")
            await node.sessions.send(ME, ephemeral.id, say())
            assert (await got(node, ephemeral)).ended_ms is not None
            found = await story(node)
            assert len(found.completions(ephemeral.id)) == 1
            assert found.sessions[session.key].turn_id is None

    asyncio.run(run())


@KINDS
def test_a_runner_that_ignores_interrupts_is_ended_by_force(tmp_path: Path, kind: str) -> None:
    """Its turn is over all the same, and what it holds is released."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            runner = Stubborn("hangs")
            node.sessions._means.runners["echo"] = runner  # type: ignore[index]  # a dict underneath
            session = await made(node, "long_running")
            sending = asyncio.ensure_future(node.sessions.send(ME, session.id, say()))
            await until_told(node, session, "text_delta")
            ended = await node.sessions.terminate(ME, session.id)
            assert ended.status == "terminated"
            assert (await sending).turn.status == "interrupted"
            assert runner.closed > 0
            await sound(node)

    asyncio.run(run())


@KINDS
def test_an_interrupt_that_comes_at_once_is_heard(tmp_path: Path, kind: str) -> None:
    """Before the runner has begun the turn, or in any moment after: the turn ends, and nothing waits for force."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            for number in range(12):
                session = await made(node, options={"hang": True})
                turn = await node.sessions.begin(ME, session.id, say())
                for _ in range(number):
                    await asyncio.sleep(0)
                assert (await node.sessions.interrupt(ME, session.id)).turn_id is None
                answer = await node.sessions.answer(ME, session.id, turn.turn_id)
                assert answer.turn.status == "interrupted"
            await sound(node)

    asyncio.run(run())


# --- what waits ------------------------------------------------------------------------------------------------------


@KINDS
def test_messages_wait_in_their_order_and_are_bounded(tmp_path: Path, kind: str) -> None:
    """While a turn runs, others are refused unless they may wait; those are run one by one as they came, and one more
    than may wait is refused."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path, hosting={"queue_max": 5})) as node:
            session = await made(node)
            hanging = asyncio.ensure_future(node.sessions.send(ME, session.id, say(options={"hang": True})))
            await until_told(node, session, "text_delta")
            with pytest.raises(TurnRunning, match="on this node"):
                await node.sessions.send(ME, session.id, say())
            waiting: list[asyncio.Future[Any]] = []
            for number in range(5):
                turn = await node.sessions.begin(ME, session.id, say(f"m{number}", queue=True))
                assert (turn.status, turn.number) == ("queued", number + 2)
                waiting.append(asyncio.ensure_future(node.sessions.answer(ME, session.id, turn.turn_id)))
            with pytest.raises(TooBusy, match=r"hosting\.queue_max"):
                await node.sessions.begin(ME, session.id, say(queue=True))
            over = asyncio.Event()
            looking = asyncio.ensure_future(watching(node, over))
            await node.sessions.interrupt(ME, session.id)
            answers = await asyncio.gather(*waiting)
            over.set()
            await looking
            assert [answer.turn.text for answer in answers] == [f"m{number}" for number in range(5)]
            began = [answer.turn.began_ms for answer in answers]
            assert began == sorted(began)
            assert (await hanging).turn.status == "interrupted"
            assert (await sound(node)).sessions[session.key].spent.turns == 6

    asyncio.run(run())


@KINDS
def test_what_waits_for_a_session_that_ends_is_told(tmp_path: Path, kind: str) -> None:
    """Its turns have failed as `session_ended`, without having begun."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node)
            await node.sessions.begin(ME, session.id, say(options={"hang": True}))
            waits = await node.sessions.begin(ME, session.id, say(queue=True))
            await node.sessions.terminate(ME, session.id)
            answer = await node.sessions.answer(ME, session.id, waits.turn_id)
            assert answer.turn.error is not None
            assert (answer.turn.status, answer.turn.error.code) == ("failed", "session_ended")
            await sound(node)

    asyncio.run(run())


@KINDS
def test_what_its_own_node_did_not_begin_the_sweep_does(tmp_path: Path, kind: str) -> None:
    """A queued message whose turn nobody began runs within seconds: none waits for ever."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node)
            turn = await node.sessions.begin(ME, session.id, say(options={"hang": True}))
            waits = await node.sessions.begin(ME, session.id, say("later", queue=True))
            begin, node.sessions.turns._begin_queued = node.sessions.turns._begin_queued, failing  # type: ignore[assignment,method-assign]  # as if the database were away
            await node.sessions.interrupt(ME, session.id)
            await node.sessions.answer(ME, session.id, turn.turn_id)
            assert (await got(node, session)).queued == 1
            node.sessions.turns._begin_queued = begin  # type: ignore[method-assign]  # it is back
            assert (await node.sessions.answer(ME, session.id, waits.turn_id)).turn.text == "later"
            await sound(node)

    async def failing(*_: object) -> None:
        raise TooBusy("the database has too much to do; send again", retry_after_ms=1)

    asyncio.run(run())


# --- money -----------------------------------------------------------------------------------------------------------


@KINDS
def test_crossing_a_budget_stops_the_turn(tmp_path: Path, kind: str) -> None:
    """A turn that streams is stopped by the usage that crosses it, is billed for that one, and the session ends as a
    timeout of its budget; what holds no price has no budget."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            with pytest.raises(PriceUnknown):
                await node.sessions.create(ME, new(limits=Limits(max_budget_usd=Decimal(1))))
            for pattern in ("hybrid", "ephemeral"):
                options = {"chunks": 100, "cost_usd": "1.00"}
                session = await made(node, pattern, budget="0.25", options=options)  # type: ignore[arg-type]  # both are patterns
                answer = await node.sessions.send(ME, session.id, say("word " * 100))
                assert answer.turn.error is not None
                assert (answer.turn.error.code, answer.turn.cost_nanousd) == ("budget_reached", 250_000_000)
                now = answer.session
                assert (now.status, now.outcome, now.error_code) == ("terminated", "timeout", "max_budget_usd")
            await sound(node)

    asyncio.run(run())


@KINDS
def test_a_tree_has_one_budget(tmp_path: Path, kind: str) -> None:
    """What children spend is their parents' too: the third child finds nothing left and is told of whom; raising that
    budget lets it go on."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            top = await made(node, budget="0.8")
            middle = await made(node, budget="5", parent_id=top.id)
            options = {"cost_usd": "0.4"}
            children = [await made(node, parent_id=middle.id, options=options, price=PRICE) for _ in range(3)]
            assert (await node.sessions.send(ME, children[0].id, say())).turn.status == "done"
            stopped = (await node.sessions.send(ME, children[1].id, say())).turn.error
            assert stopped is not None
            assert stopped.code == "budget_reached"
            with pytest.raises(BudgetReached, match=f"session {top.id}, over it"):
                await node.sessions.send(ME, children[2].id, say())
            wanted = Patch(revision=1, limits=Limits(max_budget_usd=Decimal(2)))
            await node.sessions.patch(ME, top.id, wanted)
            assert (await node.sessions.send(ME, children[2].id, say())).turn.status == "done"
            found = await sound(node)
            assert found.balances == {f"budget/{ME}/{top.id}": 800_000_000, f"budget/{ME}/{middle.id}": 3_800_000_000}

    asyncio.run(run())


PRICE = new(budget="1").price


@KINDS
def test_a_budget_that_comes_later_counts_what_was_spent_before(tmp_path: Path, kind: str) -> None:
    """By the session and by all under it; while a turn runs that holds nothing of it, it cannot come."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            top = await made(node, price=PRICE, options={"cost_usd": "0.1"})
            child = await made(node, parent_id=top.id, price=PRICE, options={"cost_usd": "0.2", "hang": True})
            await node.sessions.send(ME, top.id, say())
            turn = await node.sessions.begin(ME, child.id, say())
            wanted = Patch(revision=1, limits=Limits(max_budget_usd=Decimal(1)))
            with pytest.raises(TurnRunning, match=child.id):
                await node.sessions.patch(ME, top.id, wanted)
            await until_told(node, child, "cost")
            await node.sessions.interrupt(ME, child.id)
            await node.sessions.answer(ME, child.id, turn.turn_id)
            await node.sessions.patch(ME, top.id, wanted)
            assert (await sound(node)).balances == {f"budget/{ME}/{top.id}": 700_000_000}

    asyncio.run(run())


@KINDS
def test_no_money_is_made_or_lost(tmp_path: Path, kind: str, rng: random.Random) -> None:
    """A tree of twelve sessions with budgets here and there: whatever their turns cost, whether they fail, are
    interrupted, run out, or end their sessions, at every instant what is left of each budget, what is held and what was
    spent add up to it, to the last nano-USD; and no budget is passed by more than one usage of each turn."""

    async def one(node: Node, session: Session, seed: int) -> None:
        mine = random.Random(seed)
        for _ in range(4):
            chunks = mine.randrange(1, 8)
            options: dict[str, object] = {"chunks": chunks, "cost_usd": f"{mine.randrange(1, 300) / 1000}"}
            options |= mine.choice([{}, {"fail": {}}, {"hang": True}, {"chunk_ms": 2}])
            try:
                turn = await node.sessions.begin(ME, session.id, say("w " * 8, options=options))
            except (BudgetReached, SessionEnded):
                continue
            if "hang" in options:
                await asyncio.sleep(mine.random() / 50)
                await node.sessions.interrupt(ME, session.id)
            await node.sessions.answer(ME, session.id, turn.turn_id)
        if mine.random() < 0.5:
            try:
                await node.sessions.complete(ME, session.id, Completing())
            except SessionEnded:
                return

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            sessions = [await made(node, budget="1.7")]
            for number in range(11):
                parent = rng.choice(sessions)
                budget = rng.choice([None, "0.4", "1.1"])
                sessions.append(await made(node, budget=budget, parent_id=parent.id, price=PRICE, name=str(number)))
            over = asyncio.Event()
            looking = asyncio.ensure_future(watching(node, over))
            await asyncio.gather(*(one(node, session, rng.randrange(2**32)) for session in sessions))
            over.set()
            await looking
            found = await sound(node)
            assert not [t for turns in found.turns.values() for t in turns if t.reservation == "held"]
            assert min(found.balances.values()) > -300_000_000 * 12

    asyncio.run(run())


# --- stopping --------------------------------------------------------------------------------------------------------


@KINDS
def test_a_node_that_is_stopped_leaves_nothing_that_is_owned(tmp_path: Path, kind: str) -> None:
    """Turns may end by themselves, bounded; then each session is ended or parked by its pattern, what waits is begun by
    the next node, and what was held is given back."""

    async def run() -> None:
        mapped = mapped_of(kind, tmp_path)
        async with node_of(mapped) as node:
            kinds = ("ephemeral", "hybrid", "long_running", "single_container")
            hanging = [await made(node, pattern, budget="1", options={"hang": True}) for pattern in kinds]  # type: ignore[arg-type]  # all are patterns
            quick = [await made(node, pattern, options={"delay_ms": 100}) for pattern in kinds]  # type: ignore[arg-type]  # all are patterns
            resting = [await made(node, pattern) for pattern in kinds]  # type: ignore[arg-type]  # all are patterns
            await node.sessions.send(ME, resting[2].id, say())
            for session in (*hanging, *quick):
                await node.sessions.begin(ME, session.id, say())
            waits = await node.sessions.begin(ME, hanging[1].id, say("later", queue=True, options={"hang": False}))
            await node.close(4)
        async with node_of(mapped) as node:
            statuses = [[(await got(node, session)).status for session in group] for group in (hanging, quick, resting)]
            assert statuses == [
                ["error", statuses[0][1], "active", "error"],
                ["completed", "idle", "active", "error"],
                ["active", "active", "active", "error"],
            ]
            assert (await got(node, hanging[0])).error_code == "node_stopped"
            assert (await node.sessions.answer(ME, hanging[1].id, waits.turn_id)).turn.text == "later"
            found = await sound(node)
            assert [session.id for session in found.sessions.values() if session.node] == []

    asyncio.run(run())


@KINDS
def test_the_runner_of_a_session_that_ended_elsewhere_is_closed(tmp_path: Path, kind: str) -> None:
    """Two nodes: one holds a session's runner open, the other ends the session, or runs its next turn: the first lets
    go."""

    async def run() -> None:
        mapped = mapped_of(kind, tmp_path)
        async with node_of(mapped) as one, node_of(mapped) as other:
            ended, moved = await made(one, "long_running"), await made(one, "long_running")
            for session in (ended, moved):
                await one.sessions.send(ME, session.id, say())
            assert len(one.sessions.turns.opened.held) == 2
            await other.sessions.terminate(ME, ended.id)
            await other.sessions.send(ME, moved.id, say())

            async def released() -> bool:
                return not one.sessions.turns.opened.held

            await until(released)
            await sound(one)

    asyncio.run(run())
