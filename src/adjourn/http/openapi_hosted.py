"""OpenAPI for hosted sessions: the bodies, which their routes read themselves, and the answers that are streams."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

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

from adjourn.http import openapi_types, sse
from adjourn.http.conversation import MessagePage
from adjourn.http.session_list import Wanted
from adjourn.http.session_views import AnswerView, Appended, EventPage
from adjourn.http.sessions import Terminate
from adjourn.sessions.session import NewSession, Patch
from adjourn.sessions.turn import Amending, Completing, Message

_SESSIONS = "/v1/sessions"
_ONE = f"{_SESSIONS}/{{session_id}}"
_JSON = "application/json"
_TEXT = Schema(type=OpenAPIType.STRING, description="Server-sent events; each message's data is a SessionEventView")

_BODIES: dict[tuple[str, str], tuple[type, bool]] = {
    (_SESSIONS, "post"): (NewSession, True),
    (_ONE, "patch"): (Patch, True),
    (f"{_ONE}/messages", "post"): (Message, True),
    (f"{_ONE}/terminate", "post"): (Terminate, False),
    (f"{_ONE}/amend", "post"): (Amending, False),
}
"""(path, method) → (what it takes, whether it needs it)."""


def schemas() -> dict[str, Schema]:
    """Of what is read and written here, by the names of their types; as they are read."""
    kinds = [NewSession, Patch, Message, Completing, Amending, Terminate, AnswerView, Appended, EventPage, MessagePage]
    return openapi_types.components(kinds)


def describe(paths: dict[str, PathItem]) -> None:
    for (path, method), (kind, required) in _BODIES.items():
        operation = cast(Operation, getattr(paths[path], method))
        operation.request_body = RequestBody(content={_JSON: _media(kind)}, required=required)
    _with_made_before(paths[_SESSIONS].post)
    _with_resumed_anew(paths[f"{_ONE}/resume"].post)
    _with_completing(paths[f"{_ONE}/complete"].post)
    _with_filters(paths[_SESSIONS].get)
    _answers(
        paths[f"{_ONE}/messages"].post,
        {
            "200": _said("The turn has ended, or its events as they happen", AnswerView, streams=True),
            "201": _said("The message was appended; no turn runs", Appended),
        },
    )
    _answers(paths[f"{_ONE}/messages"].get, {"200": _said("A page", MessagePage)})
    _answers(
        paths[f"{_ONE}/events"].get,
        {
            "200": _said("A page, or what happens as it happens", EventPage, streams=True),
            "204": OpenAPIResponse(description="The session has ended, and nothing comes after that place"),
        },
    )
    _answers(paths[f"{_ONE}/ws"].get, {"101": OpenAPIResponse(description="A WebSocket")})


def _media(kind: type) -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=openapi_types.reference(kind))


def _said(description: str, kind: type, *, streams: bool = False) -> OpenAPIResponse:
    content = {_JSON: _media(kind)}
    if streams:
        content[sse.MEDIA_TYPE] = OpenAPIMediaType(schema=_TEXT)
    return OpenAPIResponse(description=description, content=content)


def _answers(operation: Operation | None, good: dict[str, OpenAPIResponse]) -> None:
    assert operation is not None
    refusals = {status: said for status, said in (operation.responses or {}).items() if status >= "400"}
    operation.responses = {**good, **refusals}


def _with_made_before(operation: Operation | None) -> None:
    assert operation is not None
    responses = dict(operation.responses or {})
    made = responses["201"]
    assert isinstance(made, OpenAPIResponse)
    responses["200"] = replace(made, description="The same call had made it before")
    operation.responses = responses


def _with_resumed_anew(operation: Operation | None) -> None:
    assert operation is not None
    responses = dict(operation.responses or {})
    resumed = responses["200"]
    assert isinstance(resumed, OpenAPIResponse)
    responses["201"] = replace(resumed, description="It had ended; a new session goes on with it")
    operation.responses = responses


def _with_completing(operation: Operation | None) -> None:
    """What a watched session is completed with is described already."""
    assert operation is not None
    assert isinstance(operation.request_body, RequestBody)
    watched = operation.request_body.content[_JSON].schema
    assert watched is not None
    hosted = openapi_types.reference(Completing)
    operation.request_body.content[_JSON] = OpenAPIMediaType(schema=Schema(any_of=[hosted, watched]))


def _with_filters(operation: Operation | None) -> None:
    assert operation is not None
    operation.parameters = [
        Parameter(name=name, param_in="query", schema=schema, required=False)
        for name, schema in openapi_types.fields(Wanted).items()
    ]
