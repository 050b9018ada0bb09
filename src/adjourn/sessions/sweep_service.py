"""What is due: limits of time, queued turns whose node died, ended sessions to delete. On the one node that has the
role; it costs what is due, not what exists."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from adjourn.clock import Clock
from adjourn.database import LEASE_MS, Database
from adjourn.errors import AdjournError, Fenced
from adjourn.eventlog import get_logger
from adjourn.log import Leases
from adjourn.sessions import rows, session_changes
from adjourn.sessions.lifecycle import limited
from adjourn.sessions.live import Stop
from adjourn.sessions.notices import Notices
from adjourn.sessions.rows import Compose
from adjourn.sessions.session import SessionKey
from adjourn.sessions.turns_service import Turns

_log = get_logger("adjourn.sessions")

ROLE = "sweep"
AT_ONCE = 256


class SteadyClock:
    """Wall time as it was when this began, moved on by the monotonic clock: a step of the wall expires nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ms = clock.wall_ms() - round(clock.monotonic() * 1000)

    def now_ms(self) -> int:
        return self._offset_ms + round(self._clock.monotonic() * 1000)


class Sweep:
    def __init__(
        self,
        database: Database,
        leases: Leases,
        clock: Clock,
        turns: Turns,
        notices: Notices,
        compose: Compose,
        *,
        delete: Callable[[SessionKey], Awaitable[None]],
        besides: Sequence[Callable[[int], Awaitable[object]]],
        interval_s: float,
    ) -> None:
        """`delete`: an ended session whose time is over. `besides(now_ms)`: what else looks at the clock."""
        self.ended = 0
        """Sessions that a limit has ended, since this process started."""
        self._database = database
        self._leases = leases
        self._clock = clock
        self._steady = SteadyClock(clock)
        self._turns = turns
        self._notices = notices
        self._compose = compose
        self._delete = delete
        self._besides = besides
        self._interval_s = interval_s
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
                    await self.look(self._steady.now_ms())
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
        keys = await self._database.read(rows.due, now_ms, AT_ONCE)
        for key in keys:
            try:
                await self._one(key, now_ms)
            except Fenced:
                raise
            except AdjournError as error:
                _log.warning("session_waits", session=key.session_id, error=error.message)
        for look in self._besides:
            await look(now_ms)
        return len(keys)

    async def _one(self, key: SessionKey, now_ms: int) -> None:
        root_id = await self._database.read(rows.root_of, key)
        what = await self._database.write(session_changes.look_due, key, now_ms, self._compose, key=root_id)
        if what == "ended":
            self.ended += 1
            await self._turns.opened.close(key)
            self._notices.tell(key)
        elif what == "delete":
            await self._delete(key)
        elif what == "queued":
            await self._turns.begin_queued(key, root_id)
        elif what.startswith("max_"):
            self._turns.stop_turn(key, Stop(ending=limited(what)))
