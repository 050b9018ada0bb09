"""What a user sees of the settings of `routing` and of a destination."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing

from tests.faults.rigs import raw
from tests.flipping.rigs import Flipped, objects, take, with_node

from adjourn.clock import ManualClock
from adjourn.destination import Batch, Refusal
from adjourn.node import Node
from adjourn.testing.account import stored, written

LOGFILE = {"routing.destinations": [{"type": "logfile", "log_path": "{dir}/out.jsonl"}]}
SMALL_BATCHES = {"routing.destinations": [{"type": "logfile", "log_path": "{dir}/out.jsonl", "batch_size": 5}]}
AWAY = {"routing.destinations": [{"type": "logfile", "log_path": "{dir}", "name": "away"}]}
"""A folder cannot be written as a file: an outage for as long as it is one."""

LONG_MS = 2_000_000_000  # nearly a month: a random part of it is never short


def deliver(flip: Flipped, *bodies: bytes) -> None:
    async def work(node: Node) -> None:
        await take(node, *bodies)
        await node.delivery.drained()
        for balance in await node.delivery.balances():
            assert balance.difference == 0

    with_node(flip, work)


def arrivals(flip: Flipped) -> list[str]:
    deliver(flip, raw("a"), raw("b"))
    return written(flip.directory / "out.jsonl")


def types_that_arrive(flip: Flipped) -> list[str]:
    """Of one event of each type."""

    async def work(node: Node) -> None:
        await take(node, raw("a", event_id="e1"), raw("a", event_type="session.amended", amends="e1"))
        change = node.ingest.status_record(
            "acme", "a", from_status="active", to_status="idle", reason="", revision=1, at_ms=1_790_000_000_000
        )
        await node.database.write(lambda tx: tx.append([change]), key="a")
        await node.delivery.drained()
        (balance,) = await node.delivery.balances()
        assert (balance.captured, balance.difference) == (3, 0)
        assert balance.filtered == 3 - balance.delivered

    with_node(flip, work)
    return [str(line.get("event_type", "session.completed")) for line in objects(flip.directory / "out.jsonl")]


def own_fields_of_the_line(flip: Flipped) -> list[str]:
    """Those that neither every event has nor every line."""
    deliver(flip, raw("a"))
    (line,) = objects(flip.directory / "out.jsonl")
    return sorted(line.keys() - {"event_id", "event_type", "session", "adjourn"})


def part_that_arrives(flip: Flipped) -> str:
    deliver(flip, *(raw(f"s{n}") for n in range(400)))
    count = len(written(flip.directory / "out.jsonl"))
    return {400: "all", 0: "none"}.get(count, "about half" if 130 < count < 270 else str(count))


def name_in_the_account(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        (balance,) = await node.delivery.balances()
        assert list(node.delivery.stats) == [balance.destination]
        return balance.destination

    return with_node(flip, work)


def kind_of_what_is_written(flip: Flipped) -> str:
    out = flip.directory / "arrived"
    (destination,) = flip.mapped["routing"]["destinations"]
    destination |= {"database": {"connection_string": f"sqlite:///{out}"}, "logfile": {"log_path": str(out)}}[
        destination["type"]
    ]
    deliver(flip, raw("s"))
    return "an SQLite file" if out.read_bytes().startswith(b"SQLite format 3") else "lines" if objects(out) else "none"


def largest_batch(flip: Flipped) -> int:
    """The most of 20 waiting events that go at once."""
    sizes: list[int] = []

    async def work(node: Node) -> None:
        (channel,) = node.delivery.channels
        send = channel.destination.send

        async def noted(batch: Batch) -> Sequence[Refusal]:
            sizes.append(len(batch.events))
            return await send(batch)

        setattr(channel.destination, "send", noted)  # noqa: B010  a protocol's method cannot be assigned to
        await take(node, *(raw(f"s{n}") for n in range(20)))
        await node.delivery.drained()

    with_node(flip, work)
    assert sum(sizes) == 20
    return max(sizes)


def connection_string_of_the_row(flip: Flipped) -> str:
    deliver(flip, raw("s"))
    (found,) = (f for f in flip.directory.glob("*.db") if f.name != "adjourn.db")
    assert stored(f"sqlite:///{found}") == ["s"]
    return f"sqlite:///{found}"


def table_of_the_row(flip: Flipped) -> str:
    deliver(flip, raw("s"))
    with closing(sqlite3.connect(flip.directory / "out.db")) as connection:
        tables = [str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    (table,) = (name for name in tables if not name.endswith("_meta"))
    return table


def path_of_the_lines(flip: Flipped) -> str:
    deliver(flip, raw("s"))
    (found,) = flip.directory.rglob("*.jsonl")
    return str(found)


def level_in_the_lines(flip: Flipped) -> str:
    deliver(flip, raw("s"))
    (line,) = objects(flip.directory / "out.jsonl")
    return str(line["adjourn"].get("level", ""))


def sizes_of_files(flip: Flipped) -> tuple[int, int]:
    """After six megabytes in batches of half a one: (files, megabytes of the largest, rounded up)."""
    deliver(flip, *(raw(f"s{n}", note="x" * 100_000) for n in range(60)))
    sizes = [file.stat().st_size for file in flip.directory.glob("out.jsonl*")]
    return len(sizes), -(-max(sizes) // 1_000_000)


# --- refusals and outages


def with_a_table_that_refuses(
    flip: Flipped, found: Callable[[list[int]], object], clock: ManualClock | None = None
) -> object:
    """`found` is given the attempts at each dead letter, after one event that a trigger refused."""
    out = flip.directory / "out.db"

    async def work(node: Node) -> object:
        await take(node, raw("good"))
        await node.delivery.drained()
        with closing(sqlite3.connect(out)) as connection:
            connection.execute(
                "CREATE TRIGGER no BEFORE INSERT ON session_completions WHEN NEW.session_id = 'bad' "
                "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
        await take(node, raw("bad"), raw("better"))
        await node.delivery.drained()
        assert sorted(stored(f"sqlite:///{out}")) == ["better", "good"]
        if clock is not None:
            clock.advance(2 * 86_400)
            await asyncio.sleep(0.2)
        rows = await node.database.read(lambda r: r.rows("SELECT attempts FROM held_events"))
        return found([int(row[0] or 0) for row in rows])

    return with_node(flip, work, clock)


def attempts_at_a_refused_event(flip: Flipped) -> object:
    return with_a_table_that_refuses(flip, lambda attempts: attempts[0])


def dead_letters_after_two_days(flip: Flipped) -> object:
    return with_a_table_that_refuses(flip, len, ManualClock())


def tries(flip: Flipped, enough: int, seconds: float) -> bool:
    """Whether a destination that is away is tried again so often in so many seconds."""

    async def work(node: Node) -> bool:
        await take(node, raw("s"))
        (stats,) = node.delivery.stats.values()
        try:
            async with asyncio.timeout(seconds):
                while stats.retries < enough:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        return stats.retries >= enough

    return with_node(flip, work)


def tried_again_soon(flip: Flipped) -> bool:
    return tries(flip, 3, 0.3)


def tried_again_often(flip: Flipped) -> bool:
    """Twenty waits that double without bound are days, whatever chance makes of them."""
    return tries(flip, 20, 0.7)


def given_up_after_two_days(flip: Flipped) -> int:
    """How many of three events, which nobody could deliver meanwhile, retention deletes."""
    clock = ManualClock()

    async def work(node: Node) -> int:
        await take(node, *(raw(f"s{n}") for n in range(3)))
        clock.advance(2 * 86_400)
        await asyncio.sleep(0.2)
        (balance,) = await node.delivery.balances()
        assert (balance.pending, balance.difference) == (3 - balance.expired, 0)
        return balance.expired

    return with_node(flip, work, clock)
