"""Hosted sessions when processes die or stand still, and when the database goes away: each that has ended has one
completion, none is owned by the dead, and no money is made, lost or held."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests import postgres
from tests.faults.rigs import IMPORTS, Nursery, ended
from tests.sessions.hosted import ME, Story, got, made, say, sound, story, until, until_told
from tests.sessions.rigs import mapped_of, node_of

import adjourn.logs.leases
from adjourn.errors import AdjournError
from adjourn.node import Node
from adjourn.sessions import owner_service
from adjourn.sessions.turn import Completing
from adjourn.testing.faults import run_python, stopped

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])

WORLD = """
import msgspec
from decimal import Decimal
from adjourn.errors import AdjournError
from adjourn.runner import RunnerConfig
from adjourn.sessions.session import Limits, NewSession, Price
from adjourn.sessions.turn import Completing, Message

PRICE = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(1))
PATTERNS = ("ephemeral", "hybrid", "long_running", "single_container")
def new(pattern, parent_id=None, **options):
    config = RunnerConfig(options=options, max_output_tokens=64)
    limits = Limits(max_budget_usd=Decimal(2))
    return NewSession(pattern=pattern, config=config, limits=limits, price=PRICE, parent_id=parent_id)
"""

LIVING = (
    WORLD
    + """
def run(argument, pipe):
    rng = random.Random(argument["seed"])
    def say(*words):
        os.write(pipe, (" ".join(words) + "\\n").encode())
    async def one(node, number, top):
        pattern = PATTERNS[number % 4]
        options = {"chunks": rng.randrange(1, 9), "chunk_ms": rng.choice((0, 1, 20)), "cost_usd": "0.003"}
        session, _ = await node.sessions.create("default", new(pattern, rng.choice((None, top)), **options))
        say("created", session.id)
        for turn in range(rng.randrange(1, 6)):
            hang = {"hang": True} if rng.random() < 0.15 else {"fail": {}} if rng.random() < 0.1 else {}
            message = Message(prompt="w " * 9, queue=rng.random() < 0.3, options=hang)
            if message.queue:
                for _ in range(2):
                    await node.sessions.begin("default", session.id, message)
            answer = await node.sessions.send("default", session.id, message)
            say("answered", session.id, answer.turn.turn_id, answer.turn.status)
            await asyncio.sleep(rng.random() / 20)
        ends = rng.random()
        if ends < 0.3:
            await node.sessions.complete("default", session.id, Completing())
        elif ends < 0.5:
            await node.sessions.terminate("default", session.id)
        else:
            return
        say("ended", session.id)
    async def tried(node, number, top):
        try:
            await one(node, number, top)
        except AdjournError:
            pass
    async def main():
        async with Node(settings) as node:
            top, _ = await node.sessions.create("default", new("hybrid"))
            waves = [asyncio.ensure_future(tried(node, number, top.id)) for number in range(argument["count"])]
            while not node.sessions.turns.live:
                await asyncio.sleep(0)
            say("living")
            await asyncio.gather(*waves)
            say("done")
            await asyncio.sleep(3600)
    asyncio.run(main())
"""
)


def said(lines: Sequence[str], word: str) -> list[list[str]]:
    return [line.split()[1:] for line in lines if line.split()[0] == word]


def assert_settled(found: Story, lines: Sequence[str]) -> None:
    """Nothing that was acknowledged is gone; nothing is owned by the dead or held for them."""
    by_id = {session.id: session for session in found.sessions.values()}
    assert {session_id for (session_id,) in said(lines, "created")} <= by_id.keys()
    for (session_id,) in said(lines, "ended"):
        assert len(found.completions(session_id)) == 1
    statuses = {turn.turn_id: turn.status for turns in found.turns.values() for turn in turns}
    for _, turn_id, status in said(lines, "answered"):
        assert statuses[turn_id] == status
    assert [session.id for session in by_id.values() if session.turn_id or session.node or session.queued] == []
    assert [turn for turns in found.turns.values() for turn in turns if turn.reservation == "held"] == []


async def settled(node: Node) -> Story:
    """Once what was queued has been run, and turns of that have ended."""

    async def resting() -> bool:
        found = await story(node)
        for session in found.sessions.values():
            if session.turn_id is not None:
                try:
                    await node.sessions.interrupt(ME, session.id)
                except AdjournError:
                    continue
        return not [s for s in found.sessions.values() if s.turn_id is not None or s.queued]

    await until(resting)
    return await sound(node)


@pytest.mark.timeout(300)
@KINDS
def test_killed_with_live_sessions_of_every_pattern_in_every_phase(
    tmp_path: Path, kind: str, rng: random.Random
) -> None:
    """SIGKILL again and again of a server that hosts a hundred sessions: after each restart every ended session has
    exactly one completion, no live one has a dead owner, what was acknowledged stands, what was queued runs, hybrid
    ones go on with their conversation, and of every budget what is left and what was spent are the whole of it."""
    mapped = mapped_of(kind, tmp_path, hosting={"ephemeral_retention_ms": 3_600_000})
    lines: list[str] = []
    abandoned = 0

    async def look() -> None:
        nonlocal abandoned
        async with node_of(mapped) as node:
            found = await sound(node)
            mine = node.sessions.owner.name
            assert [s.id for s in found.sessions.values() if s.node not in (None, mine)] == []
            abandoned += len([1 for turns in found.turns.values() for t in turns if t.status == "abandoned"])
            held = [s for s in (await settled(node)).sessions.values() if s.status == "idle"]
            for session in rng.sample(held, min(5, len(held))):
                options = {"reply": "{messages}", "hang": False, "cost_usd": "0"}
                answer = await node.sessions.send(ME, session.id, say(options=options))
                assert answer.turn.text == str(session.messages), answer
        async with node_of(mapped) as node:
            assert_settled(await sound(node), lines)

    with Nursery(LIVING, mapped) as nursery:
        for _ in range(3):
            after_s = rng.uniform(0.05, 1.2)
            _, more = nursery.kill_one(after_s=after_s, once_it_spoke=True, seed=rng.randrange(2**32), count=100)
            lines += more
            asyncio.run(look())
    print(f"{len(lines)} lines, {abandoned} turns abandoned")


LIFE = (
    WORLD
    + """
from adjourn.databases.sqlite import SqliteDriver
from adjourn.databases.postgres import PostgresDriver
def run(argument, pipe):
    seen = 0
    def killing(commit):
        def counted(self):
            nonlocal seen
            if armed and threading.current_thread().name.startswith("adjourn-lane"):
                seen += 1
            if seen == argument["commit"] and argument["when"] == "before":
                os.kill(os.getpid(), 9)
            commit(self)
            if seen == argument["commit"]:
                os.kill(os.getpid(), 9)
        return counted
    armed = False
    for driver in (SqliteDriver, PostgresDriver):
        driver.commit = killing(driver.commit)
    async def main():
        nonlocal armed
        async with Node(configfile.parse(argument["mapped"], "test", {})) as node:
            armed = True
            sessions = node.sessions
            top, _ = await sessions.create("default", new("hybrid"))
            child, _ = await sessions.create("default", new(argument["pattern"], top.id, cost_usd="0.01", chunks=3))
            turn = await sessions.begin("default", child.id, Message(prompt="a b c", options={"hang": True}))
            await sessions.begin("default", child.id, Message(prompt="later", queue=True))
            await asyncio.sleep(0.01)
            await sessions.interrupt("default", child.id)
            await sessions.answer("default", child.id, turn.turn_id)
            try:
                await sessions.send("default", child.id, Message(prompt="more", queue=True))
                await sessions.complete("default", child.id, Completing())
            except AdjournError:
                pass
            await sessions.terminate("default", top.id)
            os.write(pipe, b"lived\\n")
    asyncio.run(main())
"""
)


@pytest.mark.timeout(300)
@KINDS
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit(tmp_path: Path, kind: str, when: str, rng: random.Random) -> None:
    """Just before and just behind each commit of a session's life, queued and interrupted turns included: what the
    next node finds and finishes is whole."""
    pattern = rng.choice(["ephemeral", "hybrid", "long_running", "single_container"])
    lived = False

    async def look(mapped: dict[str, Any], commit: int) -> None:
        async with node_of(mapped) as node:
            first = await sound(node)
            mine = node.sessions.owner.name
            assert [s.id for s in first.sessions.values() if s.node not in (None, mine)] == [], (pattern, commit)
            await settled(node)
            for session in first.sessions.values():
                if (await got(node, session)).ended_ms is None:
                    await node.sessions.complete(ME, session.id, Completing())
            last = await sound(node)
            assert all(len(last.completions(session.id)) == 1 for session in last.sessions.values())

    with Nursery(LIFE, mapped_of(kind, tmp_path)) as nursery:
        for commit in range(1, 60):
            folder = tmp_path / str(commit)
            folder.mkdir()
            mapped = mapped_of(kind, folder)
            _, lines = nursery.kill_one(after_s=60, mapped=mapped, pattern=pattern, commit=commit, when=when)
            lived = lines == ["lived"]
            if lived:
                break
            asyncio.run(look(mapped, commit))
            shutil.rmtree(folder)
    assert lived
    print(f"{pattern}: {commit} commits")


STANDING = (
    WORLD
    + """
import adjourn.logs.leases
from adjourn.sessions import owner_service
adjourn.logs.leases.LEASE_MS = int(sys.argv[2])
owner_service.BEAT_S, owner_service.LOST_S = int(sys.argv[2]) / 4000, int(sys.argv[2]) * 0.8 / 1000
async def main():
    async with Node(settings) as node:
        ids = []
        for pattern in PATTERNS:
            session, _ = await node.sessions.create("default", new(pattern, hang=True, cost_usd="0.1"))
            await node.sessions.begin("default", session.id, Message(prompt="hello"))
            ids.append(session.id)
        lives = list(node.sessions.turns.live.values())
        for live in lives:
            while not live.said:
                await asyncio.sleep(0.01)
        print(node.sessions.owner.name, *ids, flush=True)
        before = node.sessions.owner.name
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        for live in lives:
            await live.settled.wait()
        while node.sessions.owner._lease is None or node.sessions.owner.name == before:
            await asyncio.sleep(0.01)
        print("settled", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
"""
)


async def stopped_outside_of_a_write(node: Node, pid: int) -> ExitStack:
    """Processes that share a file take turns in writing: one that stands still inside its turn holds up the others,
    which is another test's matter (test_stopped_process)."""
    while True:
        with ExitStack() as stack:
            stack.enter_context(stopped(pid))
            writing = asyncio.ensure_future(node.database.write(lambda tx: None))
            done, _ = await asyncio.wait((writing,), timeout=0.5)
            if done:
                return stack.pop_all()
        await writing
        await asyncio.sleep(random.random() / 10)


@pytest.mark.timeout(300)
@KINDS
def test_a_node_that_stood_still_past_its_lease_writes_nothing_more(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP with a turn of each pattern: another node takes them over; when the first goes on it ends its turns,
    writes nothing of them, and takes a new lease."""
    lease_ms = 6_000
    monkeypatch.setattr(adjourn.logs.leases, "LEASE_MS", lease_ms)
    monkeypatch.setattr(owner_service, "LOOK_EVERY_S", 0.1)
    mapped = mapped_of(kind, tmp_path)
    other = run_python(IMPORTS + STANDING, json.dumps(mapped), str(lease_ms))
    assert other.stdin is not None
    assert other.stdout is not None

    async def run() -> None:
        assert other.stdin is not None
        assert other.stdout is not None
        async with node_of(mapped) as node:
            _, *ids = (await asyncio.to_thread(other.stdout.readline)).decode().split()
            with await stopped_outside_of_a_write(node, other.pid):

                async def taken() -> bool:
                    return node.sessions.owner.taken_over == len(ids)

                await until(taken)
                before = await sound(node)
                statuses = {session.id: session.status for session in before.sessions.values()}
                assert [statuses[each] for each in ids] == ["error", "idle", "active", "error"]
            other.stdin.write(b"on\n")
            other.stdin.flush()
            assert await asyncio.to_thread(other.stdout.readline) == b"settled\n"
            after = await sound(node)
            assert (after.log, after.sessions) == (before.log, before.sessions)
            options = {"hang": False, "reply": "{messages}", "cost_usd": "0"}
            assert (await node.sessions.send(ME, ids[1], say(options=options))).turn.text == "1"

    try:
        asyncio.run(run())
    finally:
        ended(other)


@pytest.mark.timeout(300)
def test_turns_outlive_a_database_that_goes_away(tmp_path: Path) -> None:
    """PostgreSQL crashes while turns run, and comes back: turns that ended meanwhile are settled, with all that they
    said, and nothing is missing or twice."""

    async def run() -> None:
        async with node_of(mapped_of("postgresql", tmp_path)) as node:
            patterns = ("ephemeral", "hybrid", "long_running", "single_container")
            sessions = [await made(node, pattern, budget="1", options={"hang": True}) for pattern in patterns]  # type: ignore[arg-type]  # all are patterns
            turns = [await node.sessions.begin(ME, session.id, say("so far")) for session in sessions]
            for session in sessions:
                await until_told(node, session, "text_delta")
            postgres.server().stop("immediate")
            try:
                for live in list(node.sessions.turns.live.values()):
                    await node.sessions.turns.opened.runner_of(live.session).interrupt(live.key.session_id)
                    await live.finished.wait()
            finally:
                postgres.server().start()
            for session, turn in zip(sessions, turns, strict=True):

                async def answered(session_id: str = session.id, turn_id: str = turn.turn_id) -> bool:
                    try:
                        return (await node.sessions.answer(ME, session_id, turn_id)).turn.text == "so far"
                    except AdjournError:
                        return False

                await until(answered)
            found = await sound(node)
            statuses = [found.sessions[session.key].status for session in sessions]
            assert statuses == ["terminated", "idle", "active", "active"]

    asyncio.run(run())
