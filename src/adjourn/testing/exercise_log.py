"""The suite that every log passes: `await exercise_log(make)` raises AssertionError where one does not.

`make` gives a rig: an empty place, and nodes over it, each with a database, a log and leases. The rig's log keeps a
dedupe window of `WINDOW_S` and asks `judge` what a record is beside the event that holds its identity.

    async def test() -> None:
        await exercise_log(lambda: MyRig())
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from adjourn.clock import ManualClock
from adjourn.database import LEASE_MS, Appended, Database, Fence, Tx, Verdict
from adjourn.errors import Fenced
from adjourn.events import Record, StoredEvent, decode_identity
from adjourn.log import Leases, Log

WINDOW_S = 300.0
WAIT_S = 60.0


@dataclass
class Node:
    """One process's view of the rig's place."""

    database: Database
    log: Log
    leases: Leases
    register: Callable[[Tx, str, int, int | None], None]
    """(tx, consumer, partition, drop_after_ms): make a consumer known."""
    disable: Callable[[Tx, str], None]
    """(tx, consumer): retention no longer waits for it."""
    counts: Callable[[str], Coroutine[Any, Any, Mapping[str, int]]]
    """A consumer's counts by kind, summed over partitions."""


class Rig(Protocol):
    async def open(self, clock: ManualClock, owner: str) -> Node: ...

    async def shut(self, node: Node) -> None: ...

    async def close(self) -> None: ...


Check = Callable[[Rig, Node, ManualClock], Coroutine[Any, Any, None]]


def event(
    event_id: str, *, text: str = "", tenant: str = "org", session: str = "s", sequence: int = 0, hashed: str = ""
) -> Record:
    """`hashed`: the event shares the hash of that id."""
    body = msgspec.json.encode({"event_id": event_id, "session": {"session_id": session}, "text": text})
    return Record(
        tenant=tenant,
        session_id=session,
        event_id=event_id,
        body=body,
        id_hash=hash_of(tenant, hashed or event_id),
        content_hash=hash_of(tenant, text),
        received_ms=1_700_000_000_000,
        cost_nanousd=len(text),
        price_ref="sent",
        sequence=sequence,
    )


def hash_of(tenant: str, event_id: str) -> bytes:
    """8 bytes, alike for alike ids; random enough for tests."""
    return random.Random(f"{tenant}:{event_id}").randbytes(8)


def judge(record: Record, holder: StoredEvent) -> Verdict:
    if record.tenant != holder.tenant or record.event_id != decode_identity(holder.body).event_id:
        return "accepted"
    return "duplicate" if record.body == holder.body else "conflict"


async def exercise_log(make: Callable[[], Rig]) -> None:
    """Run every check below, each with a rig of its own. Raises AssertionError naming the check that failed."""
    await run_checks(make, CHECKS)


async def run_checks(make: Callable[[], Rig], checks: Sequence[Check]) -> None:
    for check in checks:
        rig = make()
        try:
            await asyncio.wait_for(_with_node(rig, check), WAIT_S)
        except Exception as error:
            raise AssertionError(f"{check.__name__}: {error!r}") from error
        finally:
            await rig.close()


async def _with_node(rig: Rig, check: Check) -> None:
    clock = ManualClock()
    node = await rig.open(clock, "a")
    try:
        await check(rig, node, clock)
    finally:
        await rig.shut(node)


async def append(node: Node, clock: ManualClock, *records: Record, producer: str = "", key: str = "s") -> list[Verdict]:
    """Verdicts, all spelled out."""
    for record in records:
        record.received_ms = clock.wall_ms()
    appended = await node.database.write(_append, records, producer, key=key, weight=len(records))
    return ["accepted"] * len(records) if appended.verdicts is None else appended.verdicts


def _append(tx: Tx, records: Sequence[Record], producer: str) -> Appended:
    return tx.append(records, producer=producer)


async def everything(node: Node, partition: int, start: int = 0) -> list[StoredEvent]:
    events: list[StoredEvent] = []
    while True:
        found = await node.log.read(partition, start, count=100)
        assert not found.lost, found.lost
        events.extend(found.events)
        if not found.events:
            return events
        assert found.next_offset > start, "a reader that goes on at next_offset must get further"
        start = found.next_offset


def event_id(stored: StoredEvent) -> str:
    return decode_identity(stored.body).event_id


async def offsets_are_dense(rig: Rig, node: Node, clock: ManualClock) -> None:
    """Concurrent appends, of two nodes and with failing functions among them, leave no gap, and keep order per key."""
    other = await rig.open(clock, "b")

    def fail(tx: Tx, records: Sequence[Record]) -> None:
        tx.append(records)
        raise LookupError

    work: list[Coroutine[Any, Any, Any]] = []
    for number in range(60):
        for session in range(10):
            owner = (node, other)[session % 2]  # one owner a session, as leases see to
            work.append(append(owner, clock, event(f"{session}:{number}", session=f"s{session}"), key=f"s{session}"))
        work.append(node.database.write(fail, [event(f"bad{number}")], key=f"s{number}"))
    results = await asyncio.gather(*work, return_exceptions=True)
    assert sum(r == ["accepted"] for r in results) == 600, [r for r in results if isinstance(r, BaseException)][:3]
    heads = await node.log.heads()
    assert sum(heads) == 600
    order: dict[str, list[int]] = {}
    for partition, head in enumerate(heads):
        events = await everything(node, partition)
        assert [e.offset for e in events] == list(range(head))
        for one in events:
            session, _, number = event_id(one).partition(":")
            assert node.database.partition_of(f"s{session}") == partition
            order.setdefault(session, []).append(int(number))
    assert order == {str(s): list(range(60)) for s in range(10)}
    await rig.shut(other)


async def what_goes_in_comes_out(rig: Rig, node: Node, clock: ManualClock) -> None:
    """Body, tenant, time, cost and its source are read back as they were appended, from any offset on, by any count."""
    rng = random.Random(1)
    records = [event(f"e{n}", text="x" * rng.randint(0, 3000), tenant=f"t{n % 3}") for n in range(300)]
    records[7].cost_nanousd, records[8].price_ref = None, ""
    await append(node, clock, *records[:100])
    for record in records[100:]:
        await append(node, clock, record)
    partition = node.database.partition_of("s")
    events = await everything(node, partition)
    facts = [(e.tenant, e.body, e.received_ms, e.cost_nanousd, e.price_ref) for e in events]
    assert facts == [(r.tenant, r.body, r.received_ms, r.cost_nanousd, r.price_ref) for r in records]
    for offset in (0, 1, 50, 99, 100, 101, 299):
        found = await node.log.read(partition, offset, count=rng.randint(1, 200))
        assert found.events == events[offset : found.next_offset]
    assert (await node.log.read(partition, 300, count=5)).next_offset == 300
    assert not (await node.log.read(partition, 300, count=5)).events


async def the_window_knows_its_events(rig: Rig, node: Node, clock: ManualClock) -> None:
    """Same id: a duplicate if the content is the same, else a conflict; inside a batch, across batches, from another
    node, after a restart. When the window has passed, it is new again."""
    old = [event("a", text="1"), event("b", text="2")]
    again = [event("a", text="1"), event("b", text="other"), event("c"), event("c"), event("c", text="no")]
    judged = ["duplicate", "conflict", "accepted", "duplicate", "conflict"]
    assert await append(node, clock, *old) == ["accepted"] * 2
    assert await append(node, clock, *again) == judged
    assert await append(node, clock, event("a", text="1", tenant="other")) == ["accepted"]
    other = await rig.open(clock, "b")
    judged[2] = "duplicate"
    assert await append(other, clock, *again) == judged
    assert await append(other, clock, event("d")) == ["accepted"]
    assert await append(node, clock, event("d")) == ["duplicate"]
    clock.advance(WINDOW_S * 0.9)
    assert await append(node, clock, *again, event("e")) == [*judged, "accepted"]
    await rig.shut(other)
    other = await rig.open(clock, "c")
    assert await append(other, clock, *again) == judged
    clock.advance(WINDOW_S * 20)
    assert await append(node, clock, *again) == ["accepted", "accepted", "accepted", "duplicate", "conflict"]
    late = await rig.open(clock, "d")
    assert await append(late, clock, event("d"), event("e")) == ["accepted"] * 2
    assert sum(await node.log.heads()) == 11
    await rig.shut(other)
    await rig.shut(late)


async def a_collision_loses_nothing(rig: Rig, node: Node, clock: ManualClock) -> None:
    """Two ids of one hash are two events, in one batch and over two; and each is found by its id."""
    assert await append(node, clock, event("x"), event("y", hashed="x")) == ["accepted"] * 2
    assert await append(node, clock, event("z", hashed="x")) == ["accepted"]
    events = await everything(node, node.database.partition_of("s"))
    assert [event_id(e) for e in events] == ["x", "y", "z"]


async def a_failed_write_is_forgotten(rig: Rig, node: Node, clock: ManualClock) -> None:
    """What a failed function appended is not held against a later one."""

    def fail(tx: Tx) -> None:
        tx.append([event("a")])
        raise LookupError

    results = await asyncio.gather(node.database.write(fail, key="s"), return_exceptions=True)
    assert isinstance(results[0], LookupError)
    assert await append(node, clock, event("a")) == ["accepted"]


async def producers_are_exact(rig: Rig, node: Node, clock: ManualClock) -> None:
    """A known sender's resends are duplicates however late, on any node; gaps in its sequence are allowed."""

    def batch(*sequences: int) -> list[Record]:
        return [event(f"p{n}", sequence=n) for n in sequences]

    async def send(node: Node, *sequences: int, producer: str = "spool-1") -> list[Verdict]:
        return await append(node, clock, *batch(*sequences), producer=producer)

    accepted, duplicate = ["accepted"], ["duplicate"]
    assert await send(node, 1, 2, 3) == accepted * 3
    assert await send(node, 1, 2, 3) == duplicate * 3, "a resend as a whole"
    assert await send(node, 2, 3, 4, 9) == duplicate * 2 + accepted * 2
    clock.advance(WINDOW_S * 50)
    other = await rig.open(clock, "b")
    for late in (other, node):
        assert await send(late, 1, 2, 3, 4, 9) == duplicate * 5
    assert await send(other, 10) == accepted
    assert await send(node, 10, 11) == duplicate + accepted
    assert await send(node, 1, 2, producer="spool-2") == accepted * 2, "another sender has its own numbers"
    both = await asyncio.gather(send(node, 12, 13), send(node, 12, 13, 14))
    assert both == [accepted * 2, duplicate * 2 + accepted]
    assert sum(await node.log.heads()) == 12
    await rig.shut(other)


async def found_by_id(rig: Rig, node: Node, clock: ManualClock) -> None:
    """An event is found by tenant and id, the newest where the window let an id pass twice; nothing else is."""
    await append(node, clock, event("a", text="old"), event("b"))
    clock.advance(WINDOW_S * 3)
    await append(node, clock, event("a", text="new"), event("y", hashed="a"))
    found = await node.log.find("org", "a")
    assert found is not None
    assert b'"new"' in found.body
    other = await node.log.find("org", "b")
    assert other is not None
    assert event_id(other) == "b"
    assert await node.log.find("other", "a") is None
    assert await node.log.find("org", "nothing") is None


async def cursors_are_kept(rig: Rig, node: Node, clock: ManualClock) -> None:
    """A consumer begins at the tail, goes on where it stopped, also on another node; a failed advance is undone."""
    partition = node.database.partition_of("s")
    await append(node, clock, *(event(f"e{n}") for n in range(10)))
    await node.database.write(node.register, "c", partition, None)
    assert await node.log.cursor("c", partition) == 0
    await node.database.write(node.log.advance, "c", partition, 4, {"delivered": 3, "filtered": 1})
    await node.database.write(node.log.advance, "c", partition, 6, {"delivered": 2})

    def fail(tx: Tx) -> None:
        node.log.advance(tx, "c", partition, 9, {"delivered": 3})
        raise LookupError

    await asyncio.gather(node.database.write(fail), return_exceptions=True)
    await node.database.write(node.register, "c", partition, None)
    other = await rig.open(clock, "b")
    assert await other.log.cursor("c", partition) == 6
    counts = dict(await other.counts("c"))
    assert (counts["delivered"], counts["filtered"]) == (5, 1)
    await rig.shut(other)


async def retention_waits_for_the_living(rig: Rig, node: Node, clock: ManualClock) -> None:
    """The oldest go by age and by size, never past a live cursor unless that consumer's own `drop_after` has passed,
    and then what it missed is counted; disabled and unknown consumers hold nothing."""
    partition = node.database.partition_of("s")

    async def age(hours: int, count: int) -> None:
        for number in range(count):
            await append(node, clock, event(f"{clock.wall_ms()}:{number}", text="x" * 50))
        clock.advance(3600 * hours)

    async def tail() -> int:
        found = await node.log.read(partition, 0, count=1)
        return found.events[0].offset if found.events else sum(await node.log.heads())

    for consumer, drop_after_ms in (("slow", None), ("dropping", 3 * 3_600_000), ("off", None)):
        await node.database.write(node.register, consumer, partition, drop_after_ms)
    await node.database.write(node.disable, "off")
    await age(1, 10)
    await node.database.write(node.log.advance, "slow", partition, 5, {})
    hour = 3_600_000
    assert await node.log.retain(age_ms_max=None, bytes_max=None) == 0
    assert await node.log.retain(age_ms_max=hour * 2, bytes_max=None) == 0, "not old enough"
    clock.advance(3600)
    assert await node.log.retain(age_ms_max=hour, bytes_max=None) == 0, "held by 'dropping', whose time has not come"
    clock.advance(3600 * 2)
    assert await node.log.retain(age_ms_max=hour, bytes_max=None) == 5, "up to the cursor of 'slow'"
    assert await tail() == 5
    assert await node.log.cursor("dropping", partition) == 5
    assert (await node.counts("dropping"))["expired"] == 5
    await node.database.write(node.log.advance, "slow", partition, 10, {})
    assert await node.log.retain(age_ms_max=None, bytes_max=1) == 5
    assert (await node.counts("dropping"))["expired"] == 10
    assert "expired" not in await node.counts("slow")
    await age(0, 3)
    assert [e.offset for e in (await node.log.read(partition, 0, count=10)).events] == [10, 11, 12]
    await node.database.write(node.register, "new", partition, None)
    assert await node.log.cursor("new", partition) == 10, "a new consumer begins at the tail"
    assert sum(await node.log.heads()) == 13, "offsets go on"


async def leases_pass_on(rig: Rig, node: Node, clock: ManualClock) -> None:
    """A role has one holder; it passes on at once when released, else when the holder's counter has stood still for
    LEASE_MS of monotonic time; each passing raises the epoch, which fences the old holder out."""
    other = await rig.open(clock, "b")
    held = await node.leases.take("role")
    assert held is not None
    assert (held.name, held.epoch > 0) == ("role", True)
    for _ in range(10):  # both beat, for longer than a lease
        assert await other.leases.take("role") is None
        again = await node.leases.take("role")
        assert again == held
        clock.advance(LEASE_MS / 3000)
    for step in (86_400 * 365, -86_400 * 700):
        clock.step_wall(step)
        assert await other.leases.take("role") is None, "a step of the wall clock expires nothing"
    await node.leases.take("role")
    assert await other.leases.take("role") is None
    clock.advance(LEASE_MS / 1000 - 0.1)
    assert await other.leases.take("role") is None
    clock.advance(0.1)
    taken = await other.leases.take("role")
    assert taken is not None
    assert taken.epoch > held.epoch
    assert await node.leases.take("role") is None
    await _fenced(node, held.epoch, passes=False)
    await _fenced(other, taken.epoch, passes=True)
    await node.leases.release("role")
    assert await other.leases.take("role") == taken, "only the holder releases"
    await other.leases.release("role")
    await other.leases.release("role")
    back = await node.leases.take("role")
    assert back is not None
    assert back.epoch > taken.epoch
    await rig.shut(other)


async def _fenced(node: Node, epoch: int, *, passes: bool) -> None:
    try:
        await node.database.write(_append, (), "", fence=Fence("role", epoch))
    except Fenced:
        assert not passes, f"fenced out at epoch {epoch}"
    else:
        assert passes, f"a write at epoch {epoch} passed"


CHECKS = (
    offsets_are_dense,
    what_goes_in_comes_out,
    the_window_knows_its_events,
    a_collision_loses_nothing,
    a_failed_write_is_forgotten,
    producers_are_exact,
    found_by_id,
    cursors_are_kept,
    retention_waits_for_the_living,
    leases_pass_on,
)
