"""What becomes of a turn whose client has hung up, where it is set to stop then."""

from __future__ import annotations

import asyncio

from adjourn.errors import AdjournError
from adjourn.eventlog import get_logger
from adjourn.http.following import Follower, Followers
from adjourn.node import Node
from adjourn.sessions import turn_rows

_log = get_logger("adjourn.http")


class Stop:
    """Ends that turn; one that waits for another, as soon as it begins."""

    def __init__(self, node: Node, followers: Followers, tenant: str, session_id: str, turn_id: str) -> None:
        self._node = node
        self._followers = followers
        self._tenant = tenant
        self._session_id = session_id
        self._turn_id = turn_id

    async def __call__(self) -> None:
        try:
            session = await self._node.sessions.get(self._tenant, self._session_id)
            if session.turn_id == self._turn_id:
                await self._node.sessions.interrupt(self._tenant, self._session_id)
                return
            turn = await self._node.database.read(turn_rows.find, self._tenant, self._turn_id)
            if turn is not None and turn.status == "queued":
                await self._when_it_runs(session.events)
        except AdjournError as error:
            _log.warning("turn_not_stopped", session=self._session_id, error=error.message)

    async def _when_it_runs(self, after: int) -> None:
        wake = asyncio.Event()
        follower = Follower(self._node.sessions.follow(self._tenant, self._session_id, after=after), wake)
        self._followers.watch(wake)
        try:
            while not follower.ended and not self._followers.draining:
                wake.clear()
                if any(event.turn_id == self._turn_id for event in follower.take()):
                    return await self()
                await wake.wait()
        finally:
            self._followers.unwatch(wake)
            await follower.close()
