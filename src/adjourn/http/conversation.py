"""`GET /v1/sessions/{id}/messages`: the conversation, page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from litestar import Request, get
from litestar.params import FromPath, QueryParameter
from litestar.types import ASGIApp

from adjourn.clock import rfc3339
from adjourn.conversation import messages
from adjourn.conversation.message import StoredMessage
from adjourn.http.auth import caller_of, node_of, requires
from adjourn.http.whole import Body, encode
from adjourn.runner import Part, Role

AnyRequest = Request[Any, Any, Any]
PAGE_MAX = 500
PAGE_BYTES_MAX = 4_000_000
"""A page whose messages are large is shorter: about as much as this, and what is read at once."""
STEP = 16
SEQ_MAX = 2**53


class MessageView(msgspec.Struct):
    """A message of a conversation. `seq` is its place there, from 1; `session_id` is where it was said, which may be a
    session that this one goes on with. `turn_id` is null where no turn ran on it."""

    seq: int
    id: str
    session_id: str
    role: Role
    parts: Sequence[Part]
    agent: str
    turn_id: str | None
    metadata: Mapping[str, object]
    created_at: str

    @classmethod
    def of(cls, message: StoredMessage) -> MessageView:
        own = {name: getattr(message, name) for name in cls.__struct_fields__ if name != "created_at"}
        return cls(**own, created_at=rfc3339(message.created_ms))


class MessagePage(msgspec.Struct):
    """Oldest first. `next_after` is given back as `after`, for what comes behind; `next_before` as `before`, for what
    came earlier; null where this page has the first message."""

    messages: list[MessageView]
    next_after: int
    next_before: int | None


@get("/v1/sessions/{session_id:str}/messages", guards=[requires("sessions:read")], summary="A session's conversation")
async def list_messages(
    request: AnyRequest,
    session_id: FromPath[str],
    after: Annotated[int, QueryParameter(ge=0, le=SEQ_MAX)] = 0,
    before: Annotated[int | None, QueryParameter(ge=1, le=SEQ_MAX)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)] = 50,
    newest: Annotated[bool, QueryParameter()] = False,
) -> ASGIApp:
    """`newest`: of those between `after` and `before`, the last ones; without it the first."""
    session_id = unquote(session_id)
    node, tenant = node_of(request), caller_of(request).tenant
    await node.sessions.get(tenant, session_id)
    found: list[StoredMessage] = []
    size, more = 0, True
    while more and len(found) < limit and size < PAGE_BYTES_MAX:
        step = min(STEP, limit - len(found))
        some = await node.database.read(
            messages.read, tenant, session_id, after=after, before=before, limit=step, newest=newest
        )
        more = len(some) == step
        if newest:
            found, before = some + found, some[0].seq if some else before
        else:
            found, after = found + some, some[-1].seq if some else after
        size += sum(len(part.text) + len(part.output) + len(part.url) for each in some for part in each.parts)
    first = found[0].seq if found else 1
    page = MessagePage(
        [MessageView.of(message) for message in found],
        next_after=found[-1].seq if found else after,
        next_before=first if first > 1 else None,
    )
    return Body(encode(page))
