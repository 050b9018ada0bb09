"""What a node does for hosted sessions in the background, whoever goes away meanwhile; all of it ends with the node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import TypeVar

from adjourn.errors import AdjournError, StorageFull, TooBusy, Unavailable
from adjourn.eventlog import get_logger

_log = get_logger("adjourn.sessions")

T = TypeVar("T")

AGAIN_S = (0.05, 0.2, 0.5, 1.0)


class Work:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    async def whole(self, work: Coroutine[object, object, T]) -> T:
        """Done to its end, even if whoever asked for it goes away meanwhile."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_heard)
            raise

    def start(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def insist(self, work: Callable[[], Awaitable[object]], name: str) -> None:
        """Until the database takes it, or it is refused; what is not done when the node stops, is given up with all
        that it holds."""
        self.start(_insist(work), name)

    async def end(self, timeout_s: float) -> None:
        """Of whatever goes on still."""
        left = list(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=timeout_s)


async def _insist(work: Callable[[], Awaitable[object]]) -> None:
    for tries in count():
        await asyncio.sleep(AGAIN_S[min(tries, len(AGAIN_S) - 1)])
        try:
            await work()
        except (Unavailable, TooBusy, StorageFull):
            continue
        except AdjournError as error:
            _log.warning("not_gone_on_with", error=error.message)
        return


def _heard(task: asyncio.Task[object]) -> None:
    """Nobody is left to be told what came of it."""
    if not task.cancelled():
        task.exception()
