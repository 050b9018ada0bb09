"""PostgreSQL stopped and started in mid-flow."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import postgres
from tests.faults.rigs import Sender, assert_exact, audited, event, mapping, raw, settings_of
from tests.http.serving import serving

from adjourn.errors import AdjournError
from adjourn.node import Node
from adjourn.runtime import Runtime


@pytest.fixture
def server() -> postgres.PostgresServer:
    """One of its own: others' tests must not lose theirs. With fsync, for it is crashed."""
    return postgres.PostgresServer(fsync=True)


def test_capture_goes_on_while_postgresql_is_away_and_all_arrives_once(
    tmp_path: Path, rng: random.Random, server: postgres.PostgresServer
) -> None:
    """Log and destination are both on the server, which is stopped three times, once as by a crash: no capture waits
    for it, and every event is in the log and at the destination exactly once."""
    database, out = server.fresh_database(), server.fresh_database()
    destination = {"type": "database", "connection_string": out, "retry_delay_ms": 50}
    routing = {"destinations": [destination], "retry_delay_ms": 50, "retry_delay_ms_max": 500}
    captured: list[str] = []
    slowest_s = 0.0
    stop = threading.Event()

    def load() -> None:
        nonlocal slowest_s
        while not stop.is_set():
            session_id = f"s{len(captured)}"
            began = time.perf_counter()
            runtime.capture(event(session_id))
            slowest_s = max(slowest_s, time.perf_counter() - began)
            captured.append(session_id)
            time.sleep(0.001)

    with Runtime(settings_of(mapping(tmp_path, database, routing=routing))) as runtime:
        runtime.start()
        loading = threading.Thread(target=load)
        loading.start()
        for mode in ("fast", "immediate", "fast"):
            time.sleep(rng.uniform(0.2, 0.5))
            server.stop(mode)
            time.sleep(rng.uniform(0.1, 0.6))
            server.start()
        time.sleep(0.2)
        stop.set()
        loading.join()
        runtime.drain()
        accounts = runtime.call(lambda node: audited(node, captured, out))
    print(f"{len(captured)} captured, the slowest capture took {slowest_s * 1000:.1f} ms")
    assert_exact(accounts)
    assert accounts[0].found == len(captured)
    assert slowest_s < 1.0


def test_callers_of_a_node_are_answered_or_told_and_resends_are_exact(
    tmp_path: Path, server: postgres.PostgresServer
) -> None:
    """Writes that meet the restart succeed or raise an error of ours within their timeout; sent again until they are
    acknowledged, each event is there once."""
    mapped = mapping(tmp_path, server.fresh_database(), database={"write_timeout_ms": 3000})
    acknowledged: list[str] = []
    errors: list[str] = []

    async def run() -> None:
        async with Node(settings_of(mapped)) as node:
            done = asyncio.Event()

            async def send(sender: int) -> None:
                number = 0
                while not done.is_set():
                    session = f"{sender}-{number}"
                    number += 1
                    while True:
                        try:
                            async with asyncio.timeout(10):
                                await node.ingest.take("default", [raw(session)], source="test")
                            break
                        except AdjournError as error:
                            errors.append(error.code)
                            await asyncio.sleep(0.02)
                    acknowledged.append(session)

            async def more(count: int) -> None:
                wanted = len(acknowledged) + count
                async with asyncio.timeout(60):
                    while len(acknowledged) < wanted:
                        await asyncio.sleep(0.01)

            senders = asyncio.gather(*(send(sender) for sender in range(4)))
            await more(60)
            await asyncio.to_thread(server.restart, "immediate")
            await more(60)
            done.set()
            await senders
            assert node.database.health().ok
            assert_exact(await audited(node, acknowledged, f"sqlite:///{tmp_path}/out.db"))

    asyncio.run(run())
    assert set(errors) <= {"unavailable"}
    assert len(acknowledged) > 100


def test_clients_of_a_server_are_answered_throughout_and_what_got_202_is_there_once(
    tmp_path: Path, rng: random.Random, server: postgres.PostgresServer
) -> None:
    """Over HTTP, with log and destination on a PostgreSQL that is stopped, and crashed: each answer is 202, or 429 or
    503 with a resend that is exact; the server says that it is not ready meanwhile, and is again by itself."""
    database, out = server.fresh_database(), server.fresh_database()
    destination = {"type": "database", "connection_string": out, "retry_delay_ms": 50}
    sections: dict[str, Any] = {
        "database": {"write_timeout_ms": 300},
        "routing": {"destinations": [destination], "retry_delay_ms": 50, "retry_delay_ms_max": 500},
        "validation": {"require_authentication": False},
    }
    with serving(database, tmp_path, keys={}, **sections) as serves:
        senders = [Sender(int(serves.url.rpartition(":")[2]), f"s{number}") for number in range(3)]
        for sender in senders:
            sender.start()
        for mode in ("fast", "immediate"):
            time.sleep(rng.uniform(0.2, 0.6))
            server.stop(mode)
            awaited(lambda: serves.client.get("/readyz").status_code == 503)
            time.sleep(0.5)  # longer than a write may wait
            server.start()
            awaited(lambda: serves.client.get("/readyz").status_code == 200)
        awaited(lambda: sum(len(sender.acknowledged) for sender in senders) > 100)
        for sender in senders:
            sender.finish.set()
        for sender in senders:
            sender.join(20)
        assert not any(sender.is_alive() for sender in senders)
        serves.terminate()
        serves.process.wait(20)
    acknowledged = [each for sender in senders for each in sender.acknowledged]

    async def look() -> None:
        async with Node(settings_of(mapping(tmp_path, database, **sections))) as node:
            assert_exact(await audited(node, acknowledged, out))

    asyncio.run(look())
    statuses = sum((sender.statuses for sender in senders), Counter[str]())
    print(f"{len(acknowledged)} acknowledged, {statuses}, {sum(sender.tries for sender in senders)} resends")
    assert statuses["accepted"] + statuses["duplicate"] == len(acknowledged) > 100
    assert sum(sender.tries for sender in senders) > 0


def awaited(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
