"""`GET /v1/stream`: a tenant's events as they are committed, as server-sent events.

The id of each message is a position in the whole log, so that a client which comes back with `Last-Event-ID` gets what
it missed and nothing twice, from any node. Each stream reads the log at its client's pace: a slow one costs its
position and what lies in its socket.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Annotated, Any, cast

import msgspec
from litestar import Request, get
from litestar.params import HeaderParameter, QueryParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from adjourn.delivery.feed import Gap
from adjourn.delivery.feed_service import Feed, Item, Source
from adjourn.delivery.transform import shaping_of
from adjourn.errors import AdjournError, Unavailable
from adjourn.eventlog import get_logger
from adjourn.http import sse
from adjourn.http.auth import caller_of, node_of, requires
from adjourn.http.views import StreamedEvent
from adjourn.node import Node

HEARTBEAT_S = 15.0
POLL_S = 0.5
GATHER_S = 0.02
GATHER_S_PER_STREAM = 0.0002
"""Waking a thousand streams takes time; the more there are, the more events they are woken for."""
STALLED_S_MAX = 60.0
"""A client that takes nothing for so long is let go; it may come back and go on where it was."""
COME_BACK_MS = 2_000

_log = get_logger("adjourn.http")
_encode = msgspec.json.Encoder().encode


class Streams:
    """All streams of one server. What they wait for is watched once for all, and only while there are any."""

    def __init__(self, node: Node) -> None:
        self.draining = False
        self.count = 0
        self.followers = 0
        """Streams and sockets that follow sessions; there may be so many together."""
        self.sent = 0
        """Events, to all streams together."""
        self._node = node
        self._waiting: set[asyncio.Event] = set()
        self._watching: asyncio.Task[None] | None = None

    @cached_property
    def source(self) -> Source:
        return Source(self._node.database, self._node.log)

    def admit(self) -> None:
        """Raises Unavailable."""
        if self.draining:
            raise Unavailable("this server is stopping; connect again in a few seconds", retry_after_ms=COME_BACK_MS)
        most = self._node.settings.server.streams_max
        if self.count + self.followers >= most:
            raise Unavailable(
                f"{most} streams are open, and no more may be; close some, or raise server.streams_max",
                retry_after_ms=10_000,
            )

    def enter(self, waiting: asyncio.Event) -> None:
        """Raises Unavailable: others may have come since this one was admitted."""
        self.admit()
        self.count += 1
        self._waiting.add(waiting)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="streams")

    def leave(self, waiting: asyncio.Event) -> None:
        self.count -= 1
        self._waiting.discard(waiting)
        if not self.count and self._watching is not None:
            self._watching.cancel()
            self._watching = None
            self.source.forget()

    def drain(self) -> None:
        """Each stream ends after what it is sending, and tells its client to come back."""
        self.draining = True
        self._wake()

    def _wake(self) -> None:
        for waiting in self._waiting:
            waiting.set()

    async def _watch(self) -> None:
        while True:
            try:
                if await self.source.look():
                    self._wake()
                    await asyncio.sleep(GATHER_S + GATHER_S_PER_STREAM * self.count)
                else:
                    await self._node.log.arrived(POLL_S)
            except AdjournError:
                await asyncio.sleep(POLL_S)  # the database is away; the streams stay
            except Exception:
                _log.exception("streams_interrupted")
                await asyncio.sleep(POLL_S)


class Stream:
    """One client's, as the ASGI application that answers it."""

    def __init__(self, streams: Streams, feed: Feed, authorization: str, node: Node) -> None:
        self._streams = streams
        self._feed = feed
        self._authorization = authorization
        self._keys = node.keys
        self._clock = node.clock
        self._wake = asyncio.Event()
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", sse.MEDIA_TYPE.encode())]
        headers += [(name.encode(), value.encode()) for name, value in sse.HEADERS.items()]
        self._streams.enter(self._wake)
        listening = asyncio.create_task(self._listen(receive), name="stream-listen")
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if cast("dict[str, object]", scope).get("is_head"):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self._run(send)
        finally:
            listening.cancel()
            self._streams.leave(self._wake)

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._wake.set()

    async def _run(self, send: Send) -> None:
        """Until the client goes, its key ends, it stalls, or the server stops."""
        checked_s = self._clock.monotonic()
        chunk = sse.mark(self._feed.position)  # a client that is cut off before the first event knows where it was
        while not self._gone:
            if not await self._put(send, chunk):
                return
            chunk = b""
            now_s = self._clock.monotonic()
            if now_s - checked_s >= HEARTBEAT_S:
                checked_s = now_s
                if not await self._may_stay():
                    await self._end(send, "the key was revoked")
                    return
            if self._streams.draining:
                await self._end(send, "the server is stopping")
                return
            chunk = await self._more()

    async def _more(self) -> bytes:
        """What is to be sent next; a heartbeat where there is nothing for long, empty where there is nothing wanted."""
        self._wake.clear()
        try:
            items = await self._feed.next()
        except AdjournError:  # the database is away
            await self._pause(POLL_S)
            return b""
        if items is not None:
            self._streams.sent += len(items)
            return b"".join([_rendered(item) for item in items])
        if self._streams.draining or self._gone or await self._pause(HEARTBEAT_S):
            return b""
        return sse.mark(self._feed.position, "heartbeat")

    async def _pause(self, seconds: float) -> bool:
        """Whether something has happened before the time was over."""
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _put(self, send: Send, chunk: bytes) -> bool:
        """False: the client takes nothing any more."""
        if not chunk:
            await asyncio.sleep(0)
            return True
        try:
            async with asyncio.timeout(STALLED_S_MAX):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            return False
        await asyncio.sleep(0)
        return True

    async def _end(self, send: Send, why: str) -> None:
        if await self._put(send, sse.retry(COME_BACK_MS, why)):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _may_stay(self) -> bool:
        """A stream may be open for days: what a key may do is asked again and again."""
        try:
            await self._keys.check(self._authorization, "events:read")
        except Unavailable:
            return True
        except AdjournError:
            return False
        return True


def _rendered(item: Item) -> bytes:
    if isinstance(item.what, Gap):
        return sse.message(_encode(item.what), id=item.position, event="gap")
    return sse.message(_encode(StreamedEvent.of(item.what)), id=item.position)


@get(
    "/v1/stream",
    guards=[requires("events:read")],
    media_type=sse.MEDIA_TYPE,
    summary="The tenant's events as they are committed, as server-sent events; Last-Event-ID goes on exactly",
)
async def get_stream(
    request: Request[Any, Any, Any],
    where: Annotated[str, QueryParameter(name="from", max_length=1300)] = "now",
    expression: Annotated[str, QueryParameter(name="filter", max_length=4_000)] = "",
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=1300)] = None,
) -> ASGIApp:
    node, streams = node_of(request), request.app.state.streams
    assert isinstance(streams, Streams)
    streams.admit()
    wanted = shaping_of(filter=expression, transform="")
    position, since_ms = await streams.source.begin(last_event_id or where)
    feed = Feed(streams.source, position, tenant=caller_of(request).tenant, wanted=wanted, since_ms=since_ms)
    return Stream(streams, feed, request.headers.get("authorization", ""), node)
