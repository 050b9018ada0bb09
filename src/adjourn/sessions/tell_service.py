"""What the turns of this node have told, kept in the database once a second, all together, for those who follow them
elsewhere. A turn that has told nothing costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import msgspec

from adjourn.clock import Clock
from adjourn.database import Database
from adjourn.errors import AdjournError
from adjourn.eventlog import get_logger
from adjourn.sessions import turn_changes
from adjourn.sessions.live import Live
from adjourn.sessions.owner_service import Owner
from adjourn.sessions.session import SessionKey
from adjourn.sessions.turn_changes import Told

_log = get_logger("adjourn.sessions")

EVERY_S = 1.0
PER_WRITE = 64


class Tell:
    def __init__(self, database: Database, clock: Clock, owner: Owner, live: Mapping[SessionKey, Live]) -> None:
        self._database = database
        self._clock = clock
        self._owner = owner
        self._live = live
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="tell")

    async def stop(self) -> None:
        """Idempotent. What is not kept yet is kept when its turn is settled."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except AdjournError as error:
                _log.warning("turns_not_told", error=error.message)
            except Exception:
                _log.exception("tell_failed")

    async def look(self) -> None:
        """Keep what there is to be kept. Raises what the database does; then it is tried again."""
        lanes: dict[int, list[Live]] = {}
        for live in self._live.values():
            if live.untold and not live.finished.is_set():
                lanes.setdefault(self._database.partition_of(live.session.root_id), []).append(live)
        for each in lanes.values():
            for start in range(0, len(each), PER_WRITE):
                await self._some(each[start : start + PER_WRITE])

    async def _some(self, some: Sequence[Live]) -> None:
        async with AsyncExitStack() as held:
            told: list[tuple[Live, Told]] = []
            for live in some:
                if live.finished.is_set() or live.flushing.locked():
                    continue  # it is being settled, with all that it has told
                await held.enter_async_context(live.flushing)
                so_far = live.result(self._clock.wall_ms())
                so_far = msgspec.structs.replace(so_far, text="", error=None)
                told.append((live, Told(live.key, live.session.epoch, live.turn.turn_id, list(live.to_tell), so_far)))
            if told:
                await self._database.write(
                    turn_changes.flush,
                    [each for _, each in told],
                    key=some[0].session.root_id,
                    fence=self._owner.fence,
                    weight=len(told),
                )
            for live, each in told:
                live.kept(len(each.events))
