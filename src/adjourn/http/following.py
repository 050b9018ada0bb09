"""What follows a session's events for one client: it reads ahead as much as a client may be behind, and no more.

A slow client costs its position and these few events: the rest waits in the database until it is asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from adjourn.errors import AdjournError, Unavailable
from adjourn.eventlog import get_logger
from adjourn.http.stream import COME_BACK_MS, Streams
from adjourn.sessions.turn import SessionEvent

AHEAD_MAX = 256
"""Events that are ready before their client takes them."""

_log = get_logger("adjourn.http")


class Followers:
    """The streams and sockets of one server that follow sessions; they share their bound with the streams of events."""

    def __init__(self, streams: Streams) -> None:
        self.draining = False
        self._streams = streams
        self._waking: set[asyncio.Event] = set()

    def admit(self) -> None:
        """Raises Unavailable."""
        self._streams.admit()

    def enter(self, wake: asyncio.Event) -> None:
        """Raises Unavailable: others may have come since this one was admitted."""
        self.admit()
        self._streams.followers += 1
        self.watch(wake)

    def leave(self, wake: asyncio.Event) -> None:
        self._streams.followers -= 1
        self.unwatch(wake)

    def watch(self, wake: asyncio.Event) -> None:
        """`wake` is set when the server begins to stop, too."""
        self._waking.add(wake)

    def unwatch(self, wake: asyncio.Event) -> None:
        self._waking.discard(wake)

    def drain(self) -> None:
        """Each ends after what it is sending, and tells its client to come back."""
        self.draining = True
        for wake in self._waking:
            wake.set()


class Follower:
    """Reads the events of one session ahead of its client. `wake` is set whenever there is something to see."""

    def __init__(self, events: AsyncGenerator[SessionEvent, None], wake: asyncio.Event) -> None:
        self.ended = False
        """Whether nothing will come after what `take` gives."""
        self.error: AdjournError | None = None
        """Why, where that is not the end of the session."""
        self._events = events
        self._wake = wake
        self._ready: deque[SessionEvent] = deque()
        self._room = asyncio.Event()
        self._reading = asyncio.create_task(self._read(), name="session-follow")

    def take(self) -> list[SessionEvent]:
        """All that is ready."""
        taken = list(self._ready)
        self._ready.clear()
        self._room.set()
        return taken

    async def close(self) -> None:
        """Idempotent, complete on return."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for event in self._events:
                while len(self._ready) >= AHEAD_MAX:
                    self._room.clear()
                    await self._room.wait()
                self._ready.append(event)
                self._wake.set()
        except AdjournError as error:
            self.error = error
        except Exception:
            _log.exception("streams_interrupted")
            self.error = Unavailable("the stream was interrupted; connect again", retry_after_ms=COME_BACK_MS)
        finally:
            await self._events.aclose()
            self.ended = True
            self._wake.set()
