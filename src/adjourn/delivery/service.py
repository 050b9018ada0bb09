"""Events out: each destination follows the log with cursors of its own; none can slow, block or re-send for another.

read from the cursor → route → send until taken → record what became of each, and move the cursor, in one transaction
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from adjourn.clock import Clock
from adjourn.database import LEASE_MS, Database, Fence, Tx
from adjourn.delivery.conservation import Balance, balances, consumer_of
from adjourn.delivery.deadletters import DeadLetter, bury
from adjourn.delivery.known import Register, forget, register_all
from adjourn.delivery.latency import Latency
from adjourn.delivery.retry import backoff_ms
from adjourn.delivery.route import pieces, route
from adjourn.destination import Batch, Destination, Refusal
from adjourn.errors import ConfigInvalid, DestinationOutage, Fenced
from adjourn.eventlog import get_logger
from adjourn.events import StoredEvent
from adjourn.log import Lease, Leases, Log, Slice

_log = get_logger("adjourn.delivery")

POLL_S = 0.5
GATHER_S_MAX = 0.05
MAKE_WAY_S_MAX = 1.0
BUSY_EVENTS = 250
BUSY_SHARE = 0.8
"""Of one core; this process's own."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A destination and how to deliver to it."""

    name: str
    type: str
    destination: Destination
    sampling_rate: float = 1.0
    batch_size: int = 2_000
    attempts: int = 3
    delay_ms: int = 1_000
    delay_ms_max: int = 60_000


class ChannelStats(msgspec.Struct):
    """Since this process started; the durable counts are in `conservation`."""

    sent: int = 0
    success: int = 0
    failure: int = 0
    retries: int = 0
    waiting: str = ""
    """Why nothing is being delivered now; empty when all is well."""


class Delivery:
    def __init__(
        self,
        database: Database,
        log: Log,
        leases: Leases,
        clock: Clock,
        channels: Sequence[Channel],
        *,
        register: Register,
        known: Mapping[str, int | None],
        in_hand: Callable[[], int] = lambda: 0,
        on_delivered: Callable[[Sequence[StoredEvent]], None] | None = None,
    ) -> None:
        """`known`: every configured destination and its `drop_after_ms`; disabled ones too: their backlog waits.
        `in_hand`: how many events this process is taking in now; it comes first."""
        self.latency = Latency()
        self.stats = {channel.name: ChannelStats() for channel in channels}
        self._database = database
        self._log = log
        self._leases = leases
        self._clock = clock
        self._channels = channels
        self._register = register
        self._known = known
        self._in_hand = in_hand
        self._on_delivered = on_delivered
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        await self._database.write(register_all, self._register, self._known, self._database.partitions)
        self._tasks = [
            asyncio.create_task(self._run(channel), name=f"deliver-{channel.name}") for channel in self._channels
        ]

    async def stop(self, timeout_s: float) -> None:
        """Let each destination finish the batch that it is sending; after the timeout it is cut off, and that batch is
        sent again at the next start. Idempotent."""
        self._stopping.set()
        tasks, self._tasks = self._tasks, []
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.destination.close()

    async def drained(self) -> None:
        """Wait until every running destination has dealt with all that is in the log now."""
        heads = await self._log.heads()
        for channel in self._channels:
            for partition, head in enumerate(heads):
                while await self._log.cursor(consumer_of(channel.name), partition) < head:
                    await asyncio.sleep(0.02)

    async def forget(self, name: str) -> None:
        """A destination that is configured nowhere any more: let retention pass its cursor. Raises NotFound, and
        ConfigInvalid while this node still lists it."""
        if name in self._known:
            raise ConfigInvalid(f"destination '{name}' is still configured; take it out of the settings first")
        await self._database.write(forget, name)

    async def balances(self) -> list[Balance]:
        return await self._database.read(balances)

    # --- one destination -----------------------------------------------------------------------------------------

    async def _run(self, channel: Channel) -> None:
        """While this node holds the destination's lease, follow every partition; when it is lost, stop at once."""
        name = f"deliver/{channel.name}"
        while not self._stopping.is_set():
            lease = await self._take(name)
            if lease is None:
                await self._pause(1.0)
                continue
            following = [asyncio.create_task(self._follow(channel, p, lease)) for p in range(self._database.partitions)]
            try:
                await self._hold(lease, following)
            finally:
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)
        await self._give_back(name)

    async def _take(self, name: str) -> Lease | None:
        try:
            return await self._leases.take(name)
        except Exception as error:
            _log.warning("lease_not_renewed", lease=name, error=str(error))
            return None

    async def _hold(self, lease: Lease, following: Sequence[asyncio.Task[None]]) -> None:
        """Renew the lease until it is lost, cannot be renewed in time, or the work has ended."""
        held_until = self._clock.monotonic() + LEASE_MS / 1000
        while not all(task.done() for task in following):
            await asyncio.wait(following, timeout=LEASE_MS / 4000)
            if self._stopping.is_set():
                await asyncio.wait(following)
                return
            renewed = await self._take(lease.name)
            now = self._clock.monotonic()
            if renewed is not None and renewed.epoch == lease.epoch:
                held_until = now + LEASE_MS / 1000
            elif renewed is not None or now > held_until - LEASE_MS / 2000:
                return

    async def _give_back(self, name: str) -> None:
        try:
            await self._leases.release(name)
        except Exception as error:  # it is taken over when its counter stands still
            _log.warning("lease_not_released", lease=name, error=str(error))

    async def _follow(self, channel: Channel, partition: int, lease: Lease) -> None:
        while not self._stopping.is_set():
            try:
                await self._prepare(channel)
                cursor = await self._log.cursor(consumer_of(channel.name), partition)
                await self._follow_from(channel, partition, lease, cursor)
            except Fenced:
                _log.warning("lease_lost", destination=channel.name, partition=partition)
                return
            except Exception as error:
                self.stats[channel.name].waiting = str(error)
                _log.exception("delivery_interrupted", destination=channel.name, partition=partition)
                await self._pause(1.0)

    async def _prepare(self, channel: Channel) -> None:
        attempt = 0
        while not self._stopping.is_set():
            try:
                await channel.destination.open()
                return
            except DestinationOutage as outage:
                attempt += 1
                await self._wait_out(channel, outage, attempt)

    async def _follow_from(self, channel: Channel, partition: int, lease: Lease, cursor: int) -> None:
        while not self._stopping.is_set():
            found = await self._log.read(partition, cursor, count=channel.batch_size)
            if found.next_offset == cursor:
                await self._await_more()
                continue
            for piece in pieces(found, cursor, channel.batch_size):
                began_s, began_cpu_s = self._clock.monotonic(), time.process_time()
                if not await self._deal_with(channel, partition, lease, cursor, piece):
                    return
                cursor = piece.next_offset
                took_s = self._clock.monotonic() - began_s
                busy = time.process_time() - began_cpu_s >= BUSY_SHARE * took_s
                await self._make_way(took_s, busy=busy, small=len(piece.events) < channel.batch_size)

    async def _make_way(self, took_s: float, *, busy: bool, small: bool) -> None:
        """Taking events in comes first: what waits to be delivered is durable, what is being taken in is not. While
        that is much and the interpreter is busy with it (not waiting for a slow disk, where delivering takes nothing
        from it), delivering gets a tenth of the time. A small batch costs nearly what a full one does: while events
        trickle in, it gets a ninth, and they gather."""
        if busy and self._in_hand() >= BUSY_EVENTS:
            await self._pause(min(9 * took_s, MAKE_WAY_S_MAX))
        elif small:
            await self._pause(min(8 * took_s, GATHER_S_MAX))

    async def _await_more(self) -> None:
        arrived = asyncio.create_task(self._log.arrived(POLL_S))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((arrived, stopping), return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()
        stopping.cancel()

    async def _deal_with(self, channel: Channel, partition: int, lease: Lease, cursor: int, found: Slice) -> bool:
        """One stretch of the log, to its end; False if the runtime stops before the destination took it."""
        routed = route(found.events, sampling_rate=channel.sampling_rate)
        dead: list[DeadLetter] = []
        if routed.wanted:
            batch = Batch(f"{channel.name}/{partition}/{cursor}-{found.next_offset}", routed.wanted)
            refused = await self._send_until_taken(channel, batch)
            if refused is None:
                return False
            dead = refused
        counts = {
            "delivered": len(routed.wanted) - len(dead),
            "sampled_out": routed.sampled_out,
            "dead_lettered": len(dead),
            "lost": sum(lost.count for lost in found.lost),
        }
        await self._database.write(
            self._settle, channel.name, partition, found.next_offset, counts, dead, fence=Fence(lease.name, lease.epoch)
        )
        self._count(channel, routed.wanted, len(dead))
        return True

    def _settle(
        self, tx: Tx, name: str, partition: int, offset: int, counts: dict[str, int], dead: Sequence[DeadLetter]
    ) -> None:
        bury(tx, dead)
        self._log.advance(tx, consumer_of(name), partition, offset, counts)

    async def _send_until_taken(self, channel: Channel, batch: Batch) -> list[DeadLetter] | None:
        """Send until nothing is left to send. An outage waits as long as it lasts and uses up no attempt; an event that
        is refused is tried `attempts` times, then it is a dead letter and the rest flows on. None: stopped before
        that."""
        stats = self.stats[channel.name]
        events, dead = batch.events, list[DeadLetter]()
        refusals = outages = 0
        while events:
            stats.sent += len(events)
            try:
                refused = await channel.destination.send(Batch(batch.id, events))
            except DestinationOutage as outage:
                outages += 1
                await self._wait_out(channel, outage, outages)
                if self._stopping.is_set():
                    return None
                continue
            refusals, outages = refusals + 1, 0
            events, buried = _sort_out(events, refused, refusals, channel, self._clock.wall_ms())
            dead.extend(buried)
            if events:
                stats.retries += 1
                await self._pause(self._delay_ms(channel, refusals, None) / 1000)
                if self._stopping.is_set():
                    return None
        stats.waiting = ""
        return dead

    async def _wait_out(self, channel: Channel, outage: DestinationOutage, attempt: int) -> None:
        stats = self.stats[channel.name]
        stats.retries += 1
        if stats.waiting != outage.message:
            _log.warning("destination_outage", destination=channel.name, error=outage.message)
        stats.waiting = outage.message
        await self._pause(self._delay_ms(channel, attempt, outage.retry_after_ms) / 1000)

    def _delay_ms(self, channel: Channel, attempt: int, retry_after_ms: int | None) -> int:
        return backoff_ms(
            attempt,
            first_ms=channel.delay_ms,
            max_ms=channel.delay_ms_max,
            draw=random.random(),
            retry_after_ms=retry_after_ms,
        )

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _count(self, channel: Channel, wanted: Sequence[StoredEvent], dead: int) -> None:
        stats = self.stats[channel.name]
        stats.success += len(wanted) - dead
        stats.failure += dead
        stats.waiting = ""
        now_ms = self._clock.wall_ms()
        for received_ms, count in Counter([event.received_ms for event in wanted]).items():
            self.latency.add(now_ms - received_ms, count)
        if self._on_delivered is not None:
            self._on_delivered(wanted)


def _sort_out(
    events: Sequence[StoredEvent], refused: Sequence[Refusal], tries: int, channel: Channel, now_ms: int
) -> tuple[list[StoredEvent], list[DeadLetter]]:
    """(what to send again, what is given up)."""
    again: list[StoredEvent] = []
    dead: list[DeadLetter] = []
    for refusal in refused:
        event = events[refusal.index]
        if refusal.permanent or tries >= channel.attempts:
            dead.append(DeadLetter.of(channel.name, event, refusal, tries, now_ms))
        else:
            again.append(event)
    return again, dead
