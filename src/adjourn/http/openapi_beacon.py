"""OpenAPI for the browser's door, whose routes do not pass through the framework."""

from __future__ import annotations

from collections.abc import Callable

from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)

from adjourn.http import bodies
from adjourn.http.beacon import BEACON_PATH, SCRIPT_PATH

_REFUSALS = ("408", "413", "415", "507")
"""Beside those that every route has."""
_TEXT = Schema(type=OpenAPIType.STRING)


def describe(paths: dict[str, PathItem], refused: Callable[[str], OpenAPIResponse]) -> None:
    """`refused` makes the answer that is a problem, of its status."""
    event = OpenAPIMediaType(schema=Reference(ref="#/components/schemas/CompletionEvent"))
    result = Schema(
        type=OpenAPIType.OBJECT,
        required=["status", "event_id"],
        properties={"status": Schema(type=OpenAPIType.STRING, enum=["accepted", "duplicate"]), "event_id": _TEXT},
    )
    taken = OpenAPIResponse(description="The event is durable", content={bodies.JSON: OpenAPIMediaType(schema=result)})
    paths[BEACON_PATH] = PathItem(
        post=Operation(
            operation_id="PostBeacon",
            summary="One completion event from a browser, with a public key in its member `key` or in the query",
            parameters=[Parameter("key", "query", _TEXT, required=False)],
            request_body=RequestBody(content={"text/plain": event, bodies.JSON: event}, required=True),
            responses={"202": taken, **{status: refused(status) for status in _REFUSALS}},
            security=[],
        )
    )
    script = OpenAPIResponse(
        description="The script that sends it", content={"text/javascript": OpenAPIMediaType(schema=_TEXT)}
    )
    paths[SCRIPT_PATH] = PathItem(
        get=Operation(
            operation_id="GetBeaconScript",
            summary="The script for pages; 404 while the beacon is off",
            responses={"200": script, "404": refused("404")},
        )
    )
