"""OpenAPI for the door of other Adjourns, whose route does not pass through the framework."""

from __future__ import annotations

from collections.abc import Callable

from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    PathItem,
    RequestBody,
    Schema,
)

from adjourn.http import bodies
from adjourn.http.relay import RELAY_PATH

_REFUSALS = ("408", "413", "415", "507")
"""Beside those that every route has."""


def describe(paths: dict[str, PathItem], refused: Callable[[str], OpenAPIResponse], result: Schema) -> None:
    """`refused` makes the answer that is a problem, of its status; `result` is what is said of one event."""
    count = Schema(type=OpenAPIType.INTEGER, minimum=0)
    named = Schema(type=OpenAPIType.OBJECT, required=["index", "result"], properties={"index": count, "result": result})
    answer = Schema(
        type=OpenAPIType.OBJECT,
        title="RelayAnswer",
        required=["accepted", "duplicate", "refused"],
        properties={
            "accepted": count,
            "duplicate": count,
            "refused": Schema(type=OpenAPIType.ARRAY, items=named),
        },
    )
    taken = OpenAPIResponse(
        description="Every event is durable: in the log, or in quarantine. What was refused is named by its place.",
        content={bodies.JSON: OpenAPIMediaType(schema=answer)},
    )
    lines = OpenAPIMediaType(
        schema=Schema(
            type=OpenAPIType.STRING, description="A line an event: [sequence, tenant, cost_nanousd, price_ref, event]"
        )
    )
    paths[RELAY_PATH] = PathItem(
        post=Operation(
            operation_id="PostRelay",
            summary="Events that another Adjourn has taken and hands on, each numbered; gzip and zstd are read",
            parameters=[
                Parameter("Adjourn-Producer", "header", Schema(type=OpenAPIType.STRING, max_length=128), required=False)
            ],
            request_body=RequestBody(content={bodies.NDJSON: lines}, required=True),
            responses={"202": taken, **{status: refused(status) for status in _REFUSALS}},
        )
    )
