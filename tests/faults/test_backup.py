"""A backup while events pour in, and a node that goes on from it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest
from tests.faults.rigs import mapping, raw, settings_of, url_of

from adjourn.databases.backup import backup, restore
from adjourn.node import Node
from adjourn.testing.account import compare, logged, stored

SENDERS = 3
BACKUPS = 2


class History(msgspec.Struct):
    sent: list[str]
    acknowledged: list[str]
    before: list[list[str]]
    """What had been acknowledged when each backup began."""


async def back_up_under_load(directory: Path, url: str, rng: random.Random) -> History:
    history = History([], [], [])
    async with Node(settings_of(mapping(directory, url, log={"compact_interval_ms": 20}))) as node:
        done = asyncio.Event()

        async def send(sender: int) -> None:
            batch = 0
            while not done.is_set():
                sessions = [f"{sender}-{batch}-{n}" for n in range(rng.randrange(1, 30))]
                batch += 1
                history.sent.extend(sessions)
                await take(node, sessions)
                history.acknowledged.extend(sessions)
                await asyncio.sleep(0.005)

        senders = asyncio.gather(*(send(sender) for sender in range(SENDERS)))
        for number in range(BACKUPS):
            while len(history.acknowledged) < 100 * (number + 1):
                await asyncio.sleep(rng.uniform(0.01, 0.1))
            history.before.append(list(history.acknowledged))
            await asyncio.to_thread(backup, url, directory / f"backup{number}")
        assert len(history.acknowledged) > len(history.before[-1]), "the senders went on all the while"
        await asyncio.sleep(0.05)
        done.set()
        await senders
    return history


async def take(node: Node, sessions: list[str]) -> list[str]:
    raws = [raw(session, event_id=f"evt_{session}") for session in sessions]
    return [result.status for result in await node.ingest.take("default", raws, source="test")]


@pytest.mark.parametrize(("kind", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
def test_what_was_acknowledged_before_a_backup_is_in_it(
    tmp_path: Path, rng: random.Random, kind: str, target: str
) -> None:
    """Each backup, restored, holds every event that was acknowledged before it began and none that was never sent; a
    node on it takes the later ones again, knows the earlier ones, and then its account is exact and balanced."""
    history = asyncio.run(back_up_under_load(tmp_path, url_of(kind, tmp_path), rng))

    async def go_on(number: int) -> None:
        directory = tmp_path / f"restored{number}"
        directory.mkdir()
        restored = url_of(target, directory)
        copied = await asyncio.to_thread(restore, tmp_path / f"backup{number}", restored)
        async with Node(settings_of(mapping(directory, restored))) as node:
            found = await logged(node)
            assert compare(history.before[number], found).exact
            assert set(found) <= set(history.sent)
            assert copied.events == len(found)
            verdicts = dict(zip(history.acknowledged, await take(node, history.acknowledged), strict=True))
            later = {session for session, verdict in verdicts.items() if verdict == "accepted"}
            assert later == set(history.acknowledged) - set(found) != set()
            assert set(verdicts.values()) == {"accepted", "duplicate"}
            await node.delivery.drained()
            (balance,) = await node.delivery.balances()
            assert (balance.captured, balance.difference, balance.pending) == (len(found) + len(later), 0, 0)
            assert compare(later, stored(f"sqlite:///{directory}/out.db")).exact
        print(f"{len(history.before[number])} acknowledged before, {len(found)} in the backup, {len(later)} later")

    for number in range(BACKUPS):
        asyncio.run(go_on(number))
