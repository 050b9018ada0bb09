"""Who waits for something to happen in a session, on this node. Hints: what there is, the database tells. No I/O."""

from __future__ import annotations

import asyncio

from adjourn.sessions.session import SessionKey


class Notices:
    def __init__(self) -> None:
        self._waiting: dict[SessionKey, set[asyncio.Event]] = {}

    def tell(self, key: SessionKey) -> None:
        for waiting in self._waiting.get(key, ()):
            waiting.set()

    def enter(self, key: SessionKey) -> asyncio.Event:
        """An event that is set whenever something happens; clear it before looking."""
        waiting = asyncio.Event()
        self._waiting.setdefault(key, set()).add(waiting)
        return waiting

    def leave(self, key: SessionKey, waiting: asyncio.Event) -> None:
        others = self._waiting.get(key)
        if others is not None:
            others.discard(waiting)
            if not others:
                del self._waiting[key]
