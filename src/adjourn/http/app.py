"""The ASGI application: the hot route as a raw handler, everything else on Litestar."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import OpenAPI

from adjourn.errors import AdjournError, BodyInvalid, BodyTooLarge, MethodNotAllowed, NotFound
from adjourn.eventlog import get_logger
from adjourn.http import openapi
from adjourn.http.beacon import BeaconEndpoint
from adjourn.http.events import EVENTS_PATH, EventsEndpoint
from adjourn.http.following import Followers
from adjourn.http.messages import messages_reader
from adjourn.http.otlp import TRACES_PATH, TracesEndpoint
from adjourn.http.problems import MEDIA_TYPE, ProblemDetails, headers_of, problem
from adjourn.http.rates import Rates
from adjourn.http.raw import DEFECT, Receive, Scope, Send, refuse
from adjourn.http.relay import RELAY_PATH, RelayEndpoint
from adjourn.http.reloading import Reload
from adjourn.http.routes import ROUTES
from adjourn.http.stream import Streams
from adjourn.http.websocket import Sockets
from adjourn.node import Node
from adjourn.version import __version__

BODY_BYTES_MAX = 1024 * 1024
"""On every route but that one."""

_log = get_logger("adjourn.http")


class Application:
    """`POST /v1/events` does not pass through the framework: it is most of all traffic."""

    def __init__(self, node: Node, reload: Reload | None = None) -> None:
        """`reload`: read the settings again and deliver by them; None where nothing can be read again."""
        self.events = EventsEndpoint(
            node.ingest, node.keys, body_bytes_max=node.settings.server.body_mb_max * 1_000_000
        )
        self.relay = RelayEndpoint(node.ingest, node.keys, body_bytes_max=node.settings.server.body_mb_max * 1_000_000)
        self.beacon = BeaconEndpoint(node.ingest, node.keys, node.settings.server.beacon_origins)
        self.traces = TracesEndpoint(
            node.traces, node.keys, body_bytes_max=node.settings.server.body_mb_max * 1_000_000
        )
        self.framework = litestar(node, reload)
        self.framework.state.rates = Rates(node.settings.server, node.clock)
        self.framework.state.messages_reader = messages_reader(node.settings.server.body_mb_max * 1_000_000)
        self._sockets = Sockets(node, self.framework.state.followers, self.framework.state.rates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path in (EVENTS_PATH, RELAY_PATH):
            if scope["method"] == "POST":
                await (self.events if path == EVENTS_PATH else self.relay)(scope, receive, send)
            else:
                await refuse(send, _not_allowed(path), [(b"allow", b"POST")])
        elif path in self.beacon.paths:
            await self.beacon(scope, receive, send)
        elif path == TRACES_PATH:
            await self.traces(scope, receive, send)
        elif "\0" in path or b"%00" in scope["query_string"]:
            # PostgreSQL cannot hold it, so nothing of that name exists anywhere.
            await refuse(send, NotFound("the address holds a NUL character, and no name here does; take it out"))
        else:
            await self.framework(cast(Any, _routed(scope)), cast(Any, receive), cast(Any, send))

    def drain(self) -> None:
        """From now on nothing new is taken: probes say so, and senders are told to come back."""
        self.events.draining = self.relay.draining = self.beacon.draining = self.traces.draining = True
        self.framework.state.draining = True
        self.framework.state.streams.drain()
        self.framework.state.followers.drain()


def _routed(scope: Scope) -> Scope:
    """What the framework must not interpret by itself, taken out of its sight."""
    if scope["method"] == "OPTIONS":
        # It would answer without a key. No route takes OPTIONS.
        return {**scope, "method": "UNKNOWN"}
    if scope["method"] == "HEAD":
        # As GET; the server leaves the body away.
        scope = {**scope, "method": "GET", "is_head": True}
    if scope["path"].startswith((f"{EVENTS_PATH}/", "/v1/sessions/", "/v1/watched-sessions/")):
        # An event's or a session's id may hold slashes: it stays quoted until the route has been found.
        return {**scope, "path": scope["raw_path"].decode("latin-1")}
    return scope


def litestar(node: Node, reload: Reload | None = None) -> Litestar:
    app = Litestar(
        route_handlers=[*ROUTES, openapi_document],
        openapi_config=None,
        exception_handlers={
            AdjournError: _adjourn_error,
            HTTPException: _http_error,
            RecursionError: _too_deep,
            Exception: _defect,
        },
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
    )
    app.state.node = node
    app.state.draining = False
    app.state.streams = Streams(node)
    app.state.followers = Followers(app.state.streams)
    app.state.reload = reload
    app.state.openapi = msgspec.json.encode(described().to_schema())
    return app


def described() -> OpenAPI:
    """The OpenAPI document. From an application of its own: the framework serves it only with more routes than one."""
    documented = Litestar(
        route_handlers=ROUTES,
        openapi_config=OpenAPIConfig(
            title="Adjourn",
            version=__version__,
            description="Sessions of AI agents, completed exactly once.",
            components=[openapi.COMPONENTS],
            security=[{"key": []}],
        ),
        logging_config=None,
    )
    openapi.complete(documented.openapi_schema)
    return documented.openapi_schema


@get("/openapi.json", opt={"open": True}, include_in_schema=False)
async def openapi_document(request: Request[Any, Any, Any]) -> Response[bytes]:
    return Response(request.app.state.openapi, media_type="application/vnd.oai.openapi+json")


def _adjourn_error(request: Request[Any, Any, Any], error: AdjournError) -> Response[ProblemDetails]:
    details = problem(error)
    return Response(details, status_code=details.status, headers=headers_of(error), media_type=MEDIA_TYPE)


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[ProblemDetails]:
    """What the framework refuses, in the same words as everything else."""
    if isinstance(error, NotFoundException):
        return _adjourn_error(
            request, NotFound(f"there is no route {request.scope['path'][:200]}; GET /openapi.json lists them")
        )
    if isinstance(error, MethodNotAllowedException):
        allow = [method for method in (error.headers or {}).get("allow", "").split(", ") if method != "OPTIONS"]
        allow += ["HEAD"] if "GET" in allow and "HEAD" not in allow else []
        response = _adjourn_error(request, _not_allowed(request.url.path))
        response.headers["allow"] = ", ".join(sorted(allow))
        return response
    if error.status_code == 413:
        return _adjourn_error(
            request,
            BodyTooLarge(f"the body is larger than {BODY_BYTES_MAX} bytes, all that this route takes; shorten it"),
        )
    if isinstance(error, ClientException):
        refused = BodyInvalid(f"{_fact_of(error)}; GET /openapi.json says what is expected", path=_path_of(error))
        details = problem(refused)
        return Response(details, status_code=details.status, media_type=MEDIA_TYPE)
    return _defect(request, error)


def _too_deep(request: Request[Any, Any, Any], error: RecursionError) -> Response[ProblemDetails]:
    """Raised by the decoder of bodies, on thousands of brackets."""
    return _adjourn_error(request, BodyInvalid("the body nests too deep; GET /openapi.json says what is expected"))


def _fact_of(error: ClientException) -> str:
    said = str(_first_of(error).get("message", ""))
    return f"{_path_of(error) or 'the body'}: {said}" if said else error.detail


def _path_of(error: ClientException) -> str:
    name = str(_first_of(error).get("key", ""))
    # The framework's `state` is another thing, so the parameter has another name inside.
    return "state" if name in ("entry_state", "session_state") else name


def _first_of(error: ClientException) -> dict[str, object]:
    extra: Any = error.extra
    if isinstance(extra, list) and extra and isinstance(extra[0], dict):
        return cast("dict[str, object]", extra[0])
    return {}


def _defect(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemDetails]:
    _log.exception("request_failed", path=request.url.path)
    details = problem(AdjournError(DEFECT))
    return Response(details, status_code=500, media_type=MEDIA_TYPE)


def _not_allowed(path: str) -> MethodNotAllowed:
    return MethodNotAllowed(
        f"this method is not allowed on {path[:200]}; the Allow header and GET /openapi.json say which are"
    )
