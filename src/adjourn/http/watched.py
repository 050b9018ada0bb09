"""The routes of watched sessions: begin, heartbeat, complete; look up and list."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, HeaderParameter, QueryParameter

from adjourn.clock import rfc3339
from adjourn.errors import BodyInvalid, NotFound, SessionExists
from adjourn.http.auth import caller_of, node_of, requires
from adjourn.http.decoding import decode
from adjourn.http.session_views import SessionView
from adjourn.node import Node
from adjourn.sessions.turn import Completing
from adjourn.sessions.watch import Begin, Complete, Heartbeat, Key, State, Watched
from adjourn.sessions.watched_answers import Ended
from adjourn.sessions.watched_service import ATTEMPT_MAX
from adjourn.typed import decoder

T = TypeVar("T")

AnyRequest = Request[Any, Any, Any]
PAGE_MAX = 500
IDEMPOTENCY_KEY_LENGTH_MAX = 256


class WatchedView(msgspec.Struct):
    """A watched session. `event_id` is its completion's, which is in the log unless the session is open; `amendment_id`
    is that of a completion that came after it had been abandoned. `expires_at` is by this server's wall clock."""

    session_id: str
    attempt: int
    state: State
    lease_ms: int
    event_id: str
    amendment_id: str | None
    began_at: str
    heard_at: str
    expires_at: str | None
    ended_at: str | None

    @classmethod
    def of(cls, watched: Watched) -> WatchedView:
        return cls(
            session_id=watched.session_id,
            attempt=watched.attempt,
            state=watched.state,
            lease_ms=watched.lease_ms,
            event_id=watched.event_id,
            amendment_id=watched.amendment_id,
            began_at=rfc3339(watched.began_ms),
            heard_at=rfc3339(watched.heard_ms),
            expires_at=rfc3339(watched.heard_ms + watched.lease_ms) if watched.state == "open" else None,
            ended_at=None if watched.ended_ms is None else rfc3339(watched.ended_ms),
        )


class WatchedPage(msgspec.Struct):
    """`next_cursor` is given back as `cursor` for the page after; null on the last."""

    sessions: list[WatchedView]
    next_cursor: str | None


class Heard(msgspec.Struct):
    """The lease lasts `lease_ms` from now."""

    session_id: str
    attempt: int
    lease_ms: int


@post("/v1/sessions/begin", guards=[requires("sessions:write")], summary="Begin a watched session")
async def begin_session(
    request: AnyRequest,
    idempotency_key: Annotated[
        str, HeaderParameter(name="Idempotency-Key", max_length=IDEMPOTENCY_KEY_LENGTH_MAX)
    ] = "",
) -> Response[WatchedView]:
    """201 where it was begun now, 200 where the same call had begun it before."""
    tenant, begin = caller_of(request).tenant, _body(await request.body(), Begin)
    if begin.session_id is not None and await _is_hosted(node_of(request), tenant, begin.session_id):
        raise SessionExists(
            f"session {begin.session_id[:100]} is hosted here, and completes itself; take another id", path="session_id"
        )
    watched, fresh = await node_of(request).watched.begin(tenant, begin, idempotency_key=idempotency_key)
    return Response(WatchedView.of(watched), status_code=201 if fresh else 200)


@post(
    "/v1/sessions/{session_id:str}/heartbeat",
    guards=[requires("sessions:write")],
    status_code=200,
    summary="Keep a session's lease; may bring the usage so far",
)
async def heartbeat_session(request: AnyRequest, session_id: FromPath[str]) -> Heard:
    session_id, heartbeat = unquote(session_id), _body(await request.body(), Heartbeat)
    lease_ms = await node_of(request).watched.heartbeat(caller_of(request).tenant, session_id, heartbeat)
    return Heard(session_id, heartbeat.attempt, lease_ms)


@post(
    "/v1/sessions/{session_id:str}/complete",
    guards=[requires("sessions:write")],
    status_code=200,
    summary="Complete a session, hosted or watched, once",
)
async def complete_session(request: AnyRequest, session_id: FromPath[str]) -> Ended | SessionView:
    session_id, body = unquote(session_id), await request.body()
    node, tenant = node_of(request), caller_of(request).tenant
    if await _is_hosted(node, tenant, session_id):
        return SessionView.of(await node.sessions.complete(tenant, session_id, decode(body, Completing)))
    try:
        wanted = _body(body, Complete)
    except BodyInvalid:
        await node.watched.get(tenant, session_id)  # where there is none, that is what is wrong
        raise
    return await node.watched.complete(tenant, session_id, wanted)


@get("/v1/watched-sessions/{session_id:str}", guards=[requires("sessions:read")], summary="One watched session")
async def get_watched(
    request: AnyRequest, session_id: FromPath[str], attempt: Annotated[int | None, QueryParameter(ge=1)] = None
) -> WatchedView:
    watched = await node_of(request).watched.get(caller_of(request).tenant, unquote(session_id), attempt)
    return WatchedView.of(watched)


@get("/v1/watched-sessions", guards=[requires("sessions:read")], summary="Watched sessions, in the order of their ids")
async def list_watched(
    request: AnyRequest,
    limit: Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)] = 50,
    cursor: Annotated[str, QueryParameter(max_length=2048)] = "",
    session_state: Annotated[State | None, QueryParameter(name="state")] = None,
) -> WatchedPage:
    tenant = caller_of(request).tenant
    after = _place(tenant, cursor) if cursor else None
    found = await node_of(request).watched.list(tenant, state=session_state, after=after, limit=limit)
    following = _cursor(found[-1].key) if len(found) == limit else None
    return WatchedPage([WatchedView.of(watched) for watched in found], following)


async def _is_hosted(node: Node, tenant: str, session_id: str) -> bool:
    try:
        await node.sessions.get(tenant, session_id)
    except NotFound:
        return False
    return True


def _body(body: bytes, kind: type[T]) -> T:
    """Not by the framework, which would write numbers anew: they are kept as they came. No body is an empty one."""
    try:
        return decoder(kind).decode(body or b"{}")
    except msgspec.DecodeError as error:
        fact, _, place = str(error).partition(" - at `$.")
        path = place.rstrip("`")
        fact = f"{path}: {fact}" if path else fact
        raise BodyInvalid(f"{fact}; GET /openapi.json says what is expected", path=path) from None


def _cursor(key: Key) -> str:
    return base64.urlsafe_b64encode(f"{key.attempt} {key.session_id}".encode()).decode()


def _place(tenant: str, cursor: str) -> Key:
    try:
        attempt, _, session_id = base64.urlsafe_b64decode(cursor).decode().partition(" ")
        place = Key(tenant, session_id, int(attempt))
    except (binascii.Error, ValueError):
        place = Key(tenant, "", 0)
    if not 1 <= place.attempt <= ATTEMPT_MAX or "\0" in place.session_id:
        raise BodyInvalid("this cursor was not given by this route; begin without one", path="cursor")
    return place


WATCHED_ROUTES = [begin_session, heartbeat_session, complete_session, get_watched, list_watched]
