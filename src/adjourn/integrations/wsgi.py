"""WSGI: each request that belongs to a session is captured when its response was sent to the end.

    app.wsgi_app = AdjournMiddleware(app.wsgi_app)                   # Flask
    application = AdjournMiddleware(get_wsgi_application())          # Django

docs/howto/middleware.md says what is captured, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from adjourn.capture import Place
from adjourn.events import SessionType
from adjourn.integrations.exchange import HEADER, KEY, Asked, Exchange
from adjourn.runtime import Runtime

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, Start], Iterable[bytes]]

_NO_BODY = (204, 304)


class AdjournMiddleware:
    """Transparent: requests without a session id pass, and so does everything else where capturing fails."""

    def __init__(
        self,
        app: Any,
        *,
        session_id: str | Callable[[Environ], str | None] = HEADER,
        session_type: SessionType = "api",
        user: Callable[[Environ], str | None] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """`session_id`: the name of a header, or a function of the environ; None or "" from it: not captured. `user`: a
        function of the environ, called at the end, that gives the user's id. Without a `runtime`, the process's own is
        used."""
        self._app = cast(App, app)
        find = _header(session_id) if isinstance(session_id, str) else session_id
        self._asked = Asked(
            session_id=cast("Callable[[object], str | None]", find),
            user=cast("Callable[[object], str | None] | None", user),
            session_type=session_type,
            runtime=runtime,
        )

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        exchange = None if KEY in environ else Exchange.begin(self._asked, environ, "http")
        if exchange is None:
            return self._app(environ, start_response)
        environ[KEY] = exchange.session
        place = exchange.session.begin_in_steps()
        response = _Response(exchange, start_response, head_only=environ.get("REQUEST_METHOD") == "HEAD")
        try:
            with place:
                body = self._app(environ, response.start)
        except BaseException as error:
            exchange.end(error)
            raise
        # A server may ask a body for its length, to send it as a header.
        return (_SizedBody if hasattr(body, "__len__") else _Body)(body, response, place)


class _Response:
    """What the application says of its response, and how much of it was taken."""

    def __init__(self, exchange: Exchange, start_response: Start, *, head_only: bool) -> None:
        self.exchange = exchange
        self._start_response = start_response
        self._head_only = head_only
        self._length = -1
        self._sent = 0

    def start(self, status: str, headers: list[tuple[str, str]], *exc_info: object) -> Callable[[bytes], object]:
        self.exchange.status = int(status[:3])
        for name, value in headers:
            known = name.lower()
            if known == "content-length" and value.isdecimal():
                self._length = int(value)
            elif known == "content-type" and value.lower().startswith("text/event-stream"):
                self.exchange.session.transport = "sse"
        write = self._start_response(status, headers, *exc_info)

        def written(data: bytes) -> object:
            self._sent += len(data)
            return write(data)

        return written

    def send(self, part: bytes) -> bytes:
        self._sent += len(part)
        return part

    @property
    def whole(self) -> bool:
        """A server need not ask for more than the length that was announced, or for what it will not send."""
        return self._head_only or self.exchange.status in _NO_BODY or 0 <= self._length <= self._sent


class _Body:
    """The body, inside of its session step by step."""

    def __init__(self, body: Iterable[bytes], response: _Response, place: Place) -> None:
        self._body = body
        self._response = response
        self._place = place
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        exchange = self._response.exchange
        try:
            with self._place:
                if self._parts is None:
                    self._parts = iter(self._body)
                return self._response.send(next(self._parts))
        except StopIteration:
            exchange.complete = True
            raise
        except BaseException as error:
            exchange.end(error)
            raise

    def close(self) -> None:
        """Called by the server, always and last: before the end of the body if the client is gone."""
        exchange = self._response.exchange
        exchange.disconnected = not (exchange.complete or self._response.whole)
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                with self._place:
                    close()
        except BaseException as error:
            exchange.end(error)
            raise
        exchange.end()


class _SizedBody(_Body):
    def __len__(self) -> int:
        return len(cast("list[bytes]", self._body))


def _header(name: str) -> Callable[[Environ], str | None]:
    key = "HTTP_" + name.upper().replace("-", "_")

    def find(environ: Environ) -> str | None:
        value = environ.get(key)
        return None if value is None else str(value).strip()

    return find
