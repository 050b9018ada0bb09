"""`POST /v1/traces`: OTLP/HTTP, to which OpenTelemetry's exporters and collectors send spans as they are.

https://opentelemetry.io/docs/specs/otlp/#otlphttp: an answer has the encoding of its request, errors too, which are a
`google.rpc.Status` and no problem document. Whatever may be sent again is answered 503, since OpenTelemetry's exporters
for Python dropped what is answered 429 until 2026. What becomes of spans: docs/howto/otlp.md.
"""

from __future__ import annotations

import asyncio

from adjourn.completion.otlp import Span
from adjourn.completion.otlp_service import Told, Traces
from adjourn.errors import AdjournError, BodyTooLarge, MediaTypeUnsupported, MethodNotAllowed, Unavailable
from adjourn.http import otlp_bodies
from adjourn.http.bodies import media_type
from adjourn.http.compression import DEFLATE, ENCODINGS
from adjourn.http.otlp_bodies import JSON, PROTOBUF, REASONS_MAX
from adjourn.http.raw import Headers, Receive, Scope, Send, fields_of, refuse, respond, told
from adjourn.http.reading import BodyReader, Gone, Held
from adjourn.security.service import Keys

TRACES_PATH = "/v1/traces"
SPANS_MAX = 50_000
"""In one request."""
SPANS_PER_TURN = 1000
"""How many are decoded before the event loop gets its turn."""


class TracesEndpoint:
    def __init__(self, traces: Traces, keys: Keys, *, body_bytes_max: int) -> None:
        self.draining = False
        self._traces = traces
        self._keys = keys
        self._reader = BodyReader(body_bytes_max, encodings=(*ENCODINGS, DEFLATE))

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
            await respond(send, 200, kind.encode(), otlp_bodies.answer(kind, taken.rejected, _said(taken)))
        except Gone:
            return
        except Exception as error:
            await _refuse(send, kind, told(error, scope["path"]))

    async def _take(self, kind: str, headers: Headers, receive: Receive) -> Told:
        key = await self._keys.check(headers.get("authorization", ""), "events:write")
        if self.draining:
            raise Unavailable("this server is stopping; send again to another node", retry_after_ms=2000)
        with Held(self._reader) as held:
            body = await self._reader.read(headers, receive, held)
            spans, refused = await _decoded(body, kind)
            return await self._traces.take(key.tenant, spans, refused)


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
    status = 503 if error.status in (429, 507) else error.status
    await respond(send, status, kind.encode(), otlp_bodies.status(kind, error.message), [*fields_of(error), *allow])
