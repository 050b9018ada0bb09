"""The routes other than the hot one: look up, list, retry, manage keys, measure."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from adjourn.completion import quarantine
from adjourn.completion.quarantine import State
from adjourn.completion.results import Result
from adjourn.delivery.whereabouts import whereabouts
from adjourn.errors import Forbidden, NotFound
from adjourn.http.auth import caller_of, node_of, requires
from adjourn.http.deliveries import DELIVERY_ROUTES
from adjourn.http.metrics import PROMETHEUS_TYPE, prometheus_text, summary
from adjourn.http.rates import rates_of
from adjourn.http.readiness import Readiness
from adjourn.http.sessions import SESSION_ROUTES
from adjourn.http.stream import get_stream
from adjourn.http.triggers import TRIGGER_ROUTES
from adjourn.http.views import (
    CreatedKey,
    EventView,
    KeyView,
    Metrics,
    NewKey,
    Probe,
    QuarantinePage,
    QuarantineView,
)
from adjourn.http.watched import WATCHED_ROUTES

AnyRequest = Request[Any, Any, Any]
PAGE_MAX = 500


@get("/healthz", opt={"open": True}, summary="Is the process alive")
async def healthz() -> Probe:
    return Probe("ok")


@get("/readyz", opt={"open": True}, summary="Does it take events now", raises=[])
async def readyz(request: AnyRequest) -> Response[Probe]:
    state = request.app.state
    if state.draining:
        return Response(Probe("draining", "this server is stopping; send to another node"), status_code=503)
    if "readiness" not in state:
        state.readiness = Readiness(node_of(request).database)
    if trouble := await state.readiness.trouble():
        return Response(Probe("unavailable", trouble), status_code=503)
    return Response(Probe("ok"), status_code=200)


@get("/v1/events/{event_id:str}", guards=[requires("events:read")], summary="One event by its id")
async def get_event(request: AnyRequest, event_id: FromPath[str]) -> EventView:
    key = caller_of(request)
    event_id = unquote(event_id)  # still quoted, because it may hold slashes
    event = await node_of(request).log.find(key.tenant, event_id)
    if event is None:
        raise NotFound(f"there is no event {event_id[:100]} for tenant {key.tenant}; check the id, or ask quarantine")
    places = await node_of(request).database.read(whereabouts, event.partition, event.offset)
    return EventView.of(event, places)


@get("/v1/quarantine", guards=[requires("quarantine:read")], summary="What was refused, newest first")
async def list_quarantine(
    request: AnyRequest,
    limit: Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)] = 50,
    cursor: Annotated[str, QueryParameter(max_length=64)] = "",
    entry_state: Annotated[State | None, QueryParameter(name="state")] = None,
) -> QuarantinePage:
    entries = await node_of(request).database.read(
        quarantine.select, caller_of(request).tenant, state=entry_state, before=cursor, limit=limit
    )
    following = entries[-1].id if len(entries) == limit else None
    return QuarantinePage([QuarantineView.of(entry) for entry in entries], following)


@get("/v1/quarantine/{entry_id:str}", guards=[requires("quarantine:read")], summary="One refused body, whole")
async def get_quarantined(request: AnyRequest, entry_id: FromPath[str]) -> QuarantineView:
    tenant = caller_of(request).tenant
    return QuarantineView.of(await node_of(request).database.read(quarantine.show, tenant, entry_id))


@post(
    "/v1/quarantine/{entry_id:str}/retry",
    guards=[requires("quarantine:write")],
    status_code=200,
    summary="Send a refused body again, under the settings of now",
)
async def retry_quarantined(request: AnyRequest, entry_id: FromPath[str]) -> Result:
    return await node_of(request).ingest.retry(caller_of(request).tenant, entry_id)


@get("/v1/keys", guards=[requires("keys:read")], summary="The tenant's keys, without their secrets")
async def list_keys(request: AnyRequest) -> list[KeyView]:
    return [KeyView.of(key) for key in await node_of(request).keys.list(caller_of(request).tenant)]


@post("/v1/keys", guards=[requires("keys:write")], summary="Make a key; its secret is shown this once")
async def create_key(request: AnyRequest, data: JSONBody[NewKey]) -> CreatedKey:
    if data.role == "relay":  # it writes for every tenant
        raise Forbidden("a relay's key is made in the database itself: adjourn keys create --role relay")
    key, secret = await node_of(request).keys.create(tenant=caller_of(request).tenant, name=data.name, role=data.role)
    return CreatedKey(KeyView.of(key), secret)


@delete("/v1/keys/{key_id:str}", guards=[requires("keys:write")], summary="Revoke a key")
async def revoke_key(request: AnyRequest, key_id: FromPath[str]) -> None:
    await node_of(request).keys.revoke(key_id, caller_of(request).tenant)


@get("/v1/metrics", guards=[requires("metrics:read")], summary="Counts and latencies since the start")
async def get_metrics(request: AnyRequest) -> Metrics:
    return await summary(node_of(request))


@get("/metrics", guards=[requires("metrics:read")], media_type="text/plain", summary="The same, for Prometheus")
async def get_prometheus(request: AnyRequest) -> Response[bytes]:
    text = await prometheus_text(node_of(request), request.app.state.streams, rates_of(request))
    return Response(text, media_type=PROMETHEUS_TYPE)


ROUTES = [
    healthz,
    readyz,
    get_event,
    list_quarantine,
    get_quarantined,
    retry_quarantined,
    list_keys,
    create_key,
    revoke_key,
    get_metrics,
    get_prometheus,
    get_stream,
    *DELIVERY_ROUTES,
    *SESSION_ROUTES,
    *TRIGGER_ROUTES,
    *WATCHED_ROUTES,
]
