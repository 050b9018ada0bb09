"""Commits whose outcome the caller cannot see: nothing acknowledged is missing, and resends double nothing."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from pathlib import Path

import httpx
import pytest
from tests import postgres
from tests.faults.rigs import assert_exact, audited, mapping, raw, settings_of, url_of

from adjourn.errors import AdjournError
from adjourn.http.app import Application
from adjourn.node import Node
from adjourn.testing.faults import SqliteFaults
from adjourn.testing.tcp_proxy import TcpProxy


async def post(client: httpx.AsyncClient, sessions: list[str], statuses: Counter[int]) -> None:
    """Until it is acknowledged, as a client does."""
    body = b"\n".join(raw(session, event_id=f"evt_{session}") for session in sessions)
    while True:
        answer = await client.post("/v1/events", content=body, headers={"content-type": "application/x-ndjson"})
        statuses[answer.status_code] += 1
        if answer.status_code == 202:
            return
        assert answer.status_code in (429, 503, 507), answer.text
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("error", ["io", "full"])
def test_a_commit_whose_own_sync_fails_is_not_acknowledged_and_not_lost(
    tmp_path: Path, rng: random.Random, error: str
) -> None:
    """Under HTTP load the fsync of every few commits fails: what got 202 is in the log and delivered, exactly once."""
    acknowledged: list[str] = []
    statuses: Counter[int] = Counter()

    async def run(faults: SqliteFaults) -> None:
        async with Node(settings_of(mapping(tmp_path))) as node:
            transport = httpx.ASGITransport(app=Application(node))  # type: ignore[arg-type]  # httpx wants dicts
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:

                async def send(sender: int) -> None:
                    for batch in range(60):
                        sessions = [f"{sender}-{batch}-{number}" for number in range(4)]
                        await post(client, sessions, statuses)
                        acknowledged.extend(sessions)

                async def fail(sending: asyncio.Future[list[None]]) -> int:
                    failed = 0
                    while not sending.done() and failed < 12:
                        before = faults.syncs("adjourn.db-wal")
                        faults.fail_sync(match="adjourn.db-wal", error="io" if error == "io" else "full")
                        while faults.syncs("adjourn.db-wal") == before and not sending.done():
                            await asyncio.sleep(rng.random() / 30)
                        failed += 1
                    faults.heal()
                    return failed

                sending = asyncio.gather(*(send(sender) for sender in range(4)))
                failed = await fail(sending)
                await sending
            assert_exact(await audited(node, acknowledged, f"sqlite:///{tmp_path}/out.db"))
            print(f"{failed} failed syncs, {dict(statuses)}")
            assert failed >= 3

    with SqliteFaults(tmp_path) as faults:
        asyncio.run(run(faults))
    assert len(acknowledged) == 960


def test_connections_that_die_in_commit_lose_and_double_nothing_on_postgresql(
    tmp_path: Path, rng: random.Random
) -> None:
    """Cut before COMMIT, behind it, and after the server has done it, unseen: none is missing or twice."""
    acknowledged: list[str] = []
    cuts: Counter[str] = Counter()
    server = postgres.server()
    database = postgres.fresh_database()

    async def run(proxy: TcpProxy) -> None:
        mapped = mapping(tmp_path, proxy.url(database), database={"write_timeout_ms": 10_000})
        async with Node(settings_of(mapped)) as node:

            async def send(sender: int) -> None:
                for batch in itertools.count():
                    if cuts.total() >= 30:
                        return
                    sessions = [f"{sender}-{batch}-{number}" for number in range(3)]
                    while True:
                        try:
                            results = await node.ingest.take("default", [raw(s) for s in sessions], source="test")
                        except AdjournError:
                            continue
                        break
                    assert {result.status for result in results} <= {"accepted", "duplicate"}
                    acknowledged.extend(sessions)

            async def cut(sending: asyncio.Future[list[None]]) -> None:
                while not sending.done():
                    # New connections send COMMIT as text; later it is a prepared statement, without a match.
                    cuts["anywhere"] += await asyncio.to_thread(proxy.cut) > 0
                    kind = rng.choice(("before", "behind", "after"))
                    if kind == "before":
                        waiting = proxy.cut_before_sending(b"COMMIT")
                    else:
                        waiting = proxy.cut_after_sending(b"COMMIT", answer=b"COMMIT" if kind == "after" else None)
                    cuts[kind] += await asyncio.to_thread(waiting.wait, 1)
                    await asyncio.sleep(rng.random() / 20)

            sending = asyncio.gather(*(send(sender) for sender in range(4)))
            await cut(sending)
            await sending
            proxy.waiting_cut = None
            assert_exact(await audited(node, acknowledged, f"sqlite:///{tmp_path}/out.db"))

    with TcpProxy(("127.0.0.1", server.port)) as proxy:
        asyncio.run(run(proxy))
    print(f"cuts: {dict(cuts)}")
    assert cuts.total() >= 30


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_callers_that_are_cancelled_inside_a_batch_harm_nobody(tmp_path: Path, rng: random.Random, kind: str) -> None:
    """Half of the callers give up at a random instant; the others are all answered, and whoever resends finds what was
    written as a duplicate."""
    accepted: list[str] = []

    async def run() -> None:
        async with Node(settings_of(mapping(tmp_path, url_of(kind, tmp_path)))) as node:

            async def take(session: str) -> str:
                body = raw(session, event_id=f"evt_{session}")
                return (await node.ingest.take("default", [body], source="test"))[0].status

            for turn in range(20):
                tasks = {f"{turn}-{n}": asyncio.create_task(take(f"{turn}-{n}")) for n in range(40)}
                await asyncio.sleep(rng.random() / 300)
                given_up = [session for session in tasks if rng.random() < 0.5 and tasks[session].cancel()]
                outcomes = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 20)
                answered = dict(zip(tasks, outcomes, strict=True))
                assert all(answered[session] == "accepted" for session in tasks if session not in given_up)
                for session in given_up:
                    assert await take(session) in ("accepted", "duplicate")
                accepted.extend(tasks)
            assert_exact(await audited(node, accepted, f"sqlite:///{tmp_path}/out.db"))

    asyncio.run(run())
