"""Something that is done again and again beside a program: as a task, and as a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

STOP_S_MAX = 2.0


class AsyncBeat:
    """`step` returns how many seconds to wait for the next one; None ends it. The first is after `first_s`."""

    def __init__(self, step: Callable[[], Awaitable[float | None]], first_s: float) -> None:
        self._step = step
        self._first_s = first_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="adjourn-beat")

    async def stop(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        wait_s: float | None = self._first_s
        while wait_s is not None:
            await asyncio.sleep(wait_s)
            wait_s = await self._step()


class Beat:
    """As `AsyncBeat`, in a thread that does not keep the process alive."""

    def __init__(self, step: Callable[[], float | None], first_s: float) -> None:
        self._step = step
        self._first_s = first_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adjourn-beat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Idempotent. A step that hangs for longer than `STOP_S_MAX` is left behind: it ends when it is answered."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S_MAX)

    def _run(self) -> None:
        wait_s: float | None = self._first_s
        while wait_s is not None and not self._stopping.wait(wait_s):
            try:
                wait_s = self._step()
            except Exception:
                if self._stopping.is_set():  # its connection was closed under it
                    return
                raise
