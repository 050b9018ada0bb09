"""`POST /v1/traces`: OTLP/HTTP, to which OpenTelemetry's exporters and collectors send spans as they are.

https://opentelemetry.io/docs/specs/otlp/#otlphttp: an answer has the encoding of its request, errors too, which are a
`google.rpc.Status` and no problem document. Whatever may be sent again is answered 503, since OpenTelemetry's exporters
for Python dropped what is answered 429 until 2026. What becomes of spans: docs/howto/otlp.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from adjourn.completion.otlp import Span
from adjourn.completion.otlp_service import Told, Traces
from adjourn.errors import AdjournError, BodyTooLarge, MediaTypeUnsupported, MethodNotAllowed, TooBusy, Unavailable
from adjourn.http import bodies, otlp_bodies
from adjourn.http.bodies import media_type
from adjourn.http.events import INFLATE_INLINE_BYTES, Headers, Receive, Scope, Send, refuse, respond, told
from adjourn.http.otlp_bodies import JSON, PROTOBUF, REASONS_MAX
from adjourn.http.problems import headers_of
from adjourn.security.service import Keys

TRACES_PATH = "/v1/traces"
SPANS_MAX = 50_000
"""In one request."""
SPANS_PER_TURN = 1000
"""How many are decoded before the event loop gets its turn."""
BODIES_BYTES_MAX = 64 * 1024 * 1024
"""All bodies that are being read or taken at once, inflated; past it, new ones are told to come back."""


class TracesEndpoint:
    def __init__(self, traces: Traces, keys: Keys, *, body_bytes_max: int) -> None:
        self.draining = False
        self._traces = traces
        self._keys = keys
        self._body_bytes_max = body_bytes_max
        self._bytes_held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope["headers"])
        kind = media_type(headers.get("content-type", ""))
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"this method is not allowed on {TRACES_PATH}; send spans with POST")
            if kind not in (PROTOBUF, JSON):
                raise MediaTypeUnsupported(
                    f"Content-Type {kind[:80]!r} is not read here; send {PROTOBUF} or {JSON} "
                    "(OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf)",
                    path="content-type",
                )
            taken = await self._take(kind, headers, receive)
            if taken is not None:
                await respond(send, 200, kind.encode(), otlp_bodies.answer(kind, taken.rejected, _said(taken)))
        except Exception as error:
            await _refuse(send, kind, told(error, scope["path"]))

    async def _take(self, kind: str, headers: Headers, receive: Receive) -> Told | None:
        """None: the client hung up before its body was whole."""
        key = await self._keys.check(headers.get("authorization", ""), "events:write")
        if self.draining:
            raise Unavailable("this server is stopping; send again to another node", retry_after_ms=2000)
        held = _Held(self)
        try:
            body = await self._body(headers, receive, held)
            if body is None:
                return None
            encoding = headers.get("content-encoding", "")
            if encoding:
                inline = len(body) < INFLATE_INLINE_BYTES
                inflate = otlp_bodies.decompress, body, encoding, self._body_bytes_max
                body = inflate[0](*inflate[1:]) if inline else await asyncio.to_thread(*inflate)
                held.add(len(body))
            spans, refused = await _decoded(body, kind)
            return await self._traces.take(key.tenant, spans, refused)
        finally:
            held.release()

    async def _body(self, headers: Mapping[str, str], receive: Receive, held: _Held) -> bytes | None:
        length = headers.get("content-length", "")
        if length.isdigit() and (len(length) > 18 or int(length) > self._body_bytes_max):
            raise bodies.too_large(self._body_bytes_max)
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = cast("dict[str, Any]", await receive())
            if message["type"] == "http.disconnect":
                return None
            part: bytes = message.get("body", b"")
            parts.append(part)
            size += len(part)
            held.add(len(part))
            if size > self._body_bytes_max:
                raise bodies.too_large(self._body_bytes_max)
            more = message.get("more_body", False)
        return b"".join(parts)

    def hold(self, size: int, mine: int) -> None:
        """One request alone is always let in, however small the room is. Raises TooBusy."""
        self._bytes_held += size
        if size > 0 and self._bytes_held > BODIES_BYTES_MAX and self._bytes_held > mine:
            raise TooBusy("too many bodies are being read at once; send again in a second", retry_after_ms=1000)


class _Held:
    """What one request holds of the room for bodies."""

    def __init__(self, endpoint: TracesEndpoint) -> None:
        self._endpoint = endpoint
        self._size = 0

    def add(self, size: int) -> None:
        self._size += size
        self._endpoint.hold(size, self._size)

    def release(self) -> None:
        self._endpoint.hold(-self._size, 0)


async def _decoded(body: bytes, kind: str) -> tuple[list[Span], list[str]]:
    spans: list[Span] = []
    refused: list[str] = []
    for number, it in enumerate(otlp_bodies.spans_of(body, kind), 1):
        if isinstance(it, Span):
            spans.append(it)
        else:
            refused.append(it)
        if number > SPANS_MAX:
            raise BodyTooLarge(f"the body holds more than {SPANS_MAX} spans; send fewer at once")
        if number % SPANS_PER_TURN == 0:
            await asyncio.sleep(0)
    return spans, refused


def _said(taken: Told) -> str:
    listed = [*taken.reasons, *taken.warnings]
    more = len(listed) - REASONS_MAX
    return " | ".join(listed[:REASONS_MAX]) + (f" | and {more} more" if more > 0 else "")


async def _refuse(send: Send, kind: str, error: AdjournError) -> None:
    allow = [(b"allow", b"POST")] if isinstance(error, MethodNotAllowed) else []
    if kind not in (PROTOBUF, JSON):
        await refuse(send, error, allow)
        return
    headers = [(name.encode(), value.encode()) for name, value in headers_of(error).items()]
    status = 503 if error.status in (429, 507) else error.status
    await respond(send, status, kind.encode(), otlp_bodies.status(kind, error.message), [*headers, *allow])
