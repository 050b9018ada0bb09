"""A session's events as server-sent events: those of one turn, or all from a place on.

The id of each message is its `seq`, so that a client which comes back with `Last-Event-ID` gets exactly the rest, from
any node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec
from litestar.connection import ASGIConnection
from litestar.types import Receive, Scope, Send

from adjourn.errors import AdjournError, BodyInvalid, PositionGone, Unavailable
from adjourn.http import sse
from adjourn.http import stream as bounds
from adjourn.http.auth import caller_of, node_of
from adjourn.http.following import Follower, Followers
from adjourn.http.protocol import SAID_ALL, SAID_ALL_IS_GONE
from adjourn.http.session_views import SessionEventView
from adjourn.security.roles import Permission
from adjourn.sessions.session import Session
from adjourn.sessions.turn import SessionEvent

SEQ_MAX = 2**53
KEPT_AT_ONCE = 256

_encode = msgspec.json.Encoder().encode


class Following:
    """Whose events are followed for whom: the session, and a caller who may see it as long as its key may."""

    def __init__(self, connection: ASGIConnection[Any, Any, Any, Any], session_id: str, permission: Permission) -> None:
        self.node = node_of(connection)
        self.tenant = caller_of(connection).tenant
        self.session_id = session_id
        self.followers: Followers = connection.app.state.followers
        self._permission: Permission = permission
        self._authorization = connection.headers.get("authorization", "")

    def follower(self, after: int, wake: asyncio.Event, *, live: bool = True) -> Follower:
        """Not `live`: what there is already, and then it is over."""
        if live:
            return Follower(self.node.sessions.follow(self.tenant, self.session_id, after=after), wake)
        return Follower(self._kept(after), wake)

    async def _kept(self, after: int) -> AsyncGenerator[SessionEvent, None]:
        while found := await self.node.sessions.events(self.tenant, self.session_id, after=after, limit=KEPT_AT_ONCE):
            for event in found:
                yield event
            after = found[-1].seq

    async def may_stay(self) -> bool:
        """A stream may be open for days: what a key may do is asked again and again."""
        try:
            await self.node.keys.check(self._authorization, self._permission)
        except Unavailable:
            return True
        except AdjournError:
            return False
        return True


class SessionStream:
    """One client's, as the ASGI application that answers it. `turn_id`: of that turn alone, and it ends with the turn;
    `begun`: whether some of it was told before; `live`: whether more may come than there is; `on_gone` is called when
    the client hangs up before the end."""

    def __init__(
        self,
        following: Following,
        after: int,
        turn_id: str = "",
        *,
        begun: bool = False,
        live: bool = True,
        on_gone: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._following = following
        self._followers = following.followers
        self._after = after
        self._turn_id = turn_id
        self._live = live
        self._begun = begun
        self._on_gone = on_gone
        self._clock = following.node.clock
        self._wake = asyncio.Event()
        self._gone = False
        self._over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", sse.MEDIA_TYPE.encode())]
        headers += [(name.encode(), value.encode()) for name, value in sse.HEADERS.items()]
        if self._on_gone is not None:  # not at the second heartbeat: a turn costs money until it is stopped
            state = cast("dict[str, object]", scope["state"])
            state[SAID_ALL_IS_GONE] = True
            self._gone = bool(state.get(SAID_ALL))
        self._followers.enter(self._wake)
        listening = asyncio.create_task(self._listen(receive), name="session-listen")
        follower = self._following.follower(self._after, self._wake, live=self._live)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if cast("dict[str, object]", scope).get("is_head"):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self._run(send, follower)
        finally:
            listening.cancel()
            await follower.close()
            self._followers.leave(self._wake)
        if self._gone and not self._over and self._on_gone is not None:
            await self._on_gone()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._wake.set()

    async def _run(self, send: Send, follower: Follower) -> None:
        """Until the turn or the session is over, the client goes, its key ends, it stalls, or the server stops."""
        checked_s = self._clock.monotonic()
        chunk = sse.mark(str(self._after))  # a client that is cut off before the first event knows where it was
        why = ""
        while await self._put(send, chunk) and not self._over and not why:
            self._wake.clear()
            chunk = self._rendered(follower.take())
            if follower.error is not None and not chunk:
                why = "the stream was interrupted"
            elif follower.ended and follower.error is None:
                self._over = True
            elif self._followers.draining:
                why = "the server is stopping"
            elif self._clock.monotonic() - checked_s >= bounds.HEARTBEAT_S:
                checked_s = self._clock.monotonic()
                why = "" if await self._following.may_stay() else "the key was revoked"
            elif not chunk and not await self._woken():
                chunk = sse.mark(str(self._after), "heartbeat")
        if why and not self._gone:
            await self._put(send, sse.retry(bounds.COME_BACK_MS, why))
        if not self._gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _woken(self) -> bool:
        """Whether something has happened before a heartbeat was due."""
        try:
            await asyncio.wait_for(self._wake.wait(), bounds.HEARTBEAT_S)
        except TimeoutError:
            return False
        return True

    def _rendered(self, events: Sequence[SessionEvent]) -> bytes:
        parts: list[bytes] = []
        for event in events:
            if self._over:
                break
            self._after = event.seq
            if not self._turn_id or self._is_of_turn(event):
                parts.append(rendered(event))
                self._over = bool(self._turn_id) and event.type == "turn_ended" and event.turn_id == self._turn_id
        return b"".join(parts)

    def _is_of_turn(self, event: SessionEvent) -> bool:
        """The session may change its status before its turn begins, and does after it has ended."""
        self._begun = self._begun or event.turn_id == self._turn_id
        return event.turn_id == self._turn_id or (event.turn_id is None and not self._begun)

    async def _put(self, send: Send, chunk: bytes) -> bool:
        """False: the client has gone, or takes nothing any more."""
        if self._gone:
            return False
        if not chunk:
            return True
        try:
            async with asyncio.timeout(bounds.STALLED_S_MAX):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            self._gone = True
            return False
        return True


def rendered(event: SessionEvent) -> bytes:
    return sse.message(_encode(SessionEventView.of(event)), id=str(event.seq), event=event.type)


def check_place(session: Session, after: int) -> None:
    """What a running turn has told last is not in the database yet. Raises PositionGone."""
    if after > session.events and session.turn_id is None:
        raise PositionGone(
            f"session {session.id} has {session.events} events, and none of the number {after}; go on after the last, "
            "or begin anew without a place"
        )


def place(last_event_id: str | None, after: int) -> int:
    """Where a client goes on; the header, which browsers send by themselves, wins. Raises BodyInvalid."""
    if last_event_id is None or not last_event_id.strip():
        return after
    text = last_event_id.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and int(text) <= SEQ_MAX):
        raise BodyInvalid(
            f"Last-Event-ID is {text[:40]!r}; give the id of a message of this stream, or leave it away",
            path="Last-Event-ID",
        )
    return int(text)
