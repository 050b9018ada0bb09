"""The pump: from the spool to the log or to a server, batch by batch; what is acknowledged is deleted.

Nothing of its position is kept: after a crash it sends again what was not deleted, and the receiver knows
(producer, sequence) again, however late.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from adjourn.completion.receipts import Outcome, ReceiptDesk
from adjourn.completion.segments import Chunk, SpoolReader, Stream
from adjourn.errors import AdjournError
from adjourn.eventlog import get_logger

_log = get_logger("adjourn.pump")

BATCH_BYTES_MAX = 1024 * 1024
RETRY_S_FIRST = 0.05
RETRY_S_MAX = 5.0
CLAIM_EVERY_S = 1.0
REST_S_MAX = 0.01


Send = Callable[[str, Sequence[bytes], Sequence[int]], Awaitable[Sequence[Outcome]]]
"""(producer, events, their sequences) → one outcome each, after they are durable."""

KeepTorn = Callable[[str, Sequence[tuple[bytes, str]]], Awaitable[None]]
"""(producer, [(the bytes of a damaged line, why)]): returns when they are in quarantine."""


class Pump:
    def __init__(
        self,
        reader: SpoolReader,
        send: Send,
        keep_torn: KeepTorn,
        desk: ReceiptDesk,
        *,
        batch_events_max: int,
        look_every_ms: int,
        on_idle: Callable[[bool], None] = lambda idle: None,
    ) -> None:
        """`batch_events_max` bounds a batch, `look_every_ms` the wait for a hint that got lost; neither delays."""
        self.moved = 0
        self.failing = ""
        self._reader = reader
        self._send = send
        self._keep_torn = keep_torn
        self._desk = desk
        self._batch_events_max = batch_events_max
        self._look_every_s = look_every_ms / 1000
        self._on_idle = on_idle
        self._nudged = asyncio.Event()
        self._stopping = False
        self._rounds = 0
        self._hurry = False
        self._backlog = False
        self._streams: list[Stream] = []
        self._claimed_s = 0.0

    def nudge(self) -> None:
        """Something was captured. Call it in the pump's own loop."""
        self._nudged.set()

    async def run(self) -> None:
        """Until `stop`, or cancellation."""
        while not self._stopping:
            self._nudged.clear()
            # Said before looking: what is captured after the look gives a hint, what was captured before it is seen.
            self._on_idle(True)
            began = time.monotonic()
            if await self._round():
                self._rounds = 0
                await self._yield(time.monotonic() - began)
            else:
                self._rounds += 1
                await self._rest()

    async def drained(self) -> None:
        """Wait until two looks in a row have found nothing that was not acknowledged."""
        seen = 0
        self._hurry = True
        try:
            while seen < 2:
                before = self._rounds
                self._nudged.set()
                await asyncio.sleep(0.005)
                seen = seen + 1 if self._rounds > before > 0 else 0
        finally:
            self._hurry = False

    async def _yield(self, took_s: float) -> None:
        """The program that captures has the same interpreter lock: leave it the time, less of it if the spool fills."""
        if not self._hurry:
            await asyncio.sleep(min(took_s if self._backlog else took_s * 2, REST_S_MAX))

    async def _rest(self) -> None:
        try:
            await asyncio.wait_for(self._nudged.wait(), self._look_every_s)
        except TimeoutError:
            return

    def stop(self) -> None:
        self._stopping = True
        self._nudged.set()

    async def _round(self) -> bool:
        """One batch of every stream; whether there was any."""
        moved = self._backlog = False
        for stream in self._claimed():
            chunk = stream.read(self._batch_events_max, BATCH_BYTES_MAX)
            self._backlog = self._backlog or len(chunk.records) >= self._batch_events_max
            if chunk.records or chunk.torn:
                moved = await self._deliver(stream, chunk) or moved
        return moved

    def _claimed(self) -> list[Stream]:
        """Looking for orphans reads the directory: not oftener than needed."""
        now = time.monotonic()
        streams = [stream for stream in self._streams if not stream.finished]
        due = now - self._claimed_s >= min(CLAIM_EVERY_S, self._look_every_s)
        # The own stream begins with the first capture, which may come right after orphans were adopted.
        if due or not streams or not self._reader.knows_own(streams):
            streams, self._claimed_s = self._reader.claim(), now
        self._streams = streams
        return streams

    async def _deliver(self, stream: Stream, chunk: Chunk) -> bool:
        """The same batch again until it is taken: later ones of this spool wait behind it, and nothing is lost."""
        pause_s = RETRY_S_FIRST
        while True:
            try:
                await self._hand_over(chunk)
            except AdjournError as error:
                self.failing = error.message
                _log.warning("pump_waits", producer=chunk.producer, error=error.message)
            except Exception as error:
                self.failing = str(error)
                _log.exception("pump_failed", producer=chunk.producer)
            else:
                self.failing = ""
                stream.ack(chunk.end)
                self.moved += len(chunk.records)
                return True
            if self._stopping:
                return False
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 2, RETRY_S_MAX)

    async def _hand_over(self, chunk: Chunk) -> None:
        if chunk.torn:
            await self._keep_torn(chunk.producer, chunk.torn)
        if not chunk.records:
            return
        sequences = [sequence for sequence, _ in chunk.records]
        outcomes = await self._send(chunk.producer, [event for _, event in chunk.records], sequences)
        self._desk.settle(chunk.producer, sequences, outcomes)
