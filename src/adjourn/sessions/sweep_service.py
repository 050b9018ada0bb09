"""What is due: limits of time, queued turns whose node died, ended sessions to delete. On the one node that has the
role; it costs what is due, not what exists."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from adjourn.database import LEASE_MS
from adjourn.errors import AdjournError, Fenced
from adjourn.eventlog import get_logger
from adjourn.sessions import rows, session_changes
from adjourn.sessions.lifecycle import limited
from adjourn.sessions.live import Stop
from adjourn.sessions.means import Means
from adjourn.sessions.notices import Notices
from adjourn.sessions.session import SessionKey
from adjourn.sessions.turns_service import Turns

_log = get_logger("adjourn.sessions")

ROLE = "sweep"
AT_ONCE = 1_024
PER_WRITE = 128


class Sweep:
    def __init__(
        self,
        means: Means,
        turns: Turns,
        notices: Notices,
        *,
        delete: Callable[[SessionKey], Awaitable[None]],
        besides: Sequence[Callable[[int], Awaitable[object]]],
    ) -> None:
        """`delete`: an ended session whose time is over. `besides(now_ms)`: what else looks at the clock."""
        self.ended = 0
        """Sessions that a limit has ended, since this process started."""
        self._database = means.database
        self._leases = means.leases
        self._clock = means.clock
        self._turns = turns
        self._notices = notices
        self._compose = means.compose
        self._delete = delete
        self._besides = besides
        self._interval_s = means.settings.sweep_interval_ms / 1000
        self._renewed_s = float("-inf")
        self._held = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sweep")

    async def stop(self) -> None:
        """Give the role up. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._held:
            try:
                await self._leases.release(ROLE)
            except AdjournError as error:
                _log.warning("lease_not_released", lease=ROLE, error=error.message)

    async def _run(self) -> None:
        waits = ""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                if await self._has_role():
                    await self.look(self._clock.wall_ms())
                waits = ""
            except AdjournError as error:
                if error.message != waits:
                    _log.warning("sweep_waits", error=error.message)
                waits = error.message
            except Exception:
                _log.exception("sweep_failed")

    async def _has_role(self) -> bool:
        now_s = self._clock.monotonic()
        if now_s - self._renewed_s >= LEASE_MS / 4000:
            self._held = await self._leases.take(ROLE) is not None
            self._renewed_s = now_s
        return self._held

    async def look(self, now_ms: int) -> int:
        """Deal with what is due; how many sessions that was."""
        found = await self._database.read(rows.due, now_ms, AT_ONCE)
        lanes: dict[int, list[tuple[SessionKey, str]]] = {}
        for key, root_id in found:
            lanes.setdefault(self._database.partition_of(root_id), []).append((key, root_id))
        for each in lanes.values():
            for start in range(0, len(each), PER_WRITE):
                await self._some(each[start : start + PER_WRITE], now_ms)
        for look in self._besides:
            await look(now_ms)
        return len(found)

    async def _some(self, found: Sequence[tuple[SessionKey, str]], now_ms: int) -> None:
        """Those of one lane: their rows together, then whatever else one of them needs."""
        keys = [key for key, _ in found]
        args = (keys, now_ms, self._clock.wall_ms(), self._compose)
        try:
            what = await self._database.write(session_changes.look_due, *args, key=found[0][1], weight=len(keys))
        except AdjournError:
            raise
        except Exception:  # one of them cannot be read or ended: the others shall not wait for it
            if len(found) == 1:
                _log.exception("session_not_swept", session=keys[0].session_id)
                return
            for each in found:
                await self._some([each], now_ms)
            return
        for (key, root_id), due in zip(found, what, strict=True):
            try:
                await self._one(key, root_id, due)
            except Fenced:
                raise
            except AdjournError as error:
                _log.warning("session_waits", session=key.session_id, error=error.message)

    async def _one(self, key: SessionKey, root_id: str, due: session_changes.Due) -> None:
        if due == "ended":
            self.ended += 1
            await self._turns.opened.close(key)
            self._notices.tell(key)
        elif due == "delete":
            await self._delete(key)
        elif due == "queued":
            await self._turns.begin_queued(key, root_id)
        elif due in ("max_idle_ms", "max_lifetime_ms"):
            self._turns.stop_turn(key, Stop(ending=limited(due)))
