"""How a session comes to its end, on this node or another; and how its record goes afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from adjourn.database import Tx
from adjourn.errors import AdjournError, TooBusy
from adjourn.sessions import rows, session_changes, snapshot_rows
from adjourn.sessions.follow_service import Follow
from adjourn.sessions.lifecycle import STOPPED, Ending, failed
from adjourn.sessions.live import Stop
from adjourn.sessions.means import Means
from adjourn.sessions.notices import Notices
from adjourn.sessions.owner_service import Owner
from adjourn.sessions.session import Session, SessionKey
from adjourn.sessions.turns_service import Turns

T = TypeVar("T")

FORGET_AT_ONCE = 500
STOP_ASK_S = 1.0
STOP_WAIT_S = 30.0
"""How long a caller waits for a turn on another node to end; it is ended all the same."""


class Ends:
    def __init__(self, means: Means, owner: Owner, turns: Turns, follow: Follow, notices: Notices) -> None:
        self._database = means.database
        self._clock = means.clock
        self._owner = owner
        self._turns = turns
        self._follow = follow
        self._notices = notices
        self._compose = means.compose
        self._talk = means.talk
        self._workspace_of = means.workspace_of

    async def change(self, root_id: str, change: Callable[[Tx], T | AdjournError]) -> T:
        """Raises what the change returns as refused."""
        changed = await self._database.write(change, key=root_id)
        if isinstance(changed, AdjournError):
            raise changed
        return changed

    async def end(self, session: Session, ending: Ending) -> Session:
        return await self._turns.work.whole(self._end(session, ending))

    async def _end(self, session: Session, ending: Ending) -> Session:
        end = partial(
            session_changes.end,
            key=session.key,
            ending=ending,
            now_ms=self._clock.wall_ms(),
            compose=self._compose,
        )
        ended = await self.change(session.root_id, end)
        await self._turns.opened.close(session.key, runner=session.runner)
        self._notices.tell(session.key)
        return ended

    async def stop(self, session: Session, stop: Stop, word: str) -> None:
        """Stop the turn that runs, here or elsewhere, and wait until it is settled."""
        assert session.turn_id is not None
        until_s = self._clock.monotonic() + STOP_WAIT_S
        while self._clock.monotonic() < until_s:
            # A turn that has just begun is nobody's yet: ask again.
            if not self._turns.stop_turn(session.key, stop, session.turn_id):
                args = (session.key, session.turn_id, word)
                await self._database.write(session_changes.ask_to_stop, *args, key=session.root_id)
            try:
                async with asyncio.timeout(STOP_ASK_S):
                    await self._follow.ended(session.key, session.turn_id)
                return
            except TimeoutError:
                continue
        fact = f"turn {session.turn_id} has been told to stop and has not yet"
        raise TooBusy(f"{fact}; ask again in a moment", retry_after_ms=1_000)

    async def delete(self, key: SessionKey) -> None:
        """An ended session, in portions: its row last, so that whatever fails is done again."""
        root = await self._database.read(rows.root_of, key)
        session = await self.change(root, partial(session_changes.mark_deleted, key=key))
        if session is None:
            return
        while await self._database.write(rows.forget_some, key, FORGET_AT_ONCE, key=root):
            await asyncio.sleep(0)
        while await self._database.write(snapshot_rows.forget_one, key, key=root):
            await asyncio.sleep(0)
        while await self._database.write(self._talk.forget, key, FORGET_AT_ONCE, key=root):
            await asyncio.sleep(0)
        await self._turns.opened.close(key, self._workspace_of(session), session.runner)
        await self._database.write(session_changes.forget, key, key=root)

    async def give_up(self) -> None:
        """Sessions whose runners were held open here: each is left, or ended, by its pattern."""
        await self._owner.release(self._owner.fence, failed(STOPPED))
