"""The routes of triggers: put, look at, remove, and the call of a webhook."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from litestar import Request, delete, get, post, put
from litestar.params import FromPath, HeaderParameter

from adjourn.clock import rfc3339
from adjourn.errors import BodyInvalid
from adjourn.http.auth import caller_of, node_of, requires
from adjourn.http.decoding import decode
from adjourn.http.session_views import TurnView
from adjourn.http.watched import IDEMPOTENCY_KEY_LENGTH_MAX
from adjourn.sessions.trigger_rows import Kept
from adjourn.sessions.triggers import FileTrigger, Trigger

AnyRequest = Request[Any, Any, Any]


class TriggerView(msgspec.Struct):
    """A trigger as it was put, and how it stands. `next_at`: when it fires next; null where that is no matter of time.
    `error`: why it could not fire last."""

    trigger: Trigger
    next_at: str | None
    fired_at: str | None
    error: str

    @classmethod
    def of(cls, kept: Kept) -> TriggerView:
        by_time = kept.next_ms is not None and not isinstance(kept.trigger, FileTrigger)
        return cls(
            trigger=kept.trigger,
            next_at=rfc3339(kept.next_ms) if by_time and kept.next_ms is not None else None,
            fired_at=None if kept.seen.fired_ms is None else rfc3339(kept.seen.fired_ms),
            error=kept.seen.error,
        )


class TriggerList(msgspec.Struct):
    triggers: list[TriggerView]


@get(
    "/v1/sessions/{session_id:str}/triggers",
    guards=[requires("sessions:read")],
    summary="When a session starts turns by itself, in the order of the triggers' names",
)
async def list_triggers(request: AnyRequest, session_id: FromPath[str]) -> TriggerList:
    found = await node_of(request).sessions.triggers.list(caller_of(request).tenant, unquote(session_id))
    return TriggerList([TriggerView.of(kept) for kept in found])


@get(
    "/v1/sessions/{session_id:str}/triggers/{name:str}",
    guards=[requires("sessions:read")],
    summary="One trigger",
)
async def get_trigger(request: AnyRequest, session_id: FromPath[str], name: FromPath[str]) -> TriggerView:
    triggers, tenant = node_of(request).sessions.triggers, caller_of(request).tenant
    return TriggerView.of(await triggers.get(tenant, unquote(session_id), unquote(name)))


@put(
    "/v1/sessions/{session_id:str}/triggers/{name:str}",
    guards=[requires("sessions:write")],
    summary="Add a trigger to a session, or change the one of that name",
)
async def put_trigger(request: AnyRequest, session_id: FromPath[str], name: FromPath[str]) -> TriggerView:
    name = unquote(name)
    trigger: Trigger = decode(await request.body(), Trigger)  # type: ignore[assignment]  # a union, which `decode` calls object
    if trigger.name not in ("", name):
        raise BodyInvalid(f"name: it is {trigger.name}, and {name[:64]} in the address; leave it away", path="name")
    kept = await node_of(request).sessions.triggers.put(
        caller_of(request).tenant, unquote(session_id), msgspec.structs.replace(trigger, name=name)
    )
    return TriggerView.of(kept)


@delete(
    "/v1/sessions/{session_id:str}/triggers/{name:str}",
    guards=[requires("sessions:write")],
    summary="Remove a trigger",
)
async def delete_trigger(request: AnyRequest, session_id: FromPath[str], name: FromPath[str]) -> None:
    await node_of(request).sessions.triggers.remove(caller_of(request).tenant, unquote(session_id), unquote(name))


@post(
    "/v1/sessions/{session_id:str}/triggers/{name:str}",
    guards=[requires("sessions:write")],
    status_code=202,
    summary="Call a webhook: begin a turn whose prompt has the body, and do not wait for its end",
)
async def call_trigger(
    request: AnyRequest,
    session_id: FromPath[str],
    name: FromPath[str],
    idempotency_key: Annotated[
        str, HeaderParameter(name="Idempotency-Key", max_length=IDEMPOTENCY_KEY_LENGTH_MAX)
    ] = "",
) -> TurnView:
    turn = await node_of(request).sessions.triggers.call_webhook(
        caller_of(request).tenant,
        unquote(session_id),
        unquote(name),
        await request.body(),
        idempotency_key=idempotency_key,
    )
    return TurnView.of(turn)


TRIGGER_ROUTES = [list_triggers, get_trigger, put_trigger, delete_trigger, call_trigger]
