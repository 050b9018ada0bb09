"""Sending to one destination, through its gate; all that flows to it, in every partition, goes through one Sender."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from adjourn.clock import Clock
from adjourn.delivery.channel import Channel, ChannelStats
from adjourn.delivery.gate import Gate
from adjourn.destination import Batch, Refusal
from adjourn.errors import DestinationOutage
from adjourn.eventlog import get_logger
from adjourn.tracing import OFF, Tracing

_log = get_logger("adjourn.delivery")


class Sender:
    def __init__(
        self, channel: Channel, clock: Clock, *, on_gone: Callable[[str, str], None], tracing: Tracing = OFF
    ) -> None:
        """`on_gone(name, reason)`: the destination wants no more events, ever."""
        self.channel = channel
        self.gate = Gate(delay_ms=channel.delay_ms, delay_ms_max=channel.delay_ms_max)
        self.stats = ChannelStats()
        self.stopping = asyncio.Event()
        self._clock = clock
        self._on_gone = on_gone
        self._tracing = tracing
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._aside = 0
        self._passes = 0

    async def admitted(self) -> bool:
        """Wait until something may be sent; False if this destination is being stopped. Whoever waits longest probes
        first, or an event that breaks its receiver would keep others from showing that it is the event."""
        if self.gate.closed:
            return not self.stopping.is_set()
        async with self._turn:
            while not self.stopping.is_set():
                wait_ms = self.gate.wait_ms(self._now_ms())
                if wait_ms == 0:
                    return True
                await self.pause(None if wait_ms is None else wait_ms / 1000, until=self._changed)
        return False

    async def open(self) -> bool:
        """Prepare the destination, however long it is away; False if it is stopped before that."""
        while await self.admitted():
            try:
                await self.channel.destination.open()
            except DestinationOutage as outage:
                self.failed(outage)
                continue
            finally:
                self.let_probe()
            return True
        return False

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        """Raises DestinationOutage: whoever sent decides what that says of the destination (`failed`)."""
        self.stats.sent += len(batch.events)
        try:
            with self._traced(batch):
                refused = await self.channel.destination.send(batch)
        except BaseException:
            self.let_probe()
            raise
        if self.gate.reason:
            _log.info("destination_back", destination=self.channel.name)
        self.gate.taken()
        self.stats.waiting = self.gate.waiting
        self._wake()
        self._time(batch, refused)
        return refused

    def _time(self, batch: Batch, refused: Sequence[Refusal]) -> None:
        """Now, when it was taken: settling it takes longer, and nobody waits for that."""
        now_ms, not_taken = self._clock.wall_ms(), {refusal.index for refusal in refused}
        received = Counter([event.received_ms for i, event in enumerate(batch.events) if i not in not_taken])
        for received_ms, count in received.items():
            self.stats.latency.add(now_ms - received_ms, count)

    def _traced(self, batch: Batch) -> AbstractContextManager[None]:
        first, last = batch.events[0], batch.events[-1]
        return self._tracing.delivery(
            self.channel.name, batch.id, first.partition, first.offset, last.offset, len(batch.events)
        )

    def let_probe(self) -> None:
        """A probe that has ended, and said nothing of the destination (it was cut off, or there was nothing to send),
        lets another one go, at once: whoever waits for its turn waits for that."""
        if self.gate.probing_until_ms:
            self.gate.probing_until_ms = 0.0
            self._wake()

    def failed(self, outage: DestinationOutage) -> None:
        self.stats.retries += 1
        if self.stats.waiting != outage.message:
            _log.warning("destination_outage", destination=self.channel.name, error=outage.message)
        self.gate.failed(outage.message, self._now_ms(), draw=random.random(), retry_after_ms=outage.retry_after_ms)
        if outage.gone and self.gate.paused is None:
            self._on_gone(self.channel.name, outage.message)
        self.stats.waiting = self.gate.waiting
        self._wake()

    def paused(self, reason: str | None) -> None:
        """Send nothing any more (None: send again, at once). Idempotent."""
        if self.gate.paused == reason:
            return
        if reason is None:
            self.gate.opens_at_ms, self.gate.reason = None, ""
        self.gate.paused = reason
        self.stats.waiting = self.gate.waiting
        self._wake()

    def may_set_aside(self, answered: int) -> bool:
        """Whether a batch that was answered with so many errors may be set aside, to learn from what comes behind it
        whose the failure is. Each one after which nothing has passed doubles how many the next one needs: a destination
        that is broken for everything has few set aside, and one after several bad events is reached in the end."""
        if self._passes != self.gate.passes:
            self._passes, self._aside = self.gate.passes, 0
        if answered < self.channel.attempts * 2**self._aside:
            return False
        self._aside += 1
        return True

    async def pause(self, seconds: float | None, *, until: asyncio.Event | None = None) -> None:
        """Sleep, but no longer than until this destination is stopped, or `until` is set."""
        events = [self.stopping] if until is None else [self.stopping, until]
        tasks = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _now_ms(self) -> float:
        return self._clock.monotonic() * 1000
