"""OpenAPI for the bodies of watched sessions, which their routes read themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)

from adjourn.events import ID_LENGTH_MAX, Modality, SessionType, Transport
from adjourn.sessions.watch import LEASE_MS_MIN

_ATTEMPT = Schema(type=OpenAPIType.INTEGER, minimum=1, default=1, description="Which run of the session, from 1")
_TIME = Schema(type=OpenAPIType.STRING, description="RFC 3339 with an offset; without one, the server's time")
_PART = Schema(type=OpenAPIType.OBJECT, description="As in a completion: docs/reference/events.md")


def _one_of(words: object) -> Schema:
    return Schema(type=OpenAPIType.STRING, enum=list(get_args(words)))


_BODIES: dict[str, dict[str, Schema | Reference]] = {
    "/v1/sessions/begin": {
        "session_id": Schema(type=OpenAPIType.STRING, min_length=1, max_length=ID_LENGTH_MAX),
        "session_type": _one_of(SessionType),
        "input_modality": _one_of(Modality),
        "transport": _one_of(Transport),
        "start_time": _TIME,
        "attempt": _ATTEMPT,
        "lease_ms": Schema(type=OpenAPIType.INTEGER, minimum=LEASE_MS_MIN),
        "user": _PART,
        "usage": _PART,
        "metadata": _PART,
    },
    "/v1/sessions/{session_id}/heartbeat": {"attempt": _ATTEMPT, "usage": _PART},
    "/v1/sessions/{session_id}/complete": {
        "attempt": _ATTEMPT,
        "timestamp": _TIME,
        "end_time": _TIME,
        "duration_ms": Schema(type=OpenAPIType.INTEGER, minimum=0),
        "user": _PART,
        "usage": _PART,
        "outcome": _PART,
        "metadata": _PART,
    },
}


def describe(paths: dict[str, PathItem]) -> None:
    for path, properties in _BODIES.items():
        operation = paths[path].post
        assert operation is not None
        schema = Schema(type=OpenAPIType.OBJECT, properties=properties, additional_properties=False)
        operation.request_body = RequestBody(
            content={"application/json": OpenAPIMediaType(schema=schema)}, required=False
        )
    _with_begun_before(paths["/v1/sessions/begin"].post)


def _with_begun_before(operation: Operation | None) -> None:
    assert operation is not None
    responses = dict(operation.responses or {})
    begun = responses["201"]
    assert isinstance(begun, OpenAPIResponse)
    responses["200"] = replace(begun, description="The same call had begun it before")
    operation.responses = responses
