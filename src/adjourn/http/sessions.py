"""The routes of hosted sessions: make, look up, change, end, delete. Their turns are in `messages.py`."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote, unquote

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.types import ASGIApp

from adjourn.errors import NotFound, UpgradeRequired
from adjourn.http import sse
from adjourn.http.auth import caller_of, node_of, requires
from adjourn.http.decoding import decode
from adjourn.http.messages import MESSAGE_ROUTES
from adjourn.http.rates import rates_of
from adjourn.http.session_events import SEQ_MAX, Following, SessionStream, check_place, place
from adjourn.http.session_list import get_limits, get_stats, list_sessions
from adjourn.http.session_views import EventPage, SessionEventView, SessionView, SnapshotView
from adjourn.http.watched import IDEMPOTENCY_KEY_LENGTH_MAX
from adjourn.http.whole import Body, encode
from adjourn.sessions.session import NewSession, Patch, Session
from adjourn.sessions.turn import Amending

AnyRequest = Request[Any, Any, Any]
EVENTS_PAGE_MAX = 500


class Terminate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`reason` is told with the change of status."""

    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""


@post("/v1/sessions", guards=[requires("sessions:write")], summary="Begin a hosted session")
async def create_session(
    request: AnyRequest,
    idempotency_key: Annotated[
        str, HeaderParameter(name="Idempotency-Key", max_length=IDEMPOTENCY_KEY_LENGTH_MAX)
    ] = "",
) -> Response[SessionView]:
    """201 where it was made now, 200 where the same call had made it before."""
    new = decode(await request.body(), NewSession)
    rates_of(request).admit_user(caller_of(request), new.user_id)
    session, fresh = await node_of(request).sessions.create(
        caller_of(request).tenant, new, idempotency_key=idempotency_key
    )
    return _made(session, fresh=fresh)


def _made(session: Session, *, fresh: bool) -> Response[SessionView]:
    headers = {"location": f"/v1/sessions/{quote(session.id, safe='')}"}
    return Response(SessionView.of(session), status_code=201 if fresh else 200, headers=headers)


@get("/v1/sessions/{session_id:str}", guards=[requires("sessions:read")], summary="One hosted session")
async def get_session(request: AnyRequest, session_id: FromPath[str]) -> SessionView:
    session_id = unquote(session_id)
    node, tenant = node_of(request), caller_of(request).tenant
    try:
        return SessionView.of(await node.sessions.get(tenant, session_id))
    except NotFound as error:
        try:
            await node.watched.get(tenant, session_id)
        except NotFound:
            raise error from None
    raise NotFound(f"session {session_id[:100]} is watched, not hosted here; GET /v1/watched-sessions/{{id}} has it")


@patch(
    "/v1/sessions/{session_id:str}",
    guards=[requires("sessions:write")],
    summary="Change a session, by the revision that was seen; what is not given stays",
)
async def patch_session(request: AnyRequest, session_id: FromPath[str]) -> SessionView:
    changed = decode(await request.body(), Patch)
    session = await node_of(request).sessions.patch(caller_of(request).tenant, unquote(session_id), changed)
    return SessionView.of(session)


@delete(
    "/v1/sessions/{session_id:str}",
    guards=[requires("sessions:write")],
    summary="Delete a session that has ended, with its conversation; one that has not, with force",
)
async def delete_session(
    request: AnyRequest, session_id: FromPath[str], force: Annotated[bool, QueryParameter()] = False
) -> None:
    await node_of(request).sessions.delete(caller_of(request).tenant, unquote(session_id), force=force)


@post(
    "/v1/sessions/{session_id:str}/interrupt",
    guards=[requires("sessions:write")],
    status_code=200,
    summary="Ask the turn that runs to end soon",
)
async def interrupt_session(request: AnyRequest, session_id: FromPath[str]) -> SessionView:
    session = await node_of(request).sessions.interrupt(caller_of(request).tenant, unquote(session_id))
    return SessionView.of(session)


@post(
    "/v1/sessions/{session_id:str}/resume",
    guards=[requires("sessions:write")],
    status_code=200,
    summary="Make an idle session active; go on with one that has ended, in a new one",
)
async def resume_session(request: AnyRequest, session_id: FromPath[str]) -> Response[SessionView]:
    """200 where it is the same session, 201 where a new one goes on with it."""
    session_id = unquote(session_id)
    session = await node_of(request).sessions.resume(caller_of(request).tenant, session_id)
    return _made(session, fresh=session.id != session_id)


@post(
    "/v1/sessions/{session_id:str}/terminate",
    guards=[requires("sessions:write")],
    status_code=200,
    summary="End a session now, as terminated by its user",
)
async def terminate_session(request: AnyRequest, session_id: FromPath[str]) -> SessionView:
    wanted = decode(await request.body(), Terminate)
    session = await node_of(request).sessions.terminate(
        caller_of(request).tenant, unquote(session_id), reason=wanted.reason
    )
    return SessionView.of(session)


@post(
    "/v1/sessions/{session_id:str}/snapshot",
    guards=[requires("sessions:write")],
    summary="Keep state, position in the conversation and workspace as they are",
)
async def snapshot_session(request: AnyRequest, session_id: FromPath[str]) -> SnapshotView:
    snapshot = await node_of(request).sessions.snapshot(caller_of(request).tenant, unquote(session_id))
    return SnapshotView.of(snapshot)


@post(
    "/v1/sessions/{session_id:str}/amend",
    guards=[requires("sessions:write")],
    status_code=200,
    summary="Correct the completion of a session that has ended",
)
async def amend_session(request: AnyRequest, session_id: FromPath[str]) -> SessionView:
    wanted = decode(await request.body(), Amending)
    session = await node_of(request).sessions.amend(caller_of(request).tenant, unquote(session_id), wanted)
    return SessionView.of(session)


@get(
    "/v1/sessions/{session_id:str}/events",
    guards=[requires("sessions:read")],
    summary="What happened in a session: a page, or server-sent events where Accept asks for them",
)
async def get_session_events(
    request: AnyRequest,
    session_id: FromPath[str],
    after: Annotated[int, QueryParameter(ge=0, le=SEQ_MAX)] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=EVENTS_PAGE_MAX)] = 100,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=64)] = None,
) -> ASGIApp:
    session_id = unquote(session_id)
    node, tenant = node_of(request), caller_of(request).tenant
    if sse.MEDIA_TYPE not in request.headers.get("accept", ""):
        events = await node.sessions.events(tenant, session_id, after=after, limit=limit)
        page = EventPage([SessionEventView.of(event) for event in events], events[-1].seq if events else after)
        return Body(encode(page))
    after = place(last_event_id, after)
    session = await node.sessions.get(tenant, session_id)
    check_place(session, after)
    if session.ended_ms is not None and after == session.events:
        return Body(b"", status=204)  # browsers come back after the end of a stream; this alone tells them not to
    following = Following(request, session_id, "sessions:read")
    following.followers.admit()
    return SessionStream(following, after)


@get(
    "/v1/sessions/{session_id:str}/ws",
    guards=[requires("sessions:read")],
    summary="A WebSocket: the session's events one way, messages and commands the other",
)
async def get_socket(request: AnyRequest, session_id: FromPath[str]) -> None:
    """Whoever comes here has not asked for one: `websocket.py` answers those who do."""
    raise UpgradeRequired("this is a WebSocket; connect with a client for those, which sends Upgrade: websocket")


SESSION_ROUTES = [
    list_sessions,
    get_stats,
    get_limits,
    create_session,
    get_session,
    patch_session,
    delete_session,
    interrupt_session,
    resume_session,
    terminate_session,
    snapshot_session,
    amend_session,
    get_session_events,
    get_socket,
    *MESSAGE_ROUTES,
]
