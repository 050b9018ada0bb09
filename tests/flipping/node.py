"""What a user sees of the settings of the database, the log and validation."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest
from tests.faults.rigs import raw, settings_of
from tests.flipping.rigs import Flipped, statuses, take, with_node

from adjourn.clock import ManualClock
from adjourn.databases import mailbox
from adjourn.errors import ConfigInvalid, TooBusy, Unavailable
from adjourn.logs import window
from adjourn.node import Node
from adjourn.testing.account import logged, stored
from adjourn.testing.faults import SqliteFaults


def database_url(flip: Flipped) -> str:
    """That of the file, of two alike, which an event goes into."""
    files = [flip.directory / "one.db", flip.directory / "other.db"]
    for file in files:
        shutil.copy(flip.directory / "adjourn.db", file)
    with_node(flip, lambda node: statuses(node, raw("s")))
    (found,) = (file for file in files if stored(f"sqlite:///{file}", "first_offset", "log_blocks"))
    return f"sqlite:///{found}"


def syncs_a_commit(flip: Flipped) -> float:
    """How often the write-ahead log is flushed for each of 20 single writes."""
    with SqliteFaults(flip.directory) as faults:

        async def work(node: Node) -> float:
            before = faults.syncs("adjourn.db-wal")
            for number in range(20):
                await take(node, raw(f"s{number}"))
            return (faults.syncs("adjourn.db-wal") - before) // 20

        return with_node(flip, work)


def partitions_with_events(flip: Flipped) -> int:
    async def work(node: Node) -> int:
        await take(node, *(raw(f"s{n}") for n in range(200)))
        return sum(head > 0 for head in await node.log.heads())

    return with_node(flip, work)


def reads_at_once(flip: Flipped) -> int:
    """The most of eight slow reads that run side by side."""
    now: list[int] = []
    seen: list[int] = []

    def slow(reader: object) -> None:
        now.append(1)
        seen.append(len(now))
        time.sleep(0.03)
        now.pop()

    async def work(node: Node) -> int:
        await asyncio.gather(*(node.database.read(slow) for _ in range(8)))
        return max(seen)

    return with_node(flip, work)


def turned_away(flip: Flipped) -> bool:
    """Whether any of 200 events is refused with 429 while the lane is busy."""

    async def work(node: Node) -> bool:
        slow = asyncio.create_task(node.database.write(lambda tx: time.sleep(0.2)))
        await asyncio.sleep(0.05)
        sends = [take(node, *(raw(f"{n}-{m}") for m in range(20))) for n in range(10)]
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        await slow
        assert all(isinstance(outcome, list | TooBusy) for outcome in outcomes)
        return any(isinstance(outcome, TooBusy) for outcome in outcomes)

    return with_node(flip, work)


def behind_a_slow_write(flip: Flipped) -> str:
    """What a caller hears that waits behind a write of half a second."""

    async def work(node: Node) -> str:
        slow = asyncio.create_task(node.database.write(lambda tx: time.sleep(0.5)))
        await asyncio.sleep(0.05)
        try:
            return (await take(node, raw("s")))[0].status
        except Unavailable:
            return "unavailable"
        finally:
            await asyncio.gather(slow, return_exceptions=True)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mailbox, "LOOK_EVERY_S", 0.05)  # else only a wait of seconds is noticed
        return with_node(flip, work)


def kept_of_30(flip: Flipped) -> int:
    """Of 20 delivered events of two days ago and 10 of now, 70 kB each, how many are left."""
    clock = ManualClock()

    async def work(node: Node) -> int:
        for number in range(30):
            if number == 20:
                clock.advance(2 * 86_400)
            await take(node, raw(f"s{number}", note=os.urandom(70_000).hex()))
        await node.delivery.drained()
        clock.advance(11)  # retention has its turn every ten seconds at most
        await asyncio.sleep(0.2)
        return len(await logged(node))

    return with_node(flip, work, clock)


def merged(flip: Flipped) -> bool:
    """Whether sixty single writes become few blocks within moments."""

    async def work(node: Node) -> bool:
        for number in range(60):
            await take(node, raw(f"s{number}"))
        await asyncio.sleep(0.3)
        return int((await node.database.read(lambda r: r.rows("SELECT count(*) FROM log_blocks")))[0][0] or 0) < 30

    return with_node(flip, work)


# --- validation


def two_events_of_a_session(flip: Flipped) -> list[str]:
    bodies = [raw("s", event_id="evt_1"), raw("s", event_id="evt_2")]
    return with_node(flip, lambda node: statuses(node, *bodies))


def the_same_id_100_s_later(flip: Flipped) -> str:
    clock = ManualClock()
    body = raw("s", event_id="evt_1")

    async def work(node: Node) -> str:
        assert await statuses(node, body) == ["accepted"]
        clock.advance(100)
        return (await statuses(node, body))[0]

    return with_node(flip, work, clock)


def window_on_disk(flip: Flipped) -> bool:
    """Whether the window of 3,000 ids lies on the disk in part. It forgets none of them, wherever it lies."""

    async def work(node: Node) -> bool:
        for start in range(0, 3_000, 500):
            await take(node, *(raw(f"s{n}", event_id=f"evt_{n}") for n in range(start, start + 500)))
        again = [raw(f"s{number}", event_id=f"evt_{number}") for number in (0, 1_250, 2_999)]
        assert await statuses(node, *again) == ["duplicate"] * 3
        return any(stats.spilled_bytes for stats in node.appender.window_stats())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(window, "RECENT_MAX", 1_000)
        patched.setattr(window, "RUN_ENTRY_BYTES", 2_000)  # else a megabyte would need 60,000 events
        return with_node(flip, work)


def two_minutes_ahead(flip: Flipped) -> str:
    ahead = (datetime.now(UTC) + timedelta(minutes=2)).isoformat()
    return with_node(flip, lambda node: statuses(node, raw("s", timestamp=ahead)))[0]


def of_source_telegram(flip: Flipped) -> str:
    return with_node(flip, lambda node: statuses(node, raw("s", metadata={"source": "telegram"})))[0]


def message_in_the_log(flip: Flipped) -> object:
    async def work(node: Node) -> object:
        await take(node, raw("s", outcome={"final_message": "to a@b.cc"}))
        (event,) = (await node.log.read(0, 0, count=1)).events
        outcome = event.completion().outcome
        return outcome and outcome.final_message

    return with_node(flip, work)


def starts(flip: Flipped) -> str:
    """ "runs", or where settings are refused: "when they are read" or "at the start"."""
    try:
        settings_of(flip.mapped)
    except ConfigInvalid:
        return "refused when it is read"
    try:
        with_node(flip, lambda node: statuses(node, raw("s")))
    except ConfigInvalid:
        return "refused at the start"
    return "runs"
