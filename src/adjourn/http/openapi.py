"""OpenAPI for what the framework cannot see by itself: the raw route, the key, and that every error is a problem."""

from __future__ import annotations

from dataclasses import replace

from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    PathItem,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)

from adjourn.http import (
    bodies,
    openapi_beacon,
    openapi_hosted,
    openapi_otlp,
    openapi_relay,
    openapi_triggers,
    openapi_watched,
)
from adjourn.http.beacon import SCRIPT_PATH
from adjourn.http.problems import MEDIA_TYPE

_STRING = Schema(type=OpenAPIType.STRING)
_COUNT = Schema(type=OpenAPIType.INTEGER, minimum=0)

_PROBLEM = Schema(
    type=OpenAPIType.OBJECT,
    title="Problem",
    description="RFC 9457: a fact, a remedy, and the path of what is wrong.",
    required=["type", "title", "status", "detail", "code"],
    properties={
        "type": _STRING,
        "title": _STRING,
        "status": Schema(type=OpenAPIType.INTEGER),
        "detail": _STRING,
        "code": _STRING,
        "path": _STRING,
        "retry_after_ms": _COUNT,
    },
)

_EVENT = Schema(
    type=OpenAPIType.OBJECT,
    title="CompletionEvent",
    description="Schema v1.2; only session.session_id is required. docs/reference/events.md has every field.",
    required=["session"],
    properties={
        "event_type": Schema(type=OpenAPIType.STRING, enum=["session.completed", "session.amended"]),
        "event_id": _STRING,
        "timestamp": Schema(type=OpenAPIType.STRING, description="RFC 3339 with an offset"),
        "session": Schema(type=OpenAPIType.OBJECT, required=["session_id"], properties={"session_id": _STRING}),
        "user": Schema(type=OpenAPIType.OBJECT),
        "usage": Schema(type=OpenAPIType.OBJECT),
        "outcome": Schema(type=OpenAPIType.OBJECT),
        "metadata": Schema(type=OpenAPIType.OBJECT),
        "amends": _STRING,
    },
)

_RESULT = Schema(
    type=OpenAPIType.OBJECT,
    required=["status"],
    properties={
        "status": Schema(type=OpenAPIType.STRING, enum=["accepted", "duplicate", "conflict", "invalid"]),
        "event_id": Schema(one_of=[_STRING, Schema(type=OpenAPIType.NULL)]),
        **dict.fromkeys(("code", "path", "message", "remedy", "quarantine_id"), _STRING),
    },
)

_ANSWER = Schema(
    type=OpenAPIType.OBJECT,
    title="Answer",
    required=["accepted", "duplicate", "conflict", "invalid", "results"],
    properties={
        **dict.fromkeys(("accepted", "duplicate", "conflict", "invalid"), _COUNT),
        "results": Schema(type=OpenAPIType.ARRAY, items=_RESULT),
    },
)

SCHEMAS: dict[str, Schema] = {"Problem": _PROBLEM, "CompletionEvent": _EVENT, "Answer": _ANSWER}

COMPONENTS = Components(
    security_schemes={"key": SecurityScheme(type="http", scheme="bearer", description="An API key, adj_…")},
)


def complete(api: OpenAPI) -> None:
    """Add what is missing to the document that the framework made of the routes."""
    assert api.paths is not None
    assert api.components is not None
    # The framework keeps of the components that it is given all but these.
    api.components.schemas = {**(api.components.schemas or {}), **SCHEMAS, **openapi_hosted.schemas()}
    api.paths["/v1/events"] = PathItem(post=_post_events())
    openapi_watched.describe(api.paths)
    openapi_hosted.describe(api.paths)
    openapi_triggers.describe(api.paths)
    openapi_beacon.describe(api.paths, _problem_response)
    openapi_relay.describe(api.paths, _problem_response, _RESULT)
    for path, item in api.paths.items():
        for operation in (item.get, item.post, item.put, item.patch, item.delete):
            if operation is not None:
                _with_problems(operation, open_to_all=path in ("/healthz", "/readyz", SCRIPT_PATH))
    _with_not_ready(api.paths["/readyz"].get)
    openapi_otlp.describe(api.paths)


def _with_problems(operation: Operation, *, open_to_all: bool) -> None:
    """The framework documents its own error shape; ours replaces it."""
    responses = dict(operation.responses or {})
    statuses = [status for status in responses if status.startswith(("4", "5"))]
    wanted = [] if open_to_all else ["400", "401", "403", "404", "405", "409", "422", "429", "503"]
    for status in sorted({*statuses, *wanted}):  # sorted: the document is the same bytes in every process
        responses[status] = _problem_response(status)
    if open_to_all:
        operation.security = []
    operation.responses = responses


def _with_not_ready(operation: Operation | None) -> None:
    assert operation is not None
    responses = dict(operation.responses or {})
    ready = responses["200"]
    assert isinstance(ready, OpenAPIResponse)
    responses["503"] = replace(ready, description="Not now: `detail` says why")
    operation.responses = responses


def _problem_response(status: str) -> OpenAPIResponse:
    headers: dict[str, OpenAPIHeader | Reference] = {}
    if status in ("429", "503", "507"):
        headers["Retry-After"] = OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description="Seconds.")
    return OpenAPIResponse(
        description="A problem",
        headers=headers or None,
        content={MEDIA_TYPE: OpenAPIMediaType(schema=Reference(ref="#/components/schemas/Problem"))},
    )


def _post_events() -> Operation:
    one = Reference(ref="#/components/schemas/CompletionEvent")
    many = Schema(type=OpenAPIType.ARRAY, items=one)
    content = {
        bodies.JSON: OpenAPIMediaType(schema=Schema(one_of=[one, many])),
        bodies.NDJSON: OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING)),
        bodies.CLOUD_EVENT: OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT)),
        bodies.CLOUD_BATCH: OpenAPIMediaType(
            schema=Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT))
        ),
    }
    answered = OpenAPIResponse(
        description="Every event is durable: in the log, or in quarantine. One result each, in order.",
        content={bodies.JSON: OpenAPIMediaType(schema=Reference(ref="#/components/schemas/Answer"))},
    )
    responses: dict[str, OpenAPIResponse | Reference] = {"202": answered}
    for status in ("408", "413", "415", "507"):
        responses[status] = _problem_response(status)
    return Operation(
        operation_id="PostEvents",
        summary="Send completion events: one, an array, NDJSON or CloudEvents; gzip and zstd are read",
        parameters=[
            Parameter("Adjourn-Producer", "header", Schema(type=OpenAPIType.STRING, max_length=128), required=False),
            Parameter("Adjourn-Sequence", "header", Schema(type=OpenAPIType.INTEGER, minimum=1), required=False),
        ],
        request_body=RequestBody(content=content, required=True),
        responses=responses,
    )
