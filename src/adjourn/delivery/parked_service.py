"""What a destination did not take at once: tried again event by event, beside what flows, in order per session."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence

from adjourn.clock import Clock
from adjourn.database import Database, Fence
from adjourn.delivery import held
from adjourn.delivery.held import Held, Parked
from adjourn.delivery.route import Session, route
from adjourn.delivery.send_service import Sender
from adjourn.delivery.settle import TRANSFORM_FAILED, due, retried, settle_retried
from adjourn.destination import BEHIND, Batch, Refusal
from adjourn.errors import DestinationOutage
from adjourn.events import StoredEvent
from adjourn.log import Lease

LOOK_EVERY_S = 1.0
"""Others (a command, another node's API) may give dead letters back."""
AT_ONCE = 100
PARKED_MAX = 10_000


class ParkedEvents:
    """Those of one destination and partition. `sessions` are the ones that wait; `count` is how many events."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        sender: Sender,
        partition: int,
        lease: Lease,
        on_delivered: Callable[[Sequence[StoredEvent], int], None],
    ) -> None:
        """`on_delivered(events, dead)`: of one attempt."""
        self.sessions: set[Session] = set()
        self.count = 0
        self._database = database
        self._clock = clock
        self._sender = sender
        self._name = sender.channel.name
        self._partition = partition
        self._fence = Fence(lease.name, lease.epoch)
        self._on_delivered = on_delivered
        self._version = 0
        self._adding = 0
        self._alone: set[int] = set()
        self._passes_at: dict[int, int] = {}
        self._room = asyncio.Event()
        self._more = asyncio.Event()

    async def look(self) -> list[Parked]:
        """Read what is parked; `sessions` and `count` follow, unless more is being parked meanwhile."""
        version = self._version
        parked = await self._database.read(held.parked, self._name, self._partition)
        if version == self._version and not self._adding:
            self.sessions = {one.session for one in parked}
            self.count = len(parked)
            if self.count < PARKED_MAX:
                self._room.set()
        return parked

    def begin(self) -> None:
        """Nothing is being parked: whatever was under way has ended."""
        self._adding = 0
        self._version += 1
        self._more.set()

    def add(self, kept: Sequence[Held]) -> None:
        """What the flow is parking; its transaction is under way until `added` with the same events."""
        parked = [one for one in kept if one.state == "parked"]
        if parked:
            self._adding += len(parked)
            self.sessions.update((one.tenant, one.session_id) for one in parked)
            self.count += len(parked)

    def added(self, kept: Sequence[Held]) -> None:
        parked = sum(one.state == "parked" for one in kept)
        if parked:
            self._adding -= parked
            self._version += 1
            self._more.set()

    async def room(self) -> bool:
        """Wait until more may be parked: it is bounded. False if this destination is stopped before."""
        while self.count >= PARKED_MAX and not self._sender.stopping.is_set():
            self._room.clear()
            self._sender.stats.waiting = (
                f"{self.count} events are being tried again, and no more may be; see: adjourn dead-letters list"
            )
            await self._sender.pause(LOOK_EVERY_S, until=self._room)
        return not self._sender.stopping.is_set()

    async def run(self) -> None:
        """Until the destination is stopped. Raises Fenced and what the database raises."""
        while not self._sender.stopping.is_set():
            self._more.clear()
            parked = await self.look()
            ready, wait_s = self._ready(parked)
            if ready:
                await self._try(ready)
            else:
                await self._sender.pause(wait_s, until=self._more)

    def _ready(self, parked: Sequence[Parked]) -> tuple[list[list[Parked]], float]:
        """(of each session whose time has come, its first event and those that go with it; else how long to wait)"""
        now_ms = self._clock.wall_ms()
        known = {one.offset for one in parked}
        self._alone &= known
        self._passes_at = {offset: passes for offset, passes in self._passes_at.items() if offset in known}
        sessions: dict[Session, list[Parked]] = {}
        for one in parked:
            sessions.setdefault(one.session, []).append(one)
        ready = [
            self._run_of(waiting) for waiting in sessions.values() if due(waiting[0], self._sender.channel, now_ms)
        ]
        soonest_ms = min((waiting[0].next_ms - now_ms for waiting in sessions.values()), default=LOOK_EVERY_S * 1000)
        return ready, min(max(soonest_ms / 1000, 0.001), LOOK_EVERY_S)

    def _run_of(self, waiting: Sequence[Parked]) -> list[Parked]:
        """How much of a session may go at once: what only waited for others goes as any batch, in order."""
        run = list(itertools.takewhile(self._is_new, waiting[: self._size]))
        return run or [waiting[0]]

    def _is_new(self, one: Parked) -> bool:
        """It was never tried alone, and never refused."""
        return not one.attempts and one.offset not in self._alone

    @property
    def _size(self) -> int:
        return min(AT_ONCE, self._sender.channel.batch_size)

    async def _try(self, ready: Sequence[Sequence[Parked]]) -> None:
        """Those that were never tried alone go together, as any batch; whatever failed goes alone."""
        groups: list[list[int]] = []
        for run in ready:
            if self._is_new(run[0]):
                if not groups or len(groups[-1]) + len(run) > self._size:
                    groups.append([])
                groups[-1] += [one.offset for one in run]  # whole: none goes before an earlier one is taken
        groups += [[run[0].offset] for run in ready if not self._is_new(run[0])][:AT_ONCE]
        for group in groups:
            if not await self._sender.admitted():
                return
            try:
                rows = await self._database.read(held.at, self._name, self._partition, group)
                if rows and not await self._send(rows):
                    return
            finally:
                self._sender.let_probe()

    async def _send(self, rows: Sequence[Held]) -> bool:
        """One attempt; False if the destination is away."""
        began_ms = self._clock.wall_ms()
        channel, gate = self._sender.channel, self._sender.gate
        events = [row.event() for row in rows]
        routed = route(events, shapes=channel.shapes, sampling_rate=1.0, waiting=set(), wants=channel.wants)
        unwanted = {row.offset for row, fate in zip(rows, routed.fates, strict=True) if fate == "f"}  # since a reload
        reasons = {event.offset: why for event, why in routed.failed}
        judged = {offset: Refusal(0, TRANSFORM_FAILED, why) for offset, why in reasons.items()}
        batch = Batch(f"{self._name}/{self._partition}/{rows[0].offset}-{rows[-1].offset + 1}", routed.shaped)
        passes = gate.passes
        try:
            refused: Sequence[Refusal] = await self._sender.send(batch) if routed.shaped else ()
        except DestinationOutage as outage:
            refusal = self._blamed(rows, outage, passes)
            if refusal is None:
                return False
            refused = [refusal]
        judged |= {routed.wanted[refusal.index].offset: refusal for refusal in refused if refusal.code != BEHIND}
        behind = {routed.wanted[refusal.index].offset for refusal in refused if refusal.code == BEHIND}
        tried = [row for row in rows if row.offset not in behind]
        now_ms, draw = self._clock.wall_ms(), random.random()
        after = [
            "f" if row.offset in unwanted else retried(channel, row, judged.get(row.offset), now_ms=now_ms, draw=draw)
            for row in tried
        ]
        await self._database.write(settle_retried, tried, after, began_ms, now_ms, fence=self._fence)
        self._on_delivered(
            [row.event() for row, then in zip(tried, after, strict=True) if then == "d"],
            sum(not isinstance(then, str) and then.state == "dead" for then in after),
        )
        return True

    def _blamed(self, rows: Sequence[Held], outage: DestinationOutage, passes: int) -> Refusal | None:
        """The refusal of the one event that was sent alone, if others have passed since it last failed: then it is the
        event's failure. None: it is the destination's."""
        if not outage.answered:
            self._sender.failed(outage)
            return None
        if len(rows) > 1:
            self._alone.update(row.offset for row in rows)
            self._sender.failed(outage)
            return None
        others_passed = passes > self._passes_at.get(rows[0].offset, passes)
        self._passes_at[rows[0].offset] = passes
        if self._sender.gate.opens_at_ms is not None or not others_passed:
            self._sender.failed(outage)
        return Refusal(0, "failed_alone", outage.message, permanent=False) if others_passed else None
