"""The gateway's ASGI application: what comes in goes to the upstream, and its answer back, byte for byte and at once.

A copy is read on the way. What an answer says of its tokens is in the journal before the bytes that say it pass on: a
gateway that is killed has never answered a call whose usage it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import cast
from urllib.parse import unquote, urlsplit

import aiohttp
import yarl

from adjourn.errors import AdjournError, MethodNotAllowed, NotFound, UpstreamUnreachable
from adjourn.eventlog import get_logger
from adjourn.gateway import requests
from adjourn.gateway.copies import AnswerCopy, decoded
from adjourn.gateway.lines import Lines
from adjourn.gateway.passing import check_passable, headers_back, headers_on
from adjourn.gateway.recorder import Call, Recorder
from adjourn.gateway.sessions import Status
from adjourn.gateway.usage import Reading
from adjourn.http.raw import Receive, Scope, Send, refuse

BODY_COPY_BYTES_MAX = 8_000_000
"""Of one request; a larger one passes unread."""
COPIES_BYTES_MAX = 64_000_000
"""Of all requests at once; past it, new ones pass unread."""
SESSIONS_PATH = b"/adjourn/sessions/"
CONNECT_S_MAX = 10.0
KEEP_ALIVE_S = 30.0
HEAD_BYTES_MAX = 65_536

DEFECT = "something in the gateway failed; its log has the trace: please report it"

_SET_BY_CALLER = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")

_log = get_logger("adjourn.gateway")


class ClientGone(Exception):
    """It has closed its connection before it had the whole answer."""


class Proxy:
    def __init__(
        self, upstream: str, recorder: Recorder, on_closed: Callable[[], None], *, include_usage: bool
    ) -> None:
        """In a running event loop. `on_closed` is told when completions wait."""
        self._upstream = upstream.rstrip("/")
        self._prefix = urlsplit(self._upstream).path
        self._recorder = recorder
        self._on_closed = on_closed
        self._include_usage = include_usage
        self._copied_bytes = 0
        self._lines = Lines()
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_SET_BY_CALLER,
            auto_decompress=False,
            max_line_size=HEAD_BYTES_MAX,
            max_field_size=HEAD_BYTES_MAX,
        )

    async def close(self) -> None:
        await self._http.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["raw_path"].startswith(SESSIONS_PATH):
            await self._own(scope, send)
            return
        try:
            check_passable(scope["raw_path"], scope["headers"], self._prefix)
        except AdjournError as error:
            await refuse(send, error)
            return
        exchange = Exchange(scope, receive, send)
        try:
            await self._pass(exchange)
        except asyncio.CancelledError:
            if not exchange.client_gone:
                self._end(exchange, "error", "gateway_stopped")
                raise
            self._end(exchange, "user_terminated", "client_disconnected")
        except (ClientGone, aiohttp.ClientError, OSError, TimeoutError) as error:
            if exchange.client_gone:
                self._end(exchange, "user_terminated", "client_disconnected")
            else:
                await self._upstream_failed(exchange, error)
        except Exception:
            _log.exception("request_failed", path=scope["path"])
            self._end(exchange, "error", "gateway_failed")
            if not exchange.begun:
                await refuse(send, AdjournError(DEFECT))
        finally:
            exchange.stop_watching()
            self._copied_bytes -= exchange.copied_bytes

    async def _upstream_failed(self, exchange: Exchange, error: BaseException) -> None:
        if exchange.is_model_call and exchange.call is None:
            self._begin(exchange, None)
        if exchange.begun:
            # There is no other way to say it: the server closes the connection, and the answer lacks its end.
            self._end(exchange, "error", "upstream_disconnected")
            return
        self._end(exchange, "error", "upstream_unreachable")
        _log.warning("gateway_upstream_unreachable", upstream=self._upstream, error=_kind(error))
        await refuse(exchange.send, _unreachable(self._upstream, error))

    # --- one exchange

    async def _pass(self, exchange: Exchange) -> None:
        body = await exchange.first_part()
        if self._include_usage and exchange.is_chat:
            body = await self._asking_for_usage(exchange, body)
        whole = not exchange.more_body
        if exchange.is_model_call:
            if whole:
                self._begin(exchange, body)
            elif exchange.body_bytes <= BODY_COPY_BYTES_MAX and self._copied_bytes < COPIES_BYTES_MAX:
                exchange.copy = bytearray(body)
        url = yarl.URL(self._upstream + exchange.target, encoded=True)
        data = (body or None) if whole else self._parts(exchange, body)
        if whole:
            exchange.watch()
        async with self._http.request(
            exchange.scope["method"], url, headers=exchange.headers, data=data, allow_redirects=False
        ) as answer:
            if exchange.is_model_call and exchange.call is None:
                self._begin(exchange, None)  # it answers before it has the whole body
            exchange.watch()
            await self._answer(exchange, answer)

    async def _parts(self, exchange: Exchange, first: bytes) -> AsyncGenerator[bytes]:
        """The rest of the body as it comes; then the call begins."""
        self._copy(exchange, first)
        yield first
        while exchange.more_body:
            part = await exchange.next_part()
            if exchange.copy is not None:
                exchange.copy += part
                self._copy(exchange, part)
            yield part
        if exchange.is_model_call and exchange.call is None:
            self._begin(exchange, None if exchange.copy is None else bytes(exchange.copy))
        exchange.watch()

    def _copy(self, exchange: Exchange, part: bytes) -> None:
        if exchange.copy is None:
            return
        exchange.copied_bytes += len(part)
        self._copied_bytes += len(part)
        if exchange.copied_bytes > BODY_COPY_BYTES_MAX or self._copied_bytes > COPIES_BYTES_MAX:
            self._copied_bytes -= exchange.copied_bytes
            exchange.copied_bytes = 0
            exchange.copy = None

    async def _asking_for_usage(self, exchange: Exchange, body: bytes) -> bytes:
        """The body whole if it is not too large, with the wish in it."""
        while exchange.more_body and len(body) <= BODY_COPY_BYTES_MAX:
            body += await exchange.next_part()
        changed = None
        if not exchange.more_body and not exchange.header(b"content-encoding"):
            changed = requests.with_usage(body)
        if changed is None:
            return body
        exchange.headers = [(n, v) for n, v in exchange.headers if n != "content-length"]
        return changed

    def _begin(self, exchange: Exchange, body: bytes | None) -> None:
        if body is not None and (encoding := exchange.header(b"content-encoding")):
            body = decoded(encoding, body, BODY_COPY_BYTES_MAX)
        client = exchange.scope["client"]
        exchange.call = self._recorder.begin(
            requests.read(body), exchange.scope["headers"], client[0] if client else "", exchange.scope["path"]
        )

    async def _answer(self, exchange: Exchange, answer: aiohttp.ClientResponse) -> None:
        exchange.status = answer.status
        self._lines.watch(answer)
        if not 200 <= answer.status <= 599:
            raise aiohttp.ClientPayloadError(f"it answers with the status {answer.status}, which nobody asked for")
        exchange.begun = True
        await exchange.send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": headers_back(answer.raw_headers, answer.status),
            }
        )
        copy = None
        if exchange.call is not None:
            encoding = answer.headers.get("content-encoding", "")
            copy = exchange.reader = AnswerCopy(answer.headers.get("content-type", ""), encoding)
        left = answer.content_length if answer.content_length is not None else -1
        content = answer.content
        while data := await content.readany():
            if copy is not None:
                left -= len(data)
                self._read(exchange, copy, data, last=left == 0 or content.at_eof())
            await exchange.send({"type": "http.response.body", "body": data, "more_body": True})
        if exchange.call is not None:
            if copy is not None:
                copy.finish()
            self._end(exchange, *self._outcome(exchange))
        await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _read(self, exchange: Exchange, copy: AnswerCopy, data: bytes, *, last: bool) -> None:
        said = copy.take(data, last=last)
        if last:
            copy.finish()
            self._end(exchange, *self._outcome(exchange))
        elif said and exchange.call is not None:
            self._recorder.used(exchange.call, copy.reading, streamed=copy.streamed)

    def _outcome(self, exchange: Exchange) -> tuple[Status, str]:
        code = exchange.reader.reading.error_code if exchange.reader is not None else ""
        if exchange.status in (408, 504):
            return "timeout", code or f"http_{exchange.status}"
        if exchange.status >= 400:
            return "error", code or f"http_{exchange.status}"
        return ("error", code) if code else ("success", "")

    def _end(self, exchange: Exchange, status: Status, error_code: str) -> None:
        call, exchange.call = exchange.call, None
        if call is None:
            return
        exchange.is_model_call = False
        reader = exchange.reader
        reading, streamed = (reader.reading, reader.streamed) if reader is not None else (Reading(), False)
        self._recorder.used(call, reading, streamed=streamed, status=status, error_code=error_code)
        self._on_closed()

    # --- the gateway's own route

    async def _own(self, scope: Scope, send: Send) -> None:
        if scope["method"] != "DELETE":
            await refuse(
                send,
                MethodNotAllowed("only DELETE is allowed on a session of the gateway; it ends it"),
                [(b"allow", b"DELETE")],
            )
            return
        session_id = unquote(scope["raw_path"][len(SESSIONS_PATH) :].decode("latin-1"))
        if not self._recorder.end_session(scope["headers"], session_id):
            await refuse(
                send,
                NotFound(
                    "no session of that id is open for these credentials; send those of its calls, and the id that "
                    "they named"
                ),
            )
            return
        self._on_closed()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.send = send
        self.more_body = True
        self.body_bytes = int(self.header(b"content-length") or 0)
        self.headers = headers_on(scope["headers"])
        query = scope["query_string"]
        self.target = (scope["raw_path"] + b"?" + query if query else scope["raw_path"]).decode("latin-1")
        self.is_model_call = requests.is_model_call(scope["method"], scope["path"])
        self.is_chat = self.is_model_call and scope["path"].rstrip("/").endswith("/completions")
        self.copy: bytearray | None = None
        self.copied_bytes = 0
        self.call: Call | None = None
        self.reader: AnswerCopy | None = None
        self.begun = False
        self.status = 0
        self.client_gone = False
        self._receive = receive
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> str:
        return next((v.decode("latin-1") for n, v in self.scope["headers"] if n == name), "")

    async def first_part(self) -> bytes:
        if not self.header(b"transfer-encoding") and not self.body_bytes:
            self.more_body = False
            return b""
        return await self.next_part()

    async def next_part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.client_gone = True
            raise ClientGone
        self.more_body = message.get("more_body", False)
        return cast(bytes, message.get("body", b""))

    def watch(self) -> None:
        """From now on the exchange is cancelled as soon as the client goes."""
        if self._watcher is None and not self.more_body:
            self._watcher = asyncio.create_task(self._notice())

    def stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _notice(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.client_gone = True
        if self._task is not None:
            self._task.cancel()


def _unreachable(upstream: str, error: BaseException) -> UpstreamUnreachable:
    return UpstreamUnreachable(
        f"the gateway has no answer of {upstream} ({_kind(error)}); see that it runs and that --upstream names it"
    )


def _kind(error: BaseException) -> str:
    """Without the request: its headers hold credentials, and its query may."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        return "it speaks no HTTP: " + " ".join(error.message.split())
    reason = getattr(error, "os_error", None) or error
    return getattr(reason, "strerror", None) or str(reason) or type(error).__name__
