"""OpenAPI for OTLP, whose route does not pass through the framework."""

from __future__ import annotations

from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    PathItem,
    RequestBody,
    Schema,
)

from adjourn.http.otlp import TRACES_PATH
from adjourn.http.otlp_bodies import JSON, PROTOBUF
from adjourn.http.problems import MEDIA_TYPE

_ERRORS = {
    "400": "The body cannot be read; do not send it again",
    "401": "No key, or one that is unknown",
    "403": "The key's role may not",
    "405": "Not with this method",
    "408": "The body did not arrive in time",
    "413": "The body, or the number of its spans, is too large",
    "415": "Not OTLP, or compressed as nothing that is read here",
    "503": "Not now; send the same again after Retry-After",
}
_OBJECT = Schema(type=OpenAPIType.OBJECT)
_BYTES = Schema(type=OpenAPIType.STRING, description="Protobuf")


def describe(paths: dict[str, PathItem]) -> None:
    """Its errors are no problem documents, so this is called when all others are described."""
    both = {PROTOBUF: OpenAPIMediaType(schema=_BYTES), JSON: OpenAPIMediaType(schema=_OBJECT)}
    errors = {
        status: OpenAPIResponse(
            description=f"{fact} (google.rpc.Status, in the encoding of the request)",
            content={**both, MEDIA_TYPE: OpenAPIMediaType(schema=_OBJECT)},
        )
        for status, fact in _ERRORS.items()
    }
    taken = OpenAPIResponse(description="What was taken is durable; partialSuccess tells of what was not", content=both)
    paths[TRACES_PATH] = PathItem(
        post=Operation(
            operation_id="PostTraces",
            summary="OTLP/HTTP: spans; ended agent spans become completions. gzip, deflate and zstd are read",
            request_body=RequestBody(content=both, required=True),
            responses={"200": taken, **errors},
        )
    )
