"""ASGI: each request or WebSocket connection that belongs to a session is captured when it has ended.

    app = AdjournMiddleware(app)                                     # around Starlette, FastAPI, Litestar, Django, …
    app.add_middleware(AdjournMiddleware, session_id="x-session-id")  # or as Starlette and FastAPI add them

docs/howto/middleware.md says what is captured, and when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, cast

from adjourn.capture import get_runtime
from adjourn.errors import AdjournError, ConfigInvalid
from adjourn.eventlog import get_logger
from adjourn.events import SessionType
from adjourn.integrations.exchange import HEADER, KEY, Asked, Exchange
from adjourn.runtime import Runtime

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

WEBSOCKET_ENDS = (1000, 1001, 1005)
"""Close codes of a connection that ended as it should: normal, the page went away, none given."""

_log = get_logger("adjourn.integrations")


class AdjournMiddleware:
    """Transparent: requests without a session id pass, and so does everything else where capturing fails."""

    def __init__(
        self,
        app: Any,
        *,
        session_id: str | Callable[[Scope], str | None] = HEADER,
        session_type: SessionType = "api",
        user: Callable[[Scope], str | None] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """`session_id`: the name of a header, or a function of the scope; None or "" from it: not captured. `user`: a
        function of the scope, called at the end, that gives the user's id. Without a `runtime`, the process's own is
        used, and is stopped when the application shuts down."""
        self._app = cast(App, app)
        find = _header(session_id) if isinstance(session_id, str) else session_id
        self._asked = Asked(
            session_id=cast("Callable[[object], str | None]", find),
            user=cast("Callable[[object], str | None] | None", user),
            session_type=session_type,
            runtime=runtime,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await _Lifespan(self._app, self._asked.runtime, receive, send).run(scope)
            return
        if KEY not in scope and kind in ("http", "websocket"):
            exchange = Exchange.begin(self._asked, scope, "websocket" if kind == "websocket" else "http")
            if exchange is not None:
                scope[KEY] = exchange.session
                watch = (
                    _Connection(exchange, receive, send) if kind == "websocket" else _Request(exchange, receive, send)
                )
                await self._captured(exchange, scope, watch)
                return
        await self._app(scope, receive, send)

    async def _captured(self, exchange: Exchange, scope: Scope, watch: _Request) -> None:
        exchange.session.__enter__()
        try:
            await self._app(scope, watch.receive, watch.send)
        except BaseException as error:
            exchange.end(error)
            raise
        exchange.end()


class _Request:
    """What passes between the server and the application, looked at."""

    def __init__(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._exchange.complete:
            self._exchange.disconnected = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._exchange.status = message["status"]
            if _is_event_stream(message.get("headers", ())):
                self._exchange.session.transport = "sse"
        try:
            await self._send(message)
        except OSError:  # what a server raises to an application whose client is gone
            self._exchange.disconnected = True
            raise
        if kind in ("http.response.body", "http.response.zerocopysend", "http.response.pathsend"):
            self._exchange.complete = not message.get("more_body", False)


class _Connection(_Request):
    """The same for a WebSocket, which ends by a code."""

    _accepted = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect" and not self._exchange.complete:
            self._exchange.complete = True
            code = message.get("code") or 1005
            if code not in WEBSOCKET_ENDS:
                self._exchange.disconnected = True
            else:
                self._exchange.left = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
        elif kind == "websocket.close" and not self._accepted:
            self._exchange.status = 403  # which is what the server answers then
        elif kind == "websocket.close":
            self._exchange.complete = True
            code = message.get("code") or 1000
            if code not in WEBSOCKET_ENDS and self._exchange.session.status is None:
                self._exchange.session.end_as("error", error_code=f"websocket_{code}")
        elif kind == "websocket.http.response.start":
            self._exchange.status = message["status"]
        await self._send(message)


class _Lifespan:
    """The runtime begins and ends with the application: also with one that knows nothing of lifespan events, whose
    part is then taken here."""

    def __init__(self, app: App, runtime: Runtime | None, receive: Receive, send: Send) -> None:
        self._app = app
        self._given = runtime
        self._receive = receive
        self._send = send
        self._talked = False

    async def run(self, scope: Scope) -> None:
        try:
            await self._app(scope, self.receive, self.send)
            return
        except Exception:
            if self._talked:
                raise
        while True:
            message = await self._receive()
            await self.send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def receive(self) -> Message:
        self._talked = True
        return await self._receive()

    async def send(self, message: Message) -> None:
        self._talked = True
        kind = message["type"]
        if kind == "lifespan.startup.complete" and (refused := await self._started()):
            message = {"type": "lifespan.startup.failed", "message": refused}
        elif kind.startswith("lifespan.shutdown."):
            await self._stopped()
        await self._send(message)

    async def _started(self) -> str:
        """What is wrong with the settings: better said now than at every request."""
        try:
            runtime = self._given or get_runtime()
            await asyncio.to_thread(runtime.start)
        except ConfigInvalid as error:
            return f"adjourn: {error.message}"
        except AdjournError as error:
            _log.warning("runtime_waits", error=error.message)
        return ""

    async def _stopped(self) -> None:
        if self._given is None:  # one that was handed in is its maker's to stop
            try:
                await asyncio.to_thread(get_runtime().stop)
            except Exception:
                _log.exception("runtime_not_stopped")


def _header(name: str) -> Callable[[Scope], str | None]:
    wanted = name.lower().encode("latin-1")

    def find(scope: Scope) -> str | None:
        for key, value in scope["headers"]:
            if key == wanted:
                return bytes(value).decode("latin-1").strip()
        return None

    return find


def _is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(k.lower() == b"content-type" and v.lower().startswith(b"text/event-stream") for k, v in headers)
