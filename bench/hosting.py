"""Hosted sessions: what a turn costs beside its runner, how fast sessions are created, what a live one weighs, what the
sweep costs among a million, and how soon a killed server's sessions are accounted for."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

from adjourn.database import Reader, Tx
from adjourn.node import Node
from adjourn.runner import Opening, Part, RunnerConfig, Said, Turn
from adjourn.runners.echo import EchoRunner
from adjourn.sessions.session import Limits, NewSession
from adjourn.sessions.turn import Message
from adjourn.settings import HostingSettings, Settings
from bench.floor import fdatasync_ms
from bench.serving import rss_mb
from bench.table import Row, median, quantile

CALLERS = 64
THINKS_MS = 400
"""How long the model of a benchmarked turn takes: the runner's time, which is not ours."""
STORED = 1_000_000
DUE = 100
PORTION = 10_000
LIVE = 10_000
ME = "default"


async def _at_once(count: int, work: Iterator[Callable[[], Awaitable[None]]]) -> float:
    """Seconds that `count` callers need for all of it."""

    async def caller() -> None:
        for each in work:
            await each()

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(count)))
    return time.perf_counter() - started


def turns() -> list[Row]:
    syncs = quantile(fdatasync_ms(), 0.5)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
        bare, ours = asyncio.run(_turns(folder))
    added = quantile(ours, 0.5) - quantile(bare, 0.5)
    bound = 4 * syncs + 2
    return [
        Row(
            f"what a durable turn adds to its runner (echo, {THINKS_MS} ms), {CALLERS} sessions at once",
            f"p50 {added:.1f} ms, p99 {quantile(ours, 0.99) - quantile(bare, 0.99):.1f} ms",
            f"F = {syncs:.2f} ms",
            f"p50 ≤ 4 F + 2 ms = {bound:.1f}",
            added <= bound,
        )
    ]


async def _turns(folder: str) -> tuple[list[float], list[float]]:
    """Latencies in ms, of the bare runner and of turns; both in the same minutes, by turns."""
    rng = random.Random(1)
    runner, bare, ours = EchoRunner(), list[float](), list[float]()
    options = {"delay_ms": THINKS_MS}

    async def history() -> list[Said]:
        return []

    async def alone(session_id: str) -> None:
        said = Said(role="user", parts=[Part(type="text", text="hello")])
        turn = Turn(turn_id="turn", said=said, history=history, options=options)
        async with aclosing(runner.turn(session_id, turn)) as events:
            async for _ in events:
                pass

    async with Node(Settings(data_dir=folder)) as node:
        sessions = [(await node.sessions.create(ME, NewSession(pattern="hybrid")))[0].id for _ in range(CALLERS)]

        async def hosted(session_id: str) -> None:
            await node.sessions.send(ME, session_id, Message(prompt="hello", options=options))

        async def talk(session_id: str, call: Callable[[str], Awaitable[None]], into: list[float]) -> None:
            await runner.open(Opening(tenant=ME, session_id=session_id, config=RunnerConfig(), workspace=""))
            for _ in range(5):
                await asyncio.sleep(rng.random() * THINKS_MS / 1000)
                started = time.perf_counter()
                await call(session_id)
                into.append((time.perf_counter() - started) * 1000)

        for _ in range(3):
            for call, into in ((alone, bare), (hosted, ours)):
                await asyncio.gather(*(talk(session_id, call, into) for session_id in sessions))
    return bare, ours


def created() -> list[Row]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
        ours, bare = asyncio.run(_created(folder, 8_000))
    return [
        Row(
            f"sessions created, durable, {CALLERS} callers",
            f"{ours:,.0f}/s",
            f"one bare row each: {bare:,.0f}/s",
            "≥ 2,000/s",
            ours >= 2_000,
        )
    ]


async def _created(folder: str, count: int) -> tuple[float, float]:
    async with Node(Settings(data_dir=folder, hosting=HostingSettings(max_sessions=10**9))) as node:

        async def one() -> None:
            await node.sessions.create(ME, NewSession(pattern="hybrid", user_id="u", tags=["bench"]))

        def bare(tx: Tx, number: int) -> None:
            tx.run("INSERT INTO accounts (name, balance) VALUES (?, ?)", (f"bench/{number}", 0))

        async def row(number: int) -> None:
            await node.database.write(bare, number)

        ours = count / await _at_once(CALLERS, iter([one] * count))
        rows: list[Callable[[], Awaitable[None]]] = [lambda n=n: row(n) for n in range(count)]
        return ours, count / await _at_once(CALLERS, iter(rows))


WEIGH = """
import asyncio, sys
from bench.hosting import weigh
asyncio.run(weigh(sys.argv[1]))
"""


def live() -> list[Row]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
        done = subprocess.run([sys.executable, "-c", WEIGH, folder], capture_output=True, text=True, check=True)
    idle, held, running = json.loads(done.stdout.splitlines()[-1])
    rows: list[Row] = []
    for what, mb in (("whose runner is held open", held), ("in the middle of a turn", running)):
        each_kb = (mb - idle) * 1000 / LIVE
        rows.append(
            Row(
                f"memory of a live session {what}, {LIVE:,} at once",
                f"{each_kb:.1f} KB",
                f"idle node {idle:.0f} MB",
                "≤ 20 KB",
                each_kb <= 20,
            )
        )
    return rows


async def weigh(folder: str) -> None:
    """In a process of its own: MB of an idle node, with every session held open, and with a turn running in each."""
    from adjourn.http.listening import give_memory_back

    async with Node(Settings(data_dir=folder, hosting=HostingSettings(max_sessions=10**9))) as node:
        sessions = node.sessions
        warm, _ = await sessions.create(ME, NewSession(pattern="long_running"))
        await sessions.send(ME, warm.id, Message(prompt="hello"))
        give_memory_back()
        idle = rss_mb()
        ids: list[str] = []

        async def begin() -> None:
            session, _ = await sessions.create(ME, NewSession(pattern="long_running"))
            await sessions.send(ME, session.id, Message(prompt="hello"))
            ids.append(session.id)

        await _at_once(CALLERS, iter([begin] * LIVE))
        give_memory_back()
        held = rss_mb()
        hang = Message(prompt="hello", options={"hang": True})
        work: list[Callable[[], Awaitable[object]]] = [lambda i=i: sessions.begin(ME, i, hang) for i in ids]
        await _at_once(CALLERS, iter(work))  # type: ignore[arg-type]  # what it answers is not looked at
        assert len(sessions.turns.live) == LIVE
        await asyncio.sleep(3)
        give_memory_back()
        print(json.dumps([idle, held, rss_mb()]), flush=True)
        os._exit(0)


def sweep() -> list[Row]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
        few, many, none = asyncio.run(_sweep(folder))
    return [
        Row(
            f"a sweep that ends {DUE} sessions, {STORED:,} stored",
            f"{many:.1f} ms",
            f"{few:.1f} ms with {DUE} stored; nothing due: {none:.2f} ms",
            "≤ 10 ms",
            many <= 10,
        )
    ]


async def _sweep(folder: str) -> tuple[float, float, float]:
    """Median ms with few sessions stored, with a million, and with a million of which none is due."""
    async with Node(
        Settings(data_dir=folder, hosting=HostingSettings(max_sessions=10**9, sweep_interval_ms=86_400_000))
    ) as node:
        few = [await _sweep_once(node) for _ in range(10)]
        session, _ = await node.sessions.create(ME, NewSession(pattern="hybrid"))
        for start in range(0, STORED, PORTION):
            await node.database.write(_multiply, session.id, start)
        many = [await _sweep_once(node) for _ in range(10)]
        none: list[float] = []
        for _ in range(20):
            started = time.perf_counter()
            await node.sessions.sweep.look(node.clock.wall_ms())
            none.append((time.perf_counter() - started) * 1000)
    return median(few), median(many), median(none)


async def _sweep_once(node: Node) -> float:
    limits = Limits(max_idle_ms=1)
    await asyncio.gather(*(node.sessions.create(ME, NewSession(pattern="hybrid", limits=limits)) for _ in range(DUE)))
    await asyncio.sleep(0.05)
    started = time.perf_counter()
    ended = await node.sessions.sweep.look(node.clock.wall_ms())
    took = (time.perf_counter() - started) * 1000
    assert ended == DUE, ended
    return took


def _multiply(tx: Tx, session_id: str, start: int) -> None:
    columns = [str(row[1]) for row in tx.rows("PRAGMA table_info(sessions)")]
    values = ["'sess_' || printf('%022d', n)" if name == "id" else name for name in columns]
    tx.run(
        f"INSERT INTO sessions ({', '.join(columns)}) WITH RECURSIVE some(n) AS "
        "(SELECT ? UNION ALL SELECT n + 1 FROM some WHERE n < ?) "
        f"SELECT {', '.join(values)} FROM some, sessions WHERE sessions.id = ?",
        (start + 1, start + PORTION, session_id),
    )


HOST = """
import asyncio, sys
from bench.hosting import host
asyncio.run(host(sys.argv[1], int(sys.argv[2])))
"""


async def host(folder: str, count: int) -> None:
    """In a process of its own: sessions of every pattern, each in the middle of a turn, until it is killed."""
    async with Node(Settings(data_dir=folder, hosting=HostingSettings(max_sessions=10**9))) as node:
        patterns = ("ephemeral", "long_running", "hybrid", "single_container")

        async def begin(number: int) -> None:
            session, _ = await node.sessions.create(ME, NewSession(pattern=patterns[number % 4]))
            await node.sessions.begin(ME, session.id, Message(prompt="hello", options={"hang": True}))

        work: list[Callable[[], Awaitable[None]]] = [lambda n=n: begin(n) for n in range(count)]
        await _at_once(CALLERS, iter(work))
        print("ready", flush=True)
        await asyncio.sleep(600)


def killed() -> list[Row]:
    count = 1_000
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
        process = subprocess.Popen([sys.executable, "-c", HOST, folder, str(count)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        took_s, left, ended, doubled = asyncio.run(_after(folder))
    whole = left == 0 and doubled == 0 and ended == count // 2
    return [
        Row(
            f"{count:,} live sessions after SIGKILL: all ended or resumable again",
            f"{took_s:.2f} s after the restart; missing {left}, doubled {doubled}",
            f"{ended} had to end",
            "≤ lease + 2 s = 12 s",
            whole and took_s <= 12,
        )
    ]


async def _after(folder: str) -> tuple[float, int, int, int]:
    """(seconds from the start of a new node until nothing is left of the dead one, sessions that were left, those that
    have ended, completions too many)."""
    started = time.perf_counter()
    async with Node(Settings(data_dir=folder)) as node:
        while (left := await node.database.read(_left)) and time.perf_counter() - started < 30:
            await asyncio.sleep(0.01)
        took_s = time.perf_counter() - started
        ended = await node.database.read(_ended)
        completions: list[str] = []
        for partition, head in enumerate(await node.log.heads()):
            found = await node.log.read(partition, 0, count=head)
            while found.events:
                completions += [
                    json.loads(event.body)["session"]["session_id"]
                    for event in found.events
                    if b'"session.completed"' in event.body
                ]
                found = await node.log.read(partition, found.next_offset, count=head)
        assert sorted(set(completions)) == sorted(ended), "not every session that ended has its completion"
        return took_s, left, len(ended), len(completions) - len(set(completions))


def _left(reader: Reader) -> int:
    return int(reader.rows("SELECT count(*) FROM sessions WHERE turn_id IS NOT NULL OR node IS NOT NULL")[0][0] or 0)


def _ended(reader: Reader) -> list[str]:
    return [str(row[0]) for row in reader.rows("SELECT id FROM sessions WHERE ended_ms IS NOT NULL")]
