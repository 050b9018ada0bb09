"""A power cut: what was acknowledged before the image was taken is in the image."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.rigs import mapping, raw, settings_of

from adjourn.node import Node
from adjourn.testing.account import Account, compare, logged
from adjourn.testing.faults import SqliteFaults
from adjourn.testing.power_cut import PowerCut

SENDERS = 3


class Cutter:
    """Takes images while a node runs, each with what had been acknowledged just before it."""

    def __init__(self, cut: PowerCut, directory: Path, acknowledged: list[str], rng: random.Random) -> None:
        self.images: list[tuple[Path, frozenset[str]]] = []
        self._cut = cut
        self._directory = directory
        self._acknowledged = acknowledged
        self._rng = rng
        self._lock = threading.Lock()

    def take(self, _path: Path | None = None) -> None:
        # Before the image: what is acknowledged later need not be in it.
        promised = frozenset(self._acknowledged)
        with self._lock:
            image = self._directory / str(len(self.images))
            self._cut.image(image, keep=self._rng.choice(("none", "random")), seed=self._rng.randrange(2**32))
            self.images.append((image, promised))


def run_under_cuts(directory: Path, rng: random.Random, durability: str, batches: int) -> Cutter:
    """A node that ingests, delivers and compacts, with an image at each sync and at random instants."""
    live = directory / "live"
    live.mkdir()
    acknowledged: list[str] = []
    mapped = mapping(live, database={"durability": durability}, log={"compact_interval_ms": 20})
    with PowerCut(live) as cut, SqliteFaults(live) as faults:
        cutter = Cutter(cut, directory / "images", acknowledged, rng)

        async def run() -> None:
            async with Node(settings_of(mapped)) as node:
                faults.on_sync(cutter.take)

                async def send(sender: int) -> None:
                    for batch in range(batches):
                        sessions = [f"{sender}-{batch}-{number}" for number in range(rng.randrange(1, 12))]
                        await node.ingest.take("default", [raw(session) for session in sessions], source="test")
                        acknowledged.extend(sessions)

                async def now_and_then(senders: asyncio.Future[list[None]]) -> None:
                    while not senders.done():
                        await asyncio.sleep(rng.random() / 50)
                        await asyncio.to_thread(cutter.take)

                sending = asyncio.gather(*(send(sender) for sender in range(SENDERS)))
                await now_and_then(sending)
                await sending

        asyncio.run(run())
    return cutter


def recovered(image: Path, promised: frozenset[str]) -> Account:
    """Start a node on the image, let it deliver, and see what the log holds."""
    with closing(sqlite3.connect(image / "adjourn.db")) as connection:
        # The leases' holder is this very process, which here outlives its machine; nobody need wait for its end.
        connection.execute("DELETE FROM leases")
        connection.commit()

    async def look() -> Account:
        async with Node(settings_of(mapping(image))) as node:
            await node.delivery.drained()
            for balance in await node.delivery.balances():
                assert (balance.difference, balance.pending, balance.lost) == (0, 0, 0)
            return compare(promised, await logged(node))

    try:
        return asyncio.run(look())
    finally:
        shutil.rmtree(image)


@pytest.mark.timeout(100)
def test_what_was_acknowledged_survives_a_power_cut_at_any_instant(tmp_path: Path, rng: random.Random) -> None:
    """A node started on any image has every event that was acknowledged before it, none twice, and delivers them."""
    cutter = run_under_cuts(tmp_path, rng, "full", batches=40)
    images = [*rng.sample(cutter.images[:-1], min(60, len(cutter.images) - 1)), cutter.images[-1]]
    accounts = [recovered(image, promised) for image, promised in images]
    print(f"{len(cutter.images)} images, {len(images)} started, up to {accounts[-1].acknowledged} acknowledged")
    assert [account for account in accounts if not account.exact] == []
    assert accounts[-1].acknowledged > 300


def test_without_the_sync_at_commit_acknowledged_events_are_lost(tmp_path: Path, rng: random.Random) -> None:
    """The same images under durability normal miss events: the setting matters, and the test would see it."""
    cutter = run_under_cuts(tmp_path, rng, "normal", batches=25)
    accounts = [recovered(image, promised) for image, promised in cutter.images[-12:]]
    assert sum(len(account.missing) for account in accounts) > 0
