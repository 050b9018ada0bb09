"""uvicorn's HTTP/1.1 protocol with bounds of its own, on a request's head and on what is sent after the answer, and
with a short way for the hot route: a request that came whole in one read is offered to `TakeSingle` before a task is
made of it."""

from __future__ import annotations

import re
from asyncio import Transport
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adjourn.errors import AdjournError, BodyInvalid, BodySlow
from adjourn.http.problems import MEDIA_TYPE, problem

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Fields = Sequence[tuple[bytes, bytes]]
TakeSingle = Callable[[Iterable[tuple[bytes, bytes]], bytes, Callable[[int, bytes, bytes, Fields], None]], bool]
"""(headers, body, how to answer) → whether it was taken, and will be answered."""

HEAD_BYTES_MAX = 65_536
"""Request line and headers of one request; the parser itself would gather them without end."""
HEAD_S_MAX = 20.0
"""How long a sender may take for a head, and for its first byte."""
BODY_S_MAX = 60.0
"""How long a sender may take for a body."""
IDLE_S_MAX = 20.0
"""How long a connection is kept, at least, after an answer; at most twice as long."""
UNREAD_BYTES_MAX = 64 * 1024 * 1024
"""What is read and thrown away of a body that was refused already. Closing at once could cost the sender the answer."""


SAID_ALL, SAID_ALL_IS_GONE = "adjourn_said_all", "adjourn_said_all_is_gone"
"""In the state of a request's scope: the sender has closed its side; and whether that means that it has hung up."""
UPGRADE_WITHIN_BYTES = 4096
SOCKET_PATH = re.compile(rb"/v1/sessions/([^/?]+)/ws")
"""Of the address as it came, still quoted: where clients may open a WebSocket."""
_SOCKET_HEAD = re.compile(rb"GET %b[? ]" % SOCKET_PATH.pattern)
_UPGRADE = re.compile(rb"\r\n(?:upgrade|http2-settings):[^\r\n]*", re.IGNORECASE)
_STATUS = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


def without_upgrade(data: bytes) -> bytes:
    """The beginning of a request without the wish for another protocol, which a server may ignore (RFC 9110, 7.8): the
    parser would not read a body behind it. Java's client asks for HTTP/2 in every first request. Sockets stay."""
    if data.find(b"pgrade:", 0, UPGRADE_WITHIN_BYTES) < 0 or _SOCKET_HEAD.match(data):
        return data
    end = data.find(b"\r\n\r\n")
    return data if end < 0 else _UPGRADE.sub(b"", data[:end]) + data[end:]


class Corked:
    """A transport that holds a head back until its body is written: one system call and one packet, not two. Only heads
    that announce a length are held: a body of that length follows, or the answer ends."""

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data:
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def write_whole(self, data: bytes) -> None:
        self.flush()
        self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    @property
    def plain(self) -> Transport:
        return self._transport

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    def __init__(self, take_single: TakeSingle, hot_path: bytes, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._take_single = take_single
        self._hot_path = hot_path
        self._unstarted: tuple[RequestResponseCycle, Any] | None = None
        """A request of the hot route whose body may come whole with its head."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # narrower, as uvicorn's own is
        super().connection_made(transport)
        self._corked = Corked(transport)
        self.transport = cast(Transport, self._corked)
        self._head_since_s = self.loop.time()
        """When the head that is being read began; 0 while none is."""
        self._body_since_s = 0.0
        """The same for a body."""
        self._idle_since_s = 0.0
        """When the last answer was sent; 0 while one is due."""
        self._head_bytes = 0
        self._unread_bytes = 0
        self._timer = self.loop.call_later(min(HEAD_S_MAX, BODY_S_MAX, IDLE_S_MAX), self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own may say: keep it open
        """A sender that has said all may still be waiting for its answer; then its connection ends. Where an answer is
        none without somebody to wait for it, whoever says no more has hung up: the two look the same."""
        due = bool(self.cycle) and not self.cycle.response_complete and not self.cycle.more_body
        if due:
            self.cycle.keep_alive = False
            state = self.cycle.scope.get("state", {})
            state[SAID_ALL] = True
            due = not state.get(SAID_ALL_IS_GONE, False)
        return due

    def data_received(self, data: bytes) -> None:
        if self._idle_since_s or (self._head_since_s and not self._head_bytes):
            data = without_upgrade(data)
        if self._head_since_s:
            self._head_bytes += len(data)
        elif self.cycle.response_complete:
            self._unread_bytes += len(data)
            if self._unread_bytes > UNREAD_BYTES_MAX:
                self._close()
                return
        super().data_received(data)
        if self._unstarted is not None:  # the rest of its body is still to come
            self._start_unstarted()
        if self._head_since_s and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response(f"the request's head is longer than {HEAD_BYTES_MAX} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_since_s, self._body_since_s, self._head_bytes = self.loop.time(), 0.0, 0
        self._idle_since_s = 0.0

    def on_headers_complete(self) -> None:
        self._body_since_s = self._head_since_s
        self._head_since_s, self._unread_bytes = 0.0, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_since_s = 0.0
        super().on_message_complete()
        if self._unstarted is not None and not self._taken(self._unstarted[0]):
            self._start_unstarted()

    def _should_upgrade_to_ws(self) -> bool:
        return SOCKET_PATH.fullmatch(self.url.partition(b"?")[0]) is not None

    def handle_websocket_upgrade(self) -> None:
        from adjourn.http.socket_protocol import SocketProtocol  # here: most servers never need it

        self._timer.cancel()
        self._corked.flush()
        self.transport = self._corked.plain
        self.ws_protocol_class = SocketProtocol
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.more_body and self.url == self._hot_path and cycle.scope["method"] == "POST":
            self._unstarted = (cycle, app)
        else:
            super()._start_asgi_task(cycle, app)

    def _start_unstarted(self) -> None:
        if self._unstarted is not None:
            cycle, app = self._unstarted
            self._unstarted = None
            super()._start_asgi_task(cycle, app)

    def _taken(self, cycle: RequestResponseCycle) -> bool:
        def answers(status: int, content_type: bytes, body: bytes, extra: Fields) -> None:
            self._answer(cycle, status, content_type, body, extra)

        if self.flow.write_paused:  # nobody reads the answers: the long way waits for that
            return False
        if self._take_single(cycle.scope["headers"], bytes(cycle.body), answers):
            self._unstarted = None
            return True
        return False

    def _answer(
        self, cycle: RequestResponseCycle, status: int, content_type: bytes, body: bytes, extra: Fields
    ) -> None:
        """As `cycle.send` does it, in one piece."""
        if cycle.disconnected:
            return
        fields = [*self.server_state.default_headers, *extra]
        if not cycle.keep_alive:
            fields.append((b"connection", b"close"))
        more = b"".join([b"%b: %b\r\n" % field for field in fields])
        head = b"HTTP/1.1 %b\r\n%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n"
        cycle.response_started = cycle.response_complete = True
        self._corked.write_whole(head % (_STATUS[status], more, content_type, len(body)) + body)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, less the timer that it starts and cancels for every request."""
        self._corked.flush()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            self._start_unstarted()  # its sender may be waiting to be told to send the body
        elif not self._head_since_s:
            self._idle_since_s = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered by a problem too."""
        self._refuse("400 Bad Request", BodyInvalid(f"{msg.rstrip('.')}; send HTTP/1.1 as RFC 9112 has it"))

    def _refuse(self, status: str, error: AdjournError) -> None:
        body = msgspec.json.encode(problem(error))
        head = (
            f"HTTP/1.1 {status}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self._corked.flush()
        self.transport.write(head.encode() + body)
        self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _look(self) -> None:
        """One timer a connection, not several a request: it comes by, and leaves when all is well."""
        now = self.loop.time()
        head_s = self._head_since_s + HEAD_S_MAX - now if self._head_since_s else HEAD_S_MAX
        body_s = self._body_since_s + BODY_S_MAX - now if self._body_since_s else BODY_S_MAX
        idle_s = self._idle_since_s + IDLE_S_MAX - now if self._idle_since_s else IDLE_S_MAX
        if head_s <= 0 or idle_s <= 0:
            self._close()
        elif body_s <= 0 and not self.cycle.response_started:
            slow = BodySlow(f"the body was not whole after {BODY_S_MAX:g} s; send it again, in smaller parts")
            self._refuse("408 Request Timeout", slow)
        else:
            self._timer = self.loop.call_later(max(0.05, min(head_s, body_s, idle_s)), self._look)
