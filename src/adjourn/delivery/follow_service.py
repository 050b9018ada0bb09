"""One destination's way through one partition: read from the cursor → route → send → record what became of each event
and move the cursor, in one transaction."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from adjourn.clock import Clock
from adjourn.database import Database, Fence
from adjourn.delivery import records
from adjourn.delivery.conservation import consumer_of
from adjourn.delivery.parked_service import ParkedEvents
from adjourn.delivery.records import Record
from adjourn.delivery.route import Routed, nothing_routed, pieces, route
from adjourn.delivery.send_service import Sender
from adjourn.delivery.settle import Sent, Settlement, settle, settlement
from adjourn.delivery.settle_service import Settler
from adjourn.destination import Batch
from adjourn.errors import DestinationOutage, Fenced
from adjourn.eventlog import get_logger
from adjourn.events import StoredEvent
from adjourn.log import Lease, Log, Slice

_log = get_logger("adjourn.delivery")

POLL_S = 0.5
GATHER_S_MAX = 0.05
MAKE_WAY_S_MAX = 1.0
BUSY_EVENTS = 250
BUSY_SHARE = 0.8
"""Of one core; this process's own."""
ROUTE_AT_ONCE = 8
"""Events whose filter and transform are worked out before the event loop gets its turn."""


class Follower:
    def __init__(
        self,
        database: Database,
        log: Log,
        clock: Clock,
        sender: Sender,
        partition: int,
        lease: Lease,
        *,
        in_hand: Callable[[], int],
        on_delivered: Callable[[Sequence[StoredEvent], int], None],
    ) -> None:
        """`in_hand`: how many events this process is taking in now; it comes first."""
        self._database = database
        self._log = log
        self._clock = clock
        self._sender = sender
        self._channel = sender.channel
        self._partition = partition
        self._fence = Fence(lease.name, lease.epoch)
        self._in_hand = in_hand
        self._on_delivered = on_delivered
        self._parked = ParkedEvents(database, clock, sender, partition, lease, on_delivered)
        self._last: Record | None = None

    async def run(self) -> None:
        """Until the destination is stopped, or its lease is another's."""
        both = [asyncio.create_task(self._mind(self._flow)), asyncio.create_task(self._mind(self._parked.run))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self._sender.stopping.is_set():
                await asyncio.wait(both)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _mind(self, work: Callable[[], Awaitable[None]]) -> None:
        """Work until it is done; whatever else ends it is said, and tried again."""
        name = self._channel.name
        while not self._sender.stopping.is_set():
            try:
                await work()
            except Fenced:
                _log.warning("lease_lost", destination=name, partition=self._partition)
                return
            except Exception as error:
                self._sender.stats.waiting = str(error)
                _log.exception("delivery_interrupted", destination=name, partition=self._partition)
                await self._sender.pause(1.0)
                self._sender.stats.waiting = self._sender.gate.waiting  # until it is interrupted again

    async def _flow(self) -> None:
        if not await self._sender.open():
            return
        self._parked.begin()
        await self._parked.look()
        cursor = await self._log.cursor(consumer_of(self._channel.name), self._partition)
        settler = Settler(self._settle, wary=True)
        try:
            await self._flow_from(cursor, settler)
            await settler.settled()
        except asyncio.CancelledError:
            await settler.close(cut_off=True)
            raise
        finally:  # what began must have ended before anything begins anew
            await settler.close()

    async def _flow_from(self, cursor: int, settler: Settler) -> None:
        known: int | None = None  # all of which was at hand, and has been dealt with
        while not self._sender.stopping.is_set():
            seen = self._log.appended
            found = self._log.at_hand(self._partition, cursor)
            if found is not None:
                known = seen
            elif known != seen:
                found = await self._log.read(self._partition, cursor, count=self._channel.batch_size)
            if found is None or found.next_offset == cursor:
                settler.check()
                await self._await_more(seen)
                known = None  # others may have appended, too
                continue
            for piece in pieces(found, cursor, self._channel.batch_size):
                crowded = self._in_hand() >= BUSY_EVENTS
                began_s, began_cpu_s = self._clock.monotonic(), time.process_time() if crowded else 0.0
                done = await self._deal_with(cursor, piece)
                if done is None:
                    return
                self._parked.add(done.held)  # at once: the next stretch must not overtake them
                await settler.add(done)
                cursor = piece.next_offset
                took_s = self._clock.monotonic() - began_s
                busy = crowded and time.process_time() - began_cpu_s >= BUSY_SHARE * took_s
                await self._make_way(took_s, busy=busy, small=len(piece.events) < self._channel.batch_size)

    async def _make_way(self, took_s: float, *, busy: bool, small: bool) -> None:
        """Taking events in comes first: what waits to be delivered is durable, what is being taken in is not. While
        that is much and the interpreter is busy with it (not waiting for a slow disk, where delivering takes nothing
        from it), delivering gets a tenth of the time. Where a small batch costs nearly what a full one does, it gets a
        ninth while events trickle in, and they gather."""
        if busy and self._in_hand() >= BUSY_EVENTS:
            await self._sender.pause(min(9 * took_s, MAKE_WAY_S_MAX))
        elif small and self._channel.gather:
            await self._sender.pause(min(8 * took_s, GATHER_S_MAX))

    async def _await_more(self, seen: int) -> None:
        arrived = asyncio.create_task(self._log.arrived(POLL_S, since=seen))
        stopping = asyncio.create_task(self._sender.stopping.wait())
        await asyncio.wait((arrived, stopping), return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()
        stopping.cancel()

    async def _deal_with(self, cursor: int, piece: Slice) -> Settlement | None:
        """One stretch of the log, to its end; None if the destination is stopped before it took it."""
        if not await self._parked.room():
            return None
        routed = await self._route(piece.events)
        sent = Sent(1, (), self._clock.wall_ms())
        if routed.shaped:
            batch = Batch(f"{self._channel.name}/{self._partition}/{cursor}-{piece.next_offset}", routed.shaped)
            ended = await self._send_until_taken(batch)
            if ended is None:
                return None
            sent = ended
        return settlement(
            self._channel,
            self._partition,
            cursor,
            piece,
            routed,
            sent,
            now_ms=self._clock.wall_ms(),
            draw=random.random(),
        )

    async def _route(self, events: Sequence[StoredEvent]) -> Routed:
        channel, waiting = self._channel, self._parked.sessions
        shapes, rate, wants = channel.shapes, channel.sampling_rate, channel.wants
        if shapes is None:
            return route(events, shapes=None, sampling_rate=rate, waiting=waiting, wants=wants)
        routed = nothing_routed()
        for start in range(0, len(events), ROUTE_AT_ONCE):
            part = events[start : start + ROUTE_AT_ONCE]
            routed.extend(route(part, shapes=shapes, sampling_rate=rate, waiting=waiting, wants=wants))
            await asyncio.sleep(0)
        return routed

    async def _send_until_taken(self, batch: Batch) -> Sent | None:
        """An outage waits as long as it lasts and uses up no attempt of any event. Where the destination answers this
        batch with errors again and again, the batch is set aside: if what comes behind it passes, the failure was
        an event's, and each is tried alone. None: stopped before that."""
        began_ms, attempts, answered = self._clock.wall_ms(), 0, 0
        while await self._sender.admitted():
            attempts += 1
            try:
                refused = await self._sender.send(batch)
            except DestinationOutage as outage:
                answered += outage.answered
                self._sender.failed(outage)
                if outage.answered and self._sender.may_set_aside(answered):
                    return Sent(attempts, (), began_ms, outage.message)
                continue
            return Sent(attempts, refused, began_ms)
        return None

    async def _settle(self, done: Settlement) -> None:
        await self._database.write(settle, self._log, self._channel.name, done, self._last, fence=self._fence)
        if done.records:
            before = self._last if len(done.records) == 1 else None
            self._last = records.joined(before, done.records[-1]) or done.records[-1]
        self._parked.added(done.held)
        self._on_delivered(done.delivered, done.counts.get("dead_lettered", 0))
