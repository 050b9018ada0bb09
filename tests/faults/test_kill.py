"""SIGKILL at random instants, hundreds of times: what was acknowledged is there, and nothing is there twice."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from pathlib import Path

import pytest
from tests.faults.rigs import Nursery, Sender, assert_exact, audited, mapping, settings_of, url_of

from adjourn.node import Node
from adjourn.runtime import Runtime

CAPTURING = """
def run(argument, pipe):
    runtime = adjourn.Runtime(settings)
    def burst(thread):
        for number in itertools.count():
            session_id = f"{argument['life']}-{thread}-{number}"
            runtime.capture({"session": {"session_id": session_id}, "usage": {"model": "gpt-4o", "input_tokens": 7}})
            os.write(pipe, session_id.encode() + b"\\n")
            time.sleep(0.001)
    for thread in range(2):
        threading.Thread(target=burst, args=(thread,), daemon=True).start()
    time.sleep(60)
"""


@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 120), ("postgresql", 70)])
def test_what_capture_took_arrives_once_however_often_the_process_is_killed(
    tmp_path: Path, rng: random.Random, kind: str, kills: int
) -> None:
    """Each life adopts the spool of the one before; in the end every captured event is in the log and at the
    destination exactly once."""
    mapped = mapping(tmp_path, url_of(kind, tmp_path))
    captured: list[str] = []
    killed = 0
    with Nursery(CAPTURING, mapped) as nursery:
        for life in range(kills):
            # The first life makes the tables, which takes longer.
            after_s = rng.uniform(0.0, 0.9) if life < 3 else rng.uniform(0.002, 0.16)
            was_killed, said = nursery.kill_one(after_s=after_s, life=life)
            killed += was_killed
            captured += said
    assert killed == kills
    assert len(captured) > kills * 10
    with Runtime(settings_of(mapped)) as runtime:
        runtime.start()
        runtime.drain()
        accounts = runtime.call(lambda node: audited(node, captured, f"sqlite:///{tmp_path}/out.db"))
    print(f"{kind}: {killed} kills, {len(captured)} captured, {accounts[0].found} in the log")
    assert_exact(accounts)


SERVING = """
def run(argument, pipe):
    async def ready(url):
        os.write(pipe, b"ready\\n")
    asyncio.run(adjourn.http.server.serve(Node(settings), on_ready=ready))
"""


@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 40), ("postgresql", 25)])
def test_what_a_server_acknowledged_is_there_once_however_often_it_is_killed(
    tmp_path: Path, rng: random.Random, kind: str, kills: int
) -> None:
    """Clients resend what was not answered; after the last restart every 202 holds, and no resend has doubled one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mapped = mapping(tmp_path, url_of(kind, tmp_path), server={"port": port})
    senders = [Sender(port, f"s{number}") for number in range(3)]
    ready = 0
    with Nursery(SERVING, mapped) as nursery:
        for sender in senders:
            sender.start()
        for life in range(kills):
            serving = life % 2 == 0  # the others are killed while they start, wherever that is
            said = nursery.kill_one(
                after_s=rng.uniform(0.0, 0.3) if serving else rng.uniform(0.1, 0.5), once_it_spoke=serving
            )[1]
            ready += said == ["ready"]
        for sender in senders:
            sender.finish.set()
        for after_s in (2.0, 4.0, 8.0, 16.0):  # the last answers what is still being resent
            if any(sender.is_alive() for sender in senders):
                nursery.kill_one(after_s=after_s, once_it_spoke=True)
        for sender in senders:
            sender.join(10)
    assert not any(sender.is_alive() for sender in senders)
    acknowledged = [each for sender in senders for each in sender.acknowledged]
    statuses = sum((sender.statuses for sender in senders), Counter[str]())

    async def look() -> None:
        async with Node(settings_of(mapped)) as node:
            assert_exact(await audited(node, acknowledged, f"sqlite:///{tmp_path}/out.db"))

    asyncio.run(look())
    print(f"{kind}: {kills} kills, {ready} while serving, {len(acknowledged)} acknowledged, {statuses}")
    assert ready >= kills // 2
    assert statuses["accepted"] + statuses["duplicate"] == len(acknowledged)
