"""The suite of `adjourn.log.Tail`, with the rigs of `exercise_log`: `await exercise_tail(make)`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from adjourn.clock import ManualClock
from adjourn.database import Tx
from adjourn.errors import Unavailable
from adjourn.testing.exercise_log import Node, Rig, append, event, everything, run_checks


async def exercise_tail(make: Callable[[], Rig]) -> None:
    """Run every check below, each with a rig of its own. Raises AssertionError naming the check that failed."""
    await run_checks(make, CHECKS)


async def what_is_at_hand_is_what_is_read(rig: Rig, node: Node, clock: ManualClock) -> None:
    """What this node has appended may be had without the database: the same events, never one that is not committed,
    and none that another node's stand between."""
    other = await rig.open(clock, "b")
    partition = node.database.partition_of("s")

    def fail(tx: Tx) -> None:
        tx.append([event("never")])
        raise Unavailable("no")

    try:
        for turn in range(12):
            who = other if turn % 4 == 3 else node
            seen = node.log.appended
            await append(who, clock, *(event(f"e{turn}.{n}", text="x" * n) for n in range(turn % 3 + 1)))
            await asyncio.wait_for(node.log.arrived(0 if who is other else 60, since=seen), 120)
            with suppress(Unavailable):
                await node.database.write(fail, key="s")
            events = await everything(node, partition)
            for start in range(len(events) + 1):
                found = node.log.at_hand(partition, start)
                assert found is None or list(found.events) == events[start : found.next_offset], f"turn {turn}"
                assert found is None or found.next_offset > start
            if who is node:
                last = node.log.at_hand(partition, len(events) - 1)
                assert last is not None, "what was just appended is not at hand"
                assert list(last.events) == events[-1:]
    finally:
        await rig.shut(other)


async def nothing_is_missed_between_reading_and_waiting(rig: Rig, node: Node, clock: ManualClock) -> None:
    """Whoever waits with what `appended` was before it read returns at once if something came in between."""
    for turn in range(20):
        seen = node.log.appended
        await append(node, clock, event(f"e{turn}"))
        await asyncio.wait_for(node.log.arrived(3600, since=seen), 30)
    waiting = asyncio.create_task(node.log.arrived(3600, since=node.log.appended))
    await asyncio.sleep(0.01)
    assert not waiting.done(), "it returned although nothing was appended"
    await append(node, clock, event("last"))
    await asyncio.wait_for(waiting, 30)


CHECKS = (what_is_at_hand_is_what_is_read, nothing_is_missed_between_reading_and_waiting)
