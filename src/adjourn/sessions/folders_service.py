"""The folders that triggers watch, read in threads of their own: a disk that hangs keeps only those waiting that watch
it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from adjourn.sessions import triggers
from adjourn.sessions.trigger_files import found
from adjourn.sessions.trigger_rows import TriggerKey
from adjourn.sessions.triggers import File, FileTrigger

AT_ONCE = 8
READ_S_MAX = 10.0


class Folders:
    """`workspace(tenant, session_id)` is the folder of a session; `besides` are those that it may watch moreover, in
    which `{tenant}` stands for its tenant."""

    def __init__(self, workspace: Callable[[str, str], str], besides: Sequence[str]) -> None:
        self._workspace = workspace
        self._besides = besides
        self._reading = asyncio.Semaphore(AT_ONCE)
        self._hung: set[TriggerKey] = set()

    def of(self, tenant: str) -> list[str]:
        """Those outside of workspaces that a tenant may watch."""
        return triggers.folders_for(tenant, self._besides)

    async def files(self, key: TriggerKey, trigger: FileTrigger, now_ms: int) -> list[File]:
        """Raises TriggerInvalid, OSError."""
        folder, names = triggers.place_of(trigger.path, self.of(key.tenant))
        base = folder or self._workspace(key.tenant, key.session_id)
        if key in self._hung:
            raise TimeoutError
        async with self._reading:
            reading = _in_thread(lambda: found(base, names, f"{folder.rstrip('/')}/" if folder else "", now_ms))
            done, _ = await asyncio.wait([reading], timeout=READ_S_MAX)
        if not done:
            self._hung.add(key)
            reading.add_done_callback(lambda late: (self._hung.discard(key), late.exception()))
            raise TimeoutError
        return reading.result()


def _in_thread(work: Callable[[], list[File]]) -> asyncio.Future[list[File]]:
    """In one of its own, which the process does not wait for: a disk that hangs must not keep it from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[File]] = loop.create_future()

    def tell(files: list[File] | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(files or [])

    def run() -> None:
        files, error = None, None
        try:
            files = work()
        except BaseException as problem:
            error = problem
        try:
            loop.call_soon_threadsafe(tell, files, error)
        except RuntimeError:
            return  # the loop has ended

    threading.Thread(target=run, name="adjourn-watch", daemon=True).start()
    return future
