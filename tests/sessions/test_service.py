"""Hosted sessions on a real node, over both databases: each pattern's life, and what every caller is promised."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from tests.sessions.hosted import ME, got, made, new, say, sound, steps, until_status, until_told
from tests.sessions.rigs import mapped_of, node_of

from adjourn.errors import (
    KeyReused,
    LimitReached,
    MessageConflict,
    NotFound,
    RevisionStale,
    SessionEnded,
    TurnRunning,
)
from adjourn.node import Node
from adjourn.runner import Agent
from adjourn.sessions.session import Limits, Patch, Session
from adjourn.sessions.turn import Completing

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
HANGS = {"hang": True}


async def told(node: Node, session: Session) -> list[str]:
    return steps(await node.sessions.events(ME, session.id, limit=1_000))


# --- the life of each pattern ----------------------------------------------------------------------------------------


@KINDS
def test_an_ephemeral_session_completes_itself_with_its_turn(tmp_path: Path, kind: str) -> None:
    """Its events are in order, its one completion has the answer and the usage, and it takes no second message."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, "ephemeral", user_id="u")
            assert session.status == "active"
            answer = await node.sessions.send(ME, session.id, say("hello there"))
            assert (answer.turn.status, answer.turn.text, answer.session.status) == ("done", "hello there", "completed")
            assert await told(node, session) == [
                *("initializing>active", "turn_began", "text_delta", "usage", "done", "turn_ended"),
                *("active>completed", "completed"),
            ]
            with pytest.raises(SessionEnded, match=f"is completed.*resumed_from: {session.id}"):
                await node.sessions.send(ME, session.id, say())
            (completion,) = (await sound(node)).completions(session.id)
            assert completion["outcome"] == {"status": "success", "final_message": "hello there"}
            assert completion["usage"]["total_tokens"] == 4
            assert completion["user"] == {"user_id": "u"}

    asyncio.run(run())


@KINDS
def test_an_ephemeral_session_whose_turn_fails_ends_in_error(tmp_path: Path, kind: str) -> None:
    """The completion has the runner's code and its message."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, "ephemeral", options={"fail": {"code": "model_down", "message": "try later"}})
            answer = await node.sessions.send(ME, session.id, say())
            assert (answer.turn.status, answer.session.status) == ("failed", "error")
            (completion,) = (await sound(node)).completions(session.id)
            assert completion["outcome"] == {
                "status": "error",
                "error_code": "model_down",
                "final_message": "try later",
            }

    asyncio.run(run())


@KINDS
def test_a_hybrid_session_idles_between_its_turns(tmp_path: Path, kind: str) -> None:
    """Each message wakes it, its conversation grows, and completing it while idle is two changes of status."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, options={"reply": "{messages}"})
            for expected in ("0", "2", "4"):
                answer = await node.sessions.send(ME, session.id, say())
                assert (answer.turn.text, answer.session.status) == (expected, "idle")
            ended = await node.sessions.complete(ME, session.id, Completing(final_message="enough"))
            assert (ended.status, ended.outcome) == ("completed", "success")
            turn = ["turn_began", "text_delta", "usage", "done", "turn_ended", "active>idle"]
            assert await told(node, session) == [
                *("initializing>active", *turn, "idle>active", *turn, "idle>active", *turn),
                *("idle>active", "active>completed", "completed"),
            ]
            found = await sound(node)
            assert found.completions(session.id)[0]["outcome"]["final_message"] == "enough"
            assert found.moves(session.id)[-2:] == [("idle", "active"), ("active", "completed")]

    asyncio.run(run())


@KINDS
def test_a_long_running_session_stays_active(tmp_path: Path, kind: str) -> None:
    """Its runner stays open between turns, a turn that fails does not end it, and terminating it is user_terminated."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, "long_running")
            assert node.sessions.turns.opened.held == {}
            for options, status in (({}, "done"), ({"fail": {}}, "failed"), ({}, "done")):
                answer = await node.sessions.send(ME, session.id, say(options=options))
                assert (answer.turn.status, answer.session.status) == (status, "active")
                assert list(node.sessions.turns.opened.held) == [session.key]
            ended = await node.sessions.terminate(ME, session.id)
            assert (ended.status, ended.outcome) == ("terminated", "user_terminated")
            assert node.sessions.turns.opened.held == {}
            await sound(node)
            assert (await node.sessions.terminate(ME, session.id)).status == "terminated"
            with pytest.raises(SessionEnded, match="terminated already"):
                await node.sessions.complete(ME, session.id, Completing())

    asyncio.run(run())


@KINDS
def test_the_agents_of_a_single_container_are_counted_apart(tmp_path: Path, kind: str) -> None:
    """Each named agent has its own usage, and together they are the session's; who names none of several is told."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            agents = [Agent(name="ann"), Agent(name="bob")]
            session = await made(node, "single_container", agents=agents, options={"reply": "{agent}: {text}"})
            assert session.status == "active"
            assert list(node.sessions.turns.opened.held) == [session.key]
            for name, words in (("ann", "one"), ("bob", "one two"), ("ann", "one two three")):
                answer = await node.sessions.send(ME, session.id, say(words, agent=name))
                assert answer.turn.text == f"{name}: {words}"
            for wrong in ("", "eve"):
                with pytest.raises(NotFound, match="ann, bob"):
                    await node.sessions.send(ME, session.id, say(agent=wrong))
            now = await got(node, session)
            by_agent = now.described.by_agent
            assert {name: (used.turns, used.input_tokens) for name, used in by_agent.items()} == {
                "ann": (2, 4),
                "bob": (1, 2),
            }
            for field in ("turns", "input_tokens", "output_tokens"):
                assert sum(getattr(used, field) for used in by_agent.values()) == getattr(now.spent, field)
            await sound(node)

    asyncio.run(run())


# --- the same call again ---------------------------------------------------------------------------------------------


@KINDS
def test_the_same_call_again_gets_the_same_answer(tmp_path: Path, kind: str) -> None:
    """With an idempotency key, ten at once are one turn, and so is one more after the session has ended; another
    message with the same key is refused, and the key means nothing in another session."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, "ephemeral", options={"delay_ms": 20})

            async def send(text: str = "hello", queue: bool = False) -> tuple[str, str, bytes]:
                message = say(text, queue=queue)
                answer = await node.sessions.send(ME, session.id, message, idempotency_key="k")
                return answer.turn.turn_id, answer.session.status, msgspec.json.encode(answer.turn)

            first = await asyncio.gather(*(send(queue=bool(n % 2)) for n in range(10)))
            assert len(set(first)) == 1
            assert await send() == first[0]
            with pytest.raises(KeyReused, match=first[0][0]):
                await send("something else")
            other = await made(node, "ephemeral")
            assert (await node.sessions.send(ME, other.id, say(), idempotency_key="k")).turn.turn_id != first[0][0]
            assert [len(turns) for turns in (await sound(node)).turns.values()] == [1, 1]

    asyncio.run(run())


@KINDS
def test_a_session_is_created_once_for_one_key(tmp_path: Path, kind: str) -> None:
    """Ten calls at once make one session and say so; what was asked for otherwise is refused. The server being full by
    then is no reason to refuse what was done before."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path, hosting={"max_sessions": 1})) as node:
            made_ = await asyncio.gather(
                *(node.sessions.create(ME, new("hybrid"), idempotency_key="k") for _ in range(10))
            )
            assert len({session.id for session, _ in made_}) == 1
            assert [fresh for _, fresh in made_].count(True) == 1
            await asyncio.sleep(1.2)  # by now the node has counted again
            again, fresh = await node.sessions.create(ME, new("hybrid"), idempotency_key="k")
            assert (again.id, fresh) == (made_[0][0].id, False)
            with pytest.raises(KeyReused, match=again.id):
                await node.sessions.create(ME, new("ephemeral"), idempotency_key="k")
            with pytest.raises(LimitReached, match=r"hosting\.max_sessions"):
                await node.sessions.create(ME, new("hybrid"))
            assert len((await sound(node)).sessions) == 1

    asyncio.run(run())


# --- changing --------------------------------------------------------------------------------------------------------


@KINDS
def test_a_stale_patch_is_refused(tmp_path: Path, kind: str) -> None:
    """Of ten that saw the same revision one is taken, and the others are told the revision that there is."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, tags=["a", "b"])
            patches = [Patch(revision=1, name=f"n{n}", tags=["b", f"t{n}"], state={"n": n}) for n in range(10)]
            done = await asyncio.gather(
                *(node.sessions.patch(ME, session.id, patch) for patch in patches), return_exceptions=True
            )
            (taken,) = [each for each in done if isinstance(each, Session)]
            refused = [each for each in done if isinstance(each, RevisionStale)]
            assert len(refused) == 9
            assert all("is at revision 2, and this change was made for 1" in each.message for each in refused)
            now = await got(node, session)
            assert (now.revision, now.name, now.state) == (2, taken.name, taken.state)
            rows = await node.database.read(lambda r: r.rows("SELECT tag FROM session_tags ORDER BY tag"))
            assert sorted(str(tag) for (tag,) in rows) == sorted(taken.described.tags)

    asyncio.run(run())


@KINDS
def test_a_message_can_be_appended_without_a_turn(tmp_path: Path, kind: str) -> None:
    """It has its place in the conversation, once by its id; it waits for a turn that runs if it may, and an ended
    session takes none."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node, options={"reply": "{messages}"})
            note = say("by the way", run=False, message_id="m1")
            assert await node.sessions.append(ME, session.id, note) == ("m1", 1)
            await node.sessions.append(ME, session.id, say("and", run=False))
            assert await node.sessions.append(ME, session.id, note) == ("m1", 1)
            with pytest.raises(MessageConflict):
                await node.sessions.append(ME, session.id, say("something else", run=False, message_id="m1"))
            sending = asyncio.ensure_future(node.sessions.send(ME, session.id, say(options={"delay_ms": 200})))
            await until_told(node, session, "turn_began")
            with pytest.raises(TurnRunning, match="queue: true"):
                await node.sessions.append(ME, session.id, say(run=False))
            _, place = await node.sessions.append(ME, session.id, say(run=False, queue=True))
            assert (await sending).turn.text == "2"
            assert place == 5
            await node.sessions.complete(ME, session.id, Completing())
            with pytest.raises(SessionEnded):
                await node.sessions.append(ME, session.id, say(run=False))
            await sound(node)

    asyncio.run(run())


# --- going on --------------------------------------------------------------------------------------------------------


@KINDS
def test_an_ended_session_is_gone_on_with_in_a_new_one(tmp_path: Path, kind: str) -> None:
    """The new one begins with its conversation and state, and the budget that it had left; the old one stays as it
    ended."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            options = {"reply": "{messages} {state}", "cost_usd": "0.4"}
            session = await made(node, budget="1", options=options, state={"a": 1}, name="n")
            assert (await node.sessions.resume(ME, session.id)).id == session.id
            await node.sessions.send(ME, session.id, say())
            assert (await node.sessions.resume(ME, session.id)).status == "active"
            await node.sessions.complete(ME, session.id, Completing())
            resumed = await node.sessions.resume(ME, session.id)
            assert (resumed.resumed_from, resumed.name, resumed.status) == (session.id, "n", "active")
            assert (await node.sessions.send(ME, resumed.id, say())).turn.text == '2 {"a":1}'
            assert (await got(node, session)).messages == 2
            assert resumed.described.limits.max_budget_usd == Decimal("0.6")
            assert (await sound(node)).balances[f"budget/{ME}/{resumed.id}"] == 200_000_000
            gone_on = new(resumed_from=resumed.id)
            with pytest.raises(TurnRunning, match="has not ended"):
                await node.sessions.create(ME, gone_on)

    asyncio.run(run())


# --- following -------------------------------------------------------------------------------------------------------


@KINDS
def test_whoever_follows_is_told_all_once_and_in_order(tmp_path: Path, kind: str) -> None:
    """From the first event or from any other, before, while and after it happens; it ends when all is told."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            session = await made(node)

            async def follow(after: int) -> list[int]:
                return [event.seq async for event in node.sessions.follow(ME, session.id, after=after)]

            followers = [asyncio.ensure_future(follow(after)) for after in (0, 0, 3)]
            for _ in range(3):
                await node.sessions.send(ME, session.id, say("word " * 40, options={"chunks": 40}))
                followers.append(asyncio.ensure_future(follow(0)))
            await node.sessions.complete(ME, session.id, Completing())
            count = (await got(node, session)).events
            for seqs in (*await asyncio.gather(*followers), await follow(0)):
                assert seqs == list(range(seqs[0], count + 1))
            assert json.loads(bytes((await node.sessions.events(ME, session.id, after=count - 1))[0].data))

    asyncio.run(run())


@KINDS
def test_limits_by_use_end_a_session(tmp_path: Path, kind: str) -> None:
    """The turn that takes the last turn or token is the last one: the session ends with it, as a timeout with the
    limit's name."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            for limits, code, turns in ((Limits(max_turns=2), "max_turns", 2), (Limits(max_tokens=5), "max_tokens", 3)):
                session = await made(node, limits=limits)
                for _ in range(turns):
                    await node.sessions.send(ME, session.id, say())
                now = await got(node, session)
                assert (now.status, now.outcome, now.error_code) == ("terminated", "timeout", code)
                with pytest.raises(SessionEnded, match=code):
                    await node.sessions.send(ME, session.id, say())
            await sound(node)

    asyncio.run(run())


@KINDS
def test_a_caller_that_hangs_up_leaves_nothing_half_done(tmp_path: Path, kind: str) -> None:
    """Whoever is cancelled anywhere between asking and the answer: the turn that has begun runs to its end, and a
    session that was being opened is open or has ended; none is stuck."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            sessions = [await made(node) for _ in range(40)]
            for number, session in enumerate(sessions):
                sending = asyncio.ensure_future(node.sessions.send(ME, session.id, say()))
                for _ in range(number // 4):
                    await asyncio.sleep(0)
                if number % 4 > 1:
                    await asyncio.sleep(number / 10_000)
                sending.cancel()
                creating = asyncio.ensure_future(node.sessions.create(ME, new("single_container")))
                await asyncio.sleep(number / 10_000)
                creating.cancel()
            for session in sessions:
                await until_free(node, session)
            found = await sound(node)
            for session in found.sessions.values():
                if session.pattern == "single_container":
                    await until_status(node, session, "active")

    asyncio.run(run())


async def until_free(node: Node, session: Session) -> None:
    """It takes a message again."""
    answer = await node.sessions.send(ME, session.id, say(queue=True))
    assert answer.turn.status == "done"
