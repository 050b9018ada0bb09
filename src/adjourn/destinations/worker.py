"""One thread for the blocking calls of one destination: in order, off the event loop, each within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from adjourn.errors import DestinationOutage

P = ParamSpec("P")
T = TypeVar("T")

GRACE_S = 5.0


class Worker:
    """`interrupt` is called from the event loop when a call overruns, and must make it fail soon."""

    def __init__(self, name: str, *, timeout_s: float, interrupt: Callable[[], None]) -> None:
        self.timeout_s = timeout_s
        self._name = name
        self._interrupt = interrupt
        self._executor: ThreadPoolExecutor | None = None
        self._running: Future[object] | None = None

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `fn`, run in the thread. Raises DestinationOutage at the deadline, and while an earlier
        call that overran is still stuck: nothing is queued behind it, so that nothing runs much later."""
        await self._free()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"adjourn-{self._name}")
        future: Future[T] = self._executor.submit(fn, *args, **kwargs)
        self._running = future  # pyright: ignore[reportAttributeAccessIssue]  # Future is invariant; only done() is used
        await self._wait(future, self.timeout_s)
        if not future.done():
            self._interrupt()
            await self._wait(future, GRACE_S)
            raise self._overrun()
        return future.result()

    async def stop(self, last: Callable[[], None]) -> None:
        """Run `last` and end the thread. What is stuck is interrupted first. Idempotent."""
        if self._executor is None:
            return
        if self._running is not None and not self._running.done():
            self._interrupt()
        try:
            await self.run(last)
        finally:
            executor, self._executor, self._running = self._executor, None, None
            executor.shutdown(wait=False)

    async def _free(self) -> None:
        """Until no earlier call is under way. Of several who wait, one goes first, and the others wait for that one."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.timeout_s
        while self._running is not None and not self._running.done():
            if loop.time() >= until_s:
                raise self._overrun()
            await self._wait(self._running, until_s - loop.time())

    async def _wait(self, future: Future[T], timeout_s: float) -> None:
        # `wait` neither raises what the call raised nor cancels it with its caller: a half-done write must finish.
        waited = asyncio.wrap_future(future)
        waited.add_done_callback(_look_at)
        await asyncio.wait([waited], timeout=timeout_s)

    def _overrun(self) -> DestinationOutage:
        return DestinationOutage(
            f"destination '{self._name}' has not answered within {self.timeout_s:g} s; check its disk, server and "
            "network: the same batch is sent again"
        )


def _look_at(waited: asyncio.Future[T]) -> None:
    """Its error is raised from the thread's own future, or came after the deadline: asyncio need not report it."""
    if not waited.cancelled():
        waited.exception()
