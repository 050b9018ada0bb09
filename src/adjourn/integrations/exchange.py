"""One request or connection on its way through a web application: a session, and how it ended.

What the middlewares of both kinds share. Whatever fails here is logged; the application never hears of it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from adjourn.capture import session
from adjourn.clock import SystemClock
from adjourn.eventlog import get_logger
from adjourn.events import OutcomeStatus, SessionType, Transport
from adjourn.ids import new_id
from adjourn.runtime import Runtime

KEY = "adjourn.session"
"""Where the session stands in an ASGI scope or a WSGI environ; a middleware that finds one there leaves it alone."""
HEADER = "x-session-id"
DISCONNECTED = "client_disconnected"

_TIMEOUTS = (408, 504)
_log = get_logger("adjourn.integrations")
_clock = SystemClock()


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a middleware was told to do. Its callables are given the request: an ASGI scope or a WSGI environ."""

    session_id: Callable[[object], str | None]
    user: Callable[[object], str | None] | None
    session_type: SessionType
    runtime: Runtime | None


class Exchange:
    """Begins when it is made, ends with `end`."""

    def __init__(self, asked: Asked, request: object, session_id: str, transport: Transport) -> None:
        # An id of its own: one session may have many requests, and each of them counts.
        self.session = session(
            session_id=session_id,
            session_type=asked.session_type,
            event_id=new_id("evt", _clock.wall_ms()),
            transport=transport,
            runtime=asked.runtime,
        )
        self.status = 0
        """Of the HTTP response, once it has begun."""
        self.complete = False
        """The response was sent to its end."""
        self.disconnected = False
        """The client left before that."""
        self.left = False
        """The client closed a connection in order."""
        self._asked = asked
        self._request = request

    @staticmethod
    def begin(asked: Asked, request: object, transport: Transport) -> Exchange | None:
        """None where the request belongs to no session."""
        try:
            session_id = asked.session_id(request)
            return Exchange(asked, request, session_id, transport) if session_id else None
        except Exception:
            _log.exception("session_id_failed")
            return None

    def end(self, error: BaseException | None = None) -> None:
        """Capture the completion, once. Never raises."""
        ending = self.session
        if ending.ended:
            return
        self._name_user()
        if self.disconnected or (self.left and type(error).__name__.endswith("Disconnect")):
            error = None  # it was raised because nobody was there any more
        if error is None and ending.status is None:
            self._judge()
        try:
            ending.__exit__(None if error is None else type(error), error, None)
        except Exception as refused:
            _log.error("completion_not_captured", session_id=ending.session_id, error=str(refused))

    def _judge(self) -> None:
        """Where the application has not said how it ended. Frameworks answer most exceptions by themselves: all that is
        seen of those is the status."""
        if self.disconnected:
            self.session.end_as("user_terminated", error_code=DISCONNECTED)
        elif self.status >= 400:
            status: OutcomeStatus = "timeout" if self.status in _TIMEOUTS else "error"
            self.session.end_as(status, error_code=f"http_{self.status}")

    def _name_user(self) -> None:
        """At the end: who it is, is found out inside of the application."""
        if self._asked.user is None or self.session.user_id is not None:
            return
        try:
            if user_id := self._asked.user(self._request):
                self.session.set_user(user_id)
        except Exception:
            _log.exception("user_failed")
