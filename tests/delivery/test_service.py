from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.delivery.scripted import Judging, Scripted, Slow, called, delivering, put, put_events, reload, settled

import adjourn.delivery.service
from adjourn.clock import SystemClock
from adjourn.database import LEASE_MS
from adjourn.delivery.send_service import Sender
from adjourn.destination import Batch, Refusal
from adjourn.errors import DestinationOutage, Unavailable
from adjourn.log import Lease
from adjourn.logs.leases import SqlLeases
from adjourn.node import Node

OUTAGE = DestinationOutage("destination 'scripted' is away; wait")


def test_an_outage_uses_up_no_attempt_and_the_same_batch_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the destination is away, the batch comes again under its id, and nothing is dead."""

    async def run() -> None:
        destination = Scripted(*[OUTAGE] * 8)
        async with delivering(tmp_path, monkeypatch, destination, attempts=1) as node:
            sessions = await put(node, 7)
            await settled(node)
            (balance,) = await node.delivery.balances()
            assert (balance.delivered, balance.dead_lettered, balance.difference) == (7, 0, 0)
            stats = node.delivery.stats["scripted"]
            assert (stats.retries, stats.success, stats.failure, stats.waiting) == (8, 7, 0, "")
        assert destination.calls == [sessions] * 9
        assert len(set(destination.ids)) == 1
        assert destination.closed == 1

    asyncio.run(run())


def test_what_is_refused_for_good_is_a_dead_letter_and_the_rest_flows_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permanent refusal is tried once, another `attempts` times, alone; what is behind them is delivered."""

    async def run() -> None:
        bad, odd = Refusal(0, "bad", "never"), Refusal(0, "odd", "not now", permanent=False)
        refused = {"e1": bad, "e3": odd}
        destination = Judging(lambda ids: {one: refused[one] for one in ids if one in refused})
        async with delivering(tmp_path, monkeypatch, destination, attempts=2) as node:
            await put_events(node, *[(f"s{n}", f"e{n}") for n in range(5)])
            await called(destination)
            await put_events(node, ("s5", "e5"), ("s6", "e6"))
            await settled(node)
            (balance,) = await node.delivery.balances()
            assert (balance.delivered, balance.dead_lettered, balance.difference) == (5, 2, 0)
            letters = await node.database.read(
                lambda r: r.rows("SELECT event_offset, code, attempts FROM held_events ORDER BY event_offset")
            )
            assert letters == [(1, "bad", 1), (3, "odd", 2)]
        assert destination.calls[0] == ["e0", "e1", "e2", "e3", "e4"]
        assert [call for call in destination.calls[1:] if "e1" in call or "e3" in call] == [["e3"]]
        assert sorted(destination.passed) == ["e0", "e2", "e4", "e5", "e6"]

    asyncio.run(run())


def test_a_refusal_that_passes_is_no_dead_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused twice and then taken, with three attempts: delivered, once."""

    async def run() -> None:
        no = [Refusal(0, "odd", "not now", permanent=False)]
        destination = Scripted(no, no)
        async with delivering(tmp_path, monkeypatch, destination, attempts=3) as node:
            await put(node, 1)
            await settled(node)
            (balance,) = await node.delivery.balances()
            assert (balance.delivered, balance.dead_lettered) == (1, 0)
        assert destination.taken == ["s0"]

    asyncio.run(run())


def test_a_defect_of_a_destination_stops_it_alone_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is no outage is told in the statistics; the batch is sent again, and nothing is lost."""

    async def run() -> None:
        destination = Scripted(KeyError("a bug"))
        async with delivering(tmp_path, monkeypatch, destination) as node:
            await put(node, 2)
            async with asyncio.timeout(5):
                while not node.delivery.stats["scripted"].waiting:
                    await asyncio.sleep(0.01)
            assert "a bug" in node.delivery.stats["scripted"].waiting
            await settled(node)
        assert destination.taken == ["s0", "s1"]

    asyncio.run(run())


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_batch_size_bounds_what_is_sent_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """No call brings more events than batch_size, and all come in order."""

    async def run() -> None:
        destination = Scripted()
        async with delivering(tmp_path, monkeypatch, destination, batch_size=batch_size) as node:
            sessions = await put(node, 10)
            await settled(node)
            assert destination.taken == sessions
            assert max(len(call) for call in destination.calls) == min(batch_size, 10)

    asyncio.run(run())


def test_stopping_finishes_the_batch_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the destination takes while the node stops is settled, and not sent again at the next start."""

    async def run() -> None:
        slow = Scripted(0.3)
        async with delivering(tmp_path, monkeypatch, slow) as node:
            await put(node, 3)
            while not slow.calls:
                await asyncio.sleep(0.005)
        after = Scripted()
        async with delivering(tmp_path, monkeypatch, after) as node:
            await settled(node)
        assert (slow.taken, after.taken) == (["s0", "s1", "s2"], [])

    asyncio.run(run())


def test_stopping_is_bounded_and_what_was_cut_off_is_sent_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination that hangs holds up a stop no longer than it may; its batch comes again, under the same id."""

    async def run() -> None:
        stuck = Scripted(60.0)
        async with delivering(tmp_path, monkeypatch, stuck) as node:
            await put(node, 3)
            while not stuck.calls:
                await asyncio.sleep(0.005)
            async with asyncio.timeout(5):
                await node.close(0.2)
        after = Scripted()
        async with delivering(tmp_path, monkeypatch, after) as node:
            await settled(node)
        assert (stuck.taken, after.taken, after.ids) == ([], ["s0", "s1", "s2"], stuck.ids)

    asyncio.run(run())


def test_a_slow_destination_gives_up_what_it_may_drop_and_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention passes the cursor of a destination with drop_after_ms once its backlog is that old, and counts it as
    expired; without drop_after_ms it waits."""

    async def run(directory: Path, drop_after_ms: int | None) -> tuple[int, int]:
        away = Scripted(*[OUTAGE] * 10_000)
        async with delivering(directory, monkeypatch, away, drop_after_ms=drop_after_ms) as node:
            await put(node, 4)
            await asyncio.sleep(0.15)
            await node.log.retain(age_ms_max=1, bytes_max=None)
            (balance,) = await node.delivery.balances()
            assert balance.difference == 0
            return balance.expired, balance.pending

    assert asyncio.run(run(tmp_path / "a", None)) == (0, 4)
    assert asyncio.run(run(tmp_path / "b", 100)) == (4, 0)


def test_delivered_events_are_told_with_their_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latency from capture to delivery has one entry an event."""

    async def run() -> None:
        async with delivering(tmp_path, monkeypatch, Scripted()) as node:
            await put(node, 25)
            await settled(node)
            await _counted(node, 25)

    asyncio.run(run())


async def _counted(node: Node, count: int) -> None:
    async with asyncio.timeout(5):
        while node.delivery.latency.count < count:
            await asyncio.sleep(0.005)
    assert 0 < node.delivery.latency.quantile_ms(0.5) < 10_000


@pytest.mark.parametrize(("share", "long"), [(0.0, False), (2.0, True)])
def test_delivery_makes_way_for_work_and_not_for_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, long: bool
) -> None:
    """While much is being taken in, it steps back if the interpreter is busy; if all only wait for a slow disk, it
    goes on, or its backlog would grow although there is time."""

    pauses_s: list[float] = []

    async def paused(_: Sender, seconds: float | None, *, until: asyncio.Event | None = None) -> None:
        pauses_s.append(0 if until else seconds or 0)
        await asyncio.sleep(0.001)

    async def run() -> None:
        destination = Scripted(*([0.02] * 8))
        began_s = time.monotonic()
        monkeypatch.setattr(Sender, "pause", paused)
        monkeypatch.setattr(time, "process_time", lambda: (time.monotonic() - began_s) * share)
        async with delivering(tmp_path, monkeypatch, destination, batch_size=5) as node:
            node.ingest.in_hand = 1_000
            await put(node, 40)
            await settled(node)
            assert len(destination.calls) == 8

    asyncio.run(run())
    assert (sum(pauses_s) >= 8 * 0.02 * 8) is long


def test_a_destination_that_fails_to_close_does_not_keep_its_successor_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings are reloaded, and what is replaced raises when it is closed: the new one delivers, and so it is at the
    end, where the database must be closed."""

    class Stubborn(Scripted):
        async def close(self) -> None:
            await super().close()
            raise OSError("it cannot be closed")

    async def run() -> None:
        destination = Stubborn()
        async with delivering(tmp_path, monkeypatch, destination) as node:
            await put(node, 1)
            await settled(node)
            said = await reload(node, batch_size=7)
            assert (said.started, said.kept, said.stopped) == (["scripted"], [], [])
            await put(node, 1, start=1)
            await settled(node)
        assert (destination.taken, destination.closed) == (["s0", "s1"], 2)

    asyncio.run(run())


def test_what_interrupted_delivery_is_not_said_any_more_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect in the destination's open is over: although nothing is to be sent, nothing is said to be wrong."""

    class Odd(Scripted):
        broken = True

        async def open(self) -> None:
            if self.broken:
                raise RuntimeError("it broke")

    async def run() -> None:
        destination = Odd()
        async with delivering(tmp_path, monkeypatch, destination) as node, asyncio.timeout(20):
            while node.delivery.stats["scripted"].waiting != "it broke":
                await asyncio.sleep(0.001)
            destination.broken = False
            while node.delivery.stats["scripted"].waiting:
                await asyncio.sleep(0.001)

    asyncio.run(run())


def lease(directory: Path) -> tuple[str, int, int]:
    """(owner, epoch, beat)"""
    with closing(sqlite3.connect(directory / "adjourn.db")) as connection:
        rows = connection.execute("SELECT owner, epoch, beat FROM leases WHERE name = 'deliver/scripted'")
        (row,) = rows.fetchall()
        return row


def test_what_is_cut_off_gives_its_lease_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination hangs when the node stops: nobody has to wait until its lease has run out."""
    monkeypatch.setattr(adjourn.delivery.service, "GIVE_BACK_S_MAX", 60.0)

    async def run() -> None:
        stuck = Slow()
        async with delivering(tmp_path, monkeypatch, stuck) as node:
            await put(node, 1)
            await called(stuck)
            assert lease(tmp_path)[0]
            await node.close(0.2)

    asyncio.run(run())
    assert lease(tmp_path)[0] == ""


def test_the_lease_is_kept_while_a_stop_waits_for_what_is_being_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the last batch takes, no other node may think this one dead and send it too."""
    monkeypatch.setattr(adjourn.delivery.service, "LEASE_MS", 400)

    async def run() -> None:
        slow = Slow()
        async with delivering(tmp_path, monkeypatch, slow) as node, asyncio.timeout(60):
            await put(node, 1)
            await called(slow)
            stopping = asyncio.create_task(node.delivery.stop(60))
            await asyncio.sleep(0)
            owner, epoch, beat = lease(tmp_path)
            while lease(tmp_path)[2] < beat + 5:
                await asyncio.sleep(0.01)
            assert lease(tmp_path)[:2] == (owner, epoch)
            slow.go.set()
            await stopping
            assert lease(tmp_path)[0] == ""
        assert len(slow.calls) == 1

    asyncio.run(run())


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.5])
def test_a_node_that_is_closed_while_it_reloads_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    """Whenever in a reload the stop comes, both have ended when it has, within the stop's time; the reload says that
    it was refused if it was, and every destination that was begun is closed."""

    async def run() -> None:
        stuck = Slow()
        async with delivering(tmp_path, monkeypatch, stuck) as node:
            await put(node, 1)
            await called(stuck)
            reloading = asyncio.create_task(reload(node, batch_size=7))
            await asyncio.sleep(after_s)
            await node.close(0.5)
            assert reloading.done()
            assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("deliver")] == []
            assert isinstance(reloading.exception(), Unavailable)
            assert stuck.closed == 1
            with pytest.raises(Unavailable, match="stopping"):
                await reload(node, batch_size=8)
            assert node.delivery.stats["scripted"].sent == 1
        assert lease(tmp_path)[0] == ""

    asyncio.run(run())


class Jumping(SystemClock):
    """A clock that can be put forward, as if time had passed."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


def test_a_lease_is_not_believed_in_that_was_answered_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database takes longer to answer than a lease lasts, another node may hold it by then: nothing is sent
    before it was asked for once more."""
    clock, asked, take = Jumping(), list[str](), SqlLeases.take

    async def late(leases: SqlLeases, name: str) -> Lease | None:
        lease = await take(leases, name)
        if name == "deliver/scripted":
            clock.ahead_s += 0.0 if asked else LEASE_MS / 1000
            asked.append(name)
        return lease

    class Counting(Scripted):
        async def send(self, batch: Batch) -> Sequence[Refusal]:
            assert len(asked) > 1
            return await super().send(batch)

    monkeypatch.setattr(SqlLeases, "take", late)

    async def run() -> None:
        destination = Counting()
        async with delivering(tmp_path, monkeypatch, destination, clock=clock) as node:
            await put(node, 1)
            await settled(node)
            assert node.delivery.stats["scripted"].sent == len(destination.calls) == 1

    asyncio.run(run())
