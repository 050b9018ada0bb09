"""One client's WebSocket: what it asks is done in order, and what happens in its session is told, at its pace."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from adjourn.errors import AdjournError, Unavailable
from adjourn.eventlog import get_logger
from adjourn.http import stream as bounds
from adjourn.http.decoding import decode
from adjourn.http.following import Follower, Followers
from adjourn.http.problems import ProblemDetails, problem
from adjourn.http.rates import Rates
from adjourn.http.raw import Receive, Send, told
from adjourn.http.session_events import SEQ_MAX, check_place
from adjourn.http.session_views import Appended, SessionEventView, TurnView
from adjourn.http.stopping import Stop
from adjourn.http.watched import IDEMPOTENCY_KEY_LENGTH_MAX
from adjourn.node import Node
from adjourn.sessions.session import Session
from adjourn.sessions.turn import Completing, Message

_log = get_logger("adjourn.http")
_encode = msgspec.json.Encoder().encode

NORMAL, GOING_AWAY, POLICY = 1000, 1001, 1008
"""RFC 6455, 7.4.1."""

Ref = Annotated[str, Meta(max_length=64)]
"""The client's own name for what it asks; the answer has it too."""


# --- what clients send ------------------------------------------------------------------------------------------------


class Follow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="follow", kw_only=True):
    """Tell what happened after `after`, and what happens from then on. Without it: from now on."""

    ref: Ref = ""
    after: Annotated[int, Meta(ge=0, le=SEQ_MAX)] | None = None


class Say(Message, frozen=True, forbid_unknown_fields=True, tag="message", kw_only=True):
    """A message, as `POST …/messages` takes it."""

    ref: Ref = ""
    idempotency_key: Annotated[str, Meta(max_length=IDEMPOTENCY_KEY_LENGTH_MAX)] = ""

    @property
    def message(self) -> Message:
        return Message(**{name: getattr(self, name) for name in Message.__struct_fields__})


class Interrupt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="interrupt", kw_only=True):
    ref: Ref = ""


class Complete(Completing, frozen=True, forbid_unknown_fields=True, tag="complete", kw_only=True):
    ref: Ref = ""

    @property
    def completing(self) -> Completing:
        return Completing(**{name: getattr(self, name) for name in Completing.__struct_fields__})


class Terminate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="terminate", kw_only=True):
    ref: Ref = ""
    reason: Annotated[str, Meta(max_length=256)] = ""


Command = Follow | Say | Interrupt | Complete | Terminate


# --- what it answers; events are `SessionEventView` -------------------------------------------------------------------


class Accepted(msgspec.Struct, tag="accepted", omit_defaults=True, kw_only=True):
    """What `ref` asked for is done, or under way: `turn` is that of a message, `appended` one without."""

    ref: str = ""
    turn: TurnView | None = None
    appended: Appended | None = None


class Refused(msgspec.Struct, tag="refused", omit_defaults=True, kw_only=True):
    """What `ref` asked for is not done."""

    ref: str = ""
    problem: ProblemDetails


class Socket:
    """Opened already."""

    def __init__(
        self,
        node: Node,
        followers: Followers,
        rates: Rates,
        tenant: str,
        session_id: str,
        authorization: str,
        receive: Receive,
        send: Send,
    ) -> None:
        self._node = node
        self._followers = followers
        self._rates = rates
        self._tenant = tenant
        self._session_id = session_id
        self._authorization = authorization
        self._receive = receive
        self._send = send
        self._wake = asyncio.Event()
        self._follower: Follower | None = None
        self._stops: list[str] = []
        """Turns that end when the client hangs up."""

    async def run(self) -> None:
        """Until the client goes, the session has ended and all is told, the key ends, or the server stops."""
        try:
            self._followers.enter(self._wake)
        except Unavailable as error:
            await self._close(GOING_AWAY, error.message)
            return
        try:
            await self._both()
        finally:
            if self._follower is not None:
                await self._follower.close()
            self._followers.leave(self._wake)
        if not self._followers.draining:
            for turn_id in self._stops:
                await Stop(self._node, self._followers, self._tenant, self._session_id, turn_id)()

    async def _both(self) -> None:
        """Tell and hear, until either is over."""
        tasks = [asyncio.create_task(self._tell(), name="socket-tell"), asyncio.create_task(self._hear())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, OSError | TimeoutError):  # it has gone, or stalled
                raise error

    # --- telling -------------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        checked_s = self._node.clock.monotonic()
        while not self._followers.draining:
            self._wake.clear()
            if (follower := self._follower) is not None:
                ended = follower.ended
                for event in follower.take():
                    await self._put(SessionEventView.of(event))
                if ended and follower is self._follower:
                    await self._end(follower.error)
                    return
            if self._node.clock.monotonic() - checked_s >= bounds.HEARTBEAT_S:
                checked_s = self._node.clock.monotonic()
                if not await self._may_stay():
                    await self._close(POLICY, "the key was revoked")
                    return
            try:
                await asyncio.wait_for(self._wake.wait(), bounds.HEARTBEAT_S)
            except TimeoutError:
                continue

    async def _end(self, error: AdjournError | None) -> None:
        if error is None:
            await self._close(NORMAL, "the session has ended")
        else:
            await self._close(GOING_AWAY, error.message)

    async def _put(self, frame: msgspec.Struct) -> None:
        """Raises TimeoutError where the client takes nothing any more."""
        async with asyncio.timeout(bounds.STALLED_S_MAX):
            await self._send({"type": "websocket.send", "text": _encode(frame).decode()})

    async def _close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason[:120]})

    async def _may_stay(self) -> bool:
        try:
            await self._node.keys.check(self._authorization, "sessions:read")
        except Unavailable:
            return True
        except AdjournError:
            return False
        return True

    # --- hearing -------------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        """One command after another: what comes meanwhile waits at the client."""
        while (received := await self._receive())["type"] == "websocket.receive":
            raw: str | bytes = received.get("text") or received.get("bytes") or ""
            try:
                command: Any = decode(raw, Command)
                accepted = await self._obey(command)
            except Exception as error:
                await self._put(Refused(ref=_ref_of(raw), problem=problem(told(error, "websocket"))))
            else:
                await self._put(accepted)

    async def _obey(self, command: Command) -> Accepted:
        following = isinstance(command, Follow)
        key = await self._node.keys.check(self._authorization, "sessions:read" if following else "sessions:write")
        await self._rates.admit(self._node, key, self._session_id)
        if isinstance(command, Follow):
            await self._follow(command.after)
            return Accepted(ref=command.ref)
        if self._follower is None:
            await self._follow(None)
        if isinstance(command, Say):
            return await self._say(command)
        sessions, tenant, session_id = self._node.sessions, self._tenant, self._session_id
        if isinstance(command, Interrupt):
            await sessions.interrupt(tenant, session_id)
        elif isinstance(command, Complete):
            await sessions.complete(tenant, session_id, command.completing)
        else:
            await sessions.terminate(tenant, session_id, reason=command.reason)
        return Accepted(ref=command.ref)

    async def _say(self, say: Say) -> Accepted:
        sessions, message = self._node.sessions, say.message
        if not message.run:
            appended = await sessions.append(self._tenant, self._session_id, message)
            return Accepted(ref=say.ref, appended=Appended(*appended))
        turn = await sessions.begin(self._tenant, self._session_id, message, idempotency_key=say.idempotency_key)
        wish = message.on_disconnect or (await self._session()).described.on_disconnect
        if wish == "stop":
            self._stops = [*self._stops[-15:], turn.turn_id]
        return Accepted(ref=say.ref, turn=TurnView.of(turn))

    async def _follow(self, after: int | None) -> None:
        """Raises PositionGone."""
        session = await self._session()
        last = session.events
        if after is not None:
            check_place(session, after)
        old, self._follower = self._follower, None
        if old is not None:
            await old.close()
        events = self._node.sessions.follow(self._tenant, self._session_id, after=last if after is None else after)
        self._follower = Follower(events, self._wake)
        self._wake.set()

    async def _session(self) -> Session:
        return await self._node.sessions.get(self._tenant, self._session_id)


class _Named(msgspec.Struct):
    ref: str = ""


_decode_ref = msgspec.json.Decoder(_Named).decode


def _ref_of(raw: str | bytes) -> str:
    """Of what was refused, where that much of it can be read."""
    try:
        return _decode_ref(raw).ref[:64]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
