"""The node that watches: it abandons open sessions of which nothing was heard for as long as their leases last.

Which node of all that is, is a role (`watch`); every abandonment is fenced with the role's epoch, and does not happen
where anything was heard since it was decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Protocol

from adjourn.clock import Clock
from adjourn.database import LEASE_MS, Database, Fence, Tx
from adjourn.errors import AdjournError, Fenced
from adjourn.eventlog import get_logger
from adjourn.events import Record, StoredEvent
from adjourn.log import Lease, Leases
from adjourn.sessions import watched as rows
from adjourn.sessions.watch import Book, Key, Problem, Sighting, Taken, Watched, abandoned_event, bare_event

_log = get_logger("adjourn.sessions")

ROLE = "watch"
SOURCE = "sessions"
LOOK_EVERY_S = 1.0
AWAY_S_MAX = 5.0
"""A node that has not looked for so long does not know what it would have heard: leases begin anew."""
FORGET_EVERY_S = 60.0
ABANDON_AT_ONCE = 256
ABANDON_PER_LOOK = 2048
"""The rest waits for the next look, so that the role is renewed in time however many fall silent together."""
DAY_MS = 86_400_000
STEP_MS_MAX = 3_600_000
"""How far back a wall clock may have been set since a session began."""

Examine = Callable[[str, bytes], Awaitable[Record | Problem]]
"""(tenant, event) → as it would be logged, or why it would not."""


class TakeIf(Protocol):
    """Logs an event in the transaction of a change of state, if that takes place; None: it does not."""

    def __call__(
        self, tenant: str, raw: bytes, change: Callable[[Tx, Record], bool], *, source: str, fence: Fence | None = None
    ) -> Awaitable[Taken | None]: ...


class FindAll(Protocol):
    """Those of a tenant's events in one partition that were received since, by their ids."""

    def __call__(
        self, partition: int, tenant: str, event_ids: Collection[str], *, since_ms: int
    ) -> Awaitable[Mapping[str, StoredEvent]]: ...


class Watch:
    def __init__(
        self,
        database: Database,
        leases: Leases,
        clock: Clock,
        retention_days: float,
        *,
        take_if: TakeIf,
        find_all: FindAll,
        heard: Callable[[Key], bool],
    ) -> None:
        """`heard`: whether this node has a sign of life in hand that is not written yet."""
        self.looks = 0
        """How often this node has looked for silence since it started, whether or not it has the role."""
        self.abandoned = 0
        """Sessions whose leases it found to have ended since then."""
        self._database = database
        self._leases = leases
        self._clock = clock
        self._retention_days = retention_days
        self._take_if = take_if
        self._find_all = find_all
        self._heard = heard
        self._lease: Lease | None = None
        self._renewed_s = self._forgot_s = -LEASE_MS / 1000
        self._book = Book()
        self._task: asyncio.Task[None] | None = None

    @property
    def holds_role(self) -> bool:
        return self._lease is not None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="watch-sessions")

    async def stop(self, timeout_s: float) -> None:
        """Give the role up, so that another node may take it at once. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            async with asyncio.timeout(timeout_s):
                await self._resign()
        except (AdjournError, TimeoutError) as error:  # it ends by itself
            _log.warning("lease_not_released", lease=ROLE, error=str(error))

    async def _run(self) -> None:
        waits = ""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
                await self._forget()
                self.looks += 1
                waits = ""
            except Fenced:  # another node watches: whoever it is begins every lease anew
                self._lease, self._book = None, Book()
            except AdjournError as error:
                if error.message != waits:
                    _log.warning("watch_waits", error=error.message)
                waits = error.message
            except Exception:
                _log.exception("watch_failed")

    async def _look(self) -> None:
        """While this node has the role, and anything is open: abandon what fell silent."""
        lease = await self._role()
        if lease is None:
            return
        asked_s = self._clock.monotonic()
        sightings = await self._database.read(rows.open_sightings)
        overdue = self._book.look(sightings, asked_s, self._clock.monotonic(), away_s_max=AWAY_S_MAX)
        silent = [sighting for sighting in overdue if not self._heard(sighting.key)]
        abandoned = 0
        for start in range(0, min(len(silent), ABANDON_PER_LOOK), ABANDON_AT_ONCE):
            abandoned += await self._abandon_those(silent[start : start + ABANDON_AT_ONCE], lease)
        self.abandoned += abandoned
        if abandoned:
            _log.warning("sessions_abandoned", count=abandoned)

    async def _role(self) -> Lease | None:
        now_s = self._clock.monotonic()
        if now_s - self._renewed_s < LEASE_MS / 4000:
            return self._lease
        if not await self._database.read(rows.any_open):
            await self._resign()  # a node with nothing to watch writes nothing
            return None
        taken = await self._leases.take(ROLE)
        if taken is None or self._lease is None or taken.epoch != self._lease.epoch:
            self._book = Book()
        self._lease, self._renewed_s = taken, now_s
        return taken

    async def _resign(self) -> None:
        lease, self._lease, self._book = self._lease, None, Book()
        if lease is not None:
            await self._leases.release(ROLE)

    async def _abandon_those(self, silent: Sequence[Sighting], lease: Lease) -> int:
        """How many were. Not those that were completed since, or that were heard of."""
        beats = {sighting.key: sighting.beat for sighting in silent}
        watched = await self._database.read(rows.find_open, list(beats))
        elsewhere = await self._completed_elsewhere(watched)
        fence = Fence(lease.name, lease.epoch)
        ends = [
            self._settle(each, fence) if each.key in elsewhere else self._abandon(each, beats[each.key], fence)
            for each in watched
        ]
        return sum(await _all(ends))

    async def _completed_elsewhere(self, watched: Sequence[Watched]) -> set[Key]:
        """Whose completion came through another door, perhaps so long ago that the dedupe window has forgotten it."""
        places: dict[tuple[int, str], list[Watched]] = {}
        for each in watched:
            places.setdefault((self._database.partition_of(each.session_id), each.tenant), []).append(each)
        found: set[Key] = set()
        for (partition, tenant), those in places.items():
            since_ms = min(each.began_ms for each in those) - STEP_MS_MAX
            held = await self._find_all(partition, tenant, {each.event_id for each in those}, since_ms=since_ms)
            found.update(each.key for each in those if each.event_id in held)
        return found

    async def _settle(self, watched: Watched, fence: Fence) -> bool:
        await self._database.write(_elsewhere, watched.key, self._clock.wall_ms(), key=watched.session_id, fence=fence)
        return False

    async def _abandon(self, watched: Watched, beat: int, fence: Fence) -> bool:
        now_ms = self._clock.wall_ms()
        change = partial(_abandoned, key=watched.key, beat=beat, now_ms=now_ms)
        for event in (abandoned_event(watched, now_ms), bare_event(watched)):
            taken = await self._take_if(watched.tenant, event, change, source=SOURCE, fence=fence)
            if taken is None or taken.status != "invalid":
                return taken is not None
            # Settings have changed since it was begun: what they refuse is in quarantine, whole.
        return False

    async def _forget(self) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._forgot_s < FORGET_EVERY_S:
            return
        ended_before_ms = self._clock.wall_ms() - int(self._retention_days * DAY_MS)
        while await self._database.read(rows.any_ended, ended_before_ms):
            await self._database.write(rows.forget, ended_before_ms)
        self._forgot_s = now_s


def _elsewhere(tx: Tx, key: Key, now_ms: int) -> bool:
    return rows.end(tx, key, "completed", now_ms=now_ms)


def _abandoned(tx: Tx, record: Record, *, key: Key, beat: int, now_ms: int) -> bool:
    return rows.end(tx, key, "abandoned", now_ms=now_ms, beat=beat)


async def _all(calls: Sequence[Coroutine[object, object, bool]]) -> list[bool]:
    """Wait for every one, so that none is still under way when the first failure is told."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
