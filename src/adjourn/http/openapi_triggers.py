"""OpenAPI for triggers: the bodies, which their routes read themselves."""

from __future__ import annotations

from typing import get_args

from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, PathItem, RequestBody, Schema

from adjourn.http import openapi_types
from adjourn.sessions.triggers import Trigger

_ONE = "/v1/sessions/{session_id}/triggers/{name}"


def describe(paths: dict[str, PathItem]) -> None:
    put, call = paths[_ONE].put, paths[_ONE].post
    assert put is not None
    assert call is not None
    kinds = Schema(one_of=[openapi_types.reference(kind) for kind in get_args(Trigger)])
    put.request_body = RequestBody(content={"application/json": OpenAPIMediaType(schema=kinds)}, required=True)
    text = Schema(type=OpenAPIType.STRING, description="Any text; it stands for {body} in the prompt")
    call.request_body = RequestBody(content={"*/*": OpenAPIMediaType(schema=text)}, required=False)
