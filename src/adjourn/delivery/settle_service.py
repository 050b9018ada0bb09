"""Settling beside sending: what was sent is settled, in order, while the next stretches are on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from adjourn.delivery.settle import Settlement, merged

GATHER_S = 0.02
"""A transaction costs about what ten deliveries do, and nobody waits for it."""
UNSETTLED_EVENTS_MAX = 2_000
"""So many, and the stretch that is being sent, are sent again after a crash."""
UNSETTLED_BYTES_MAX = 8 * 1024 * 1024
"""Of bodies; else 2,000 large events would wait in memory for a database that stands still."""


class Settler:
    """Of one Follower. Whatever waits while a transaction is under way is settled by the next one, all at once: where
    syncing the disk takes longer than sending, sending does not wait for it."""

    def __init__(self, settle: Callable[[Settlement], Awaitable[None]], *, wary: bool = False) -> None:
        """`wary`: nothing is sent behind the first stretch before that is settled. While the database takes no writes
        (its disk is full), one stretch is sent again and again, and not all that may be unsettled."""
        self._settle = settle
        self._wary = wary
        self._waiting: deque[Settlement] = deque()
        self._count = 0
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()

    async def add(self, done: Settlement) -> None:
        """Wait until few enough events are unsettled, and let this one be settled next. Raises what settling raised."""
        await self._until(lambda: not self._full)
        self._waiting.append(done)
        self._count += done.next_offset - done.first_offset
        self._bytes += _bytes(done)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        if self._wary:
            await self.settled()
            self._wary = False

    async def settled(self) -> None:
        """Wait until all is settled. Raises what settling raised."""
        await self._until(lambda: not self._count)

    @property
    def _full(self) -> bool:
        return self._count > UNSETTLED_EVENTS_MAX or self._bytes > UNSETTLED_BYTES_MAX

    async def _until(self, so: Callable[[], bool]) -> None:
        self.check()
        while not so():
            self._progress.clear()
            await self._progress.wait()
            self.check()

    def check(self) -> None:
        """Raises what settling raised."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def close(self, *, cut_off: bool = False) -> None:
        """Nothing more is begun; what is under way has ended on return, in whatever way."""
        self._waiting.clear()
        if self._task is not None:
            if cut_off:
                self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._waiting:
                if not self._full:
                    await asyncio.sleep(GATHER_S)
                if not self._waiting:
                    return
                several = merged(self._waiting)
                self._waiting.clear()
                await self._settle(several)
                self._count -= several.next_offset - several.first_offset
                self._bytes -= _bytes(several)
                self._progress.set()
        finally:
            self._progress.set()


def _bytes(done: Settlement) -> int:
    return sum([len(one.body) for one in done.delivered]) + sum([len(one.body) for one in done.held])
