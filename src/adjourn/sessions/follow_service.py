"""What happens in a session, followed from any node: from the memory of the node that runs its turn, else from the
database, which is looked at every `POLL_S` while somebody follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from adjourn.database import Database
from adjourn.sessions import rows, turn_rows
from adjourn.sessions.live import Live
from adjourn.sessions.notices import Notices
from adjourn.sessions.refusals import not_found
from adjourn.sessions.session import SessionKey
from adjourn.sessions.turn import SessionEvent
from adjourn.sessions.turn_rows import TurnRow

POLL_S = 0.5
PAGE = 500


class Follow:
    def __init__(self, database: Database, notices: Notices, live: Mapping[SessionKey, Live]) -> None:
        self._database = database
        self._notices = notices
        self._live = live

    async def page(self, key: SessionKey, after: int, limit: int) -> list[SessionEvent]:
        """Events after `after`, those of a running turn too as far as this node knows them."""
        live = self._live.get(key)
        if live is not None and (seen := live.seen_after(after)) is not None:
            return seen[:limit]
        kept = await self._database.read(rows.events_after, key, after, limit)
        live = self._live.get(key)
        if live is not None and len(kept) < limit:
            more = live.seen_after(kept[-1].seq if kept else after)
            kept += more or []
        return kept[:limit]

    async def events(self, key: SessionKey, after: int) -> AsyncGenerator[SessionEvent, None]:
        """As they happen; ends when the session has ended and all is told, or is deleted."""
        waiting = self._notices.enter(key)
        try:
            while True:
                waiting.clear()
                found = await self.page(key, after, PAGE)
                for event in found:
                    after = event.seq
                    yield event
                if found:
                    continue
                session = await self._database.read(rows.find, key)
                if session is None or (session.ended_ms is not None and session.events <= after):
                    return
                await _wait(waiting)
        finally:
            self._notices.leave(key, waiting)

    async def ended(self, key: SessionKey, turn_id: str) -> TurnRow:
        """The turn, once it has ended. Raises NotFound where it is deleted."""
        waiting = self._notices.enter(key)
        try:
            while True:
                waiting.clear()
                turn = await self._database.read(turn_rows.find, key.tenant, turn_id)
                if turn is None:
                    raise not_found(key)
                if turn.answer:
                    return turn
                live = self._live.get(key)
                if live is not None and live.turn.turn_id == turn_id:
                    await live.settled.wait()
                else:
                    await _wait(waiting)
        finally:
            self._notices.leave(key, waiting)


async def _wait(waiting: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(waiting.wait(), POLL_S)
    except TimeoutError:
        pass
