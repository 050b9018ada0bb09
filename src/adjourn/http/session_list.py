"""Many sessions: a list by filters and in an order, and what they all add up to."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.params import QueryParameter
from msgspec import Meta

from adjourn.errors import BodyInvalid
from adjourn.events import ID_LENGTH_MAX, Id, SessionType, Time
from adjourn.http.auth import caller_of, node_of, requires
from adjourn.http.decoding import from_query
from adjourn.http.session_views import AllowanceView, SessionPage, SessionView, StatsView
from adjourn.sessions import queries, stats
from adjourn.sessions.allowance import allowance
from adjourn.sessions.hosting import Pattern
from adjourn.sessions.lifecycle import Status
from adjourn.sessions.query import LIMIT_MAX, Order, Query
from adjourn.sessions.session import Role, Tag
from adjourn.typed import convert

AnyRequest = Request[Any, Any, Any]
SHOWN_MAX = 1_000
Text = Annotated[str, Meta(max_length=1024)]


At = Annotated[str, Meta(max_length=64, description="RFC 3339, with an offset")]


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the address may ask for; what is given must fit. `since` belongs to a range, `until` does not."""

    pattern: Pattern | None = None
    status: Annotated[tuple[Status, ...], Meta(max_length=6)] = ()
    """One of these; give it again for each."""
    live: bool | None = None
    user_id: Id | None = None
    tag: Annotated[tuple[Tag, ...], Meta(max_length=16)] = ()
    """All of these; give it again for each."""
    role: Role | None = None
    kind: SessionType | None = None
    interface: Text | None = None
    runner: Text | None = None
    model: Text | None = None
    parent_id: Id | None = None
    root_id: Id | None = None
    name_prefix: Annotated[str, Meta(max_length=256)] = ""
    created_since: At | None = None
    created_until: At | None = None
    ended_since: At | None = None
    ended_until: At | None = None
    order: Order = "created"
    descending: bool = True
    cursor: Annotated[str, Meta(max_length=2048)] = ""
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 50

    def query(self) -> Query:
        """Raises BodyInvalid for what is no time."""
        times: dict[str, Any] = {f"{name}_ms": _ms(name, getattr(self, name)) for name in _TIMES}
        plain: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        return Query(**plain, **times, tags=self.tag)


class _At(msgspec.Struct):
    at: Time


_TIMES = ("created_since", "created_until", "ended_since", "ended_until")
_PLAIN = [name for name in Wanted.__struct_fields__ if name in Query.__struct_fields__]


def _ms(name: str, at: str | None) -> int | None:
    if at is None:
        return None
    try:
        return int(convert({"at": at.replace(" ", "+")}, _At).at.timestamp() * 1000)  # + of an offset
    except (msgspec.ValidationError, OverflowError, ValueError):
        raise BodyInvalid(
            f"{name}: {at!r} is no time; give one with its offset, as 2026-11-21T14:05:27Z", path=name
        ) from None


@get("/v1/sessions", guards=[requires("sessions:read")], summary="Hosted sessions, by filters and in an order")
async def list_sessions(request: AnyRequest) -> SessionPage:
    query = from_query(request.query_params.multi_items(), Wanted).query()
    page = await node_of(request).database.read(queries.select, caller_of(request).tenant, query)
    return SessionPage([SessionView.of(session) for session in page.sessions], page.cursor or None)


@get("/v1/sessions/stats", guards=[requires("sessions:read")], summary="What all hosted sessions add up to")
async def get_stats(
    request: AnyRequest, shown: Annotated[int, QueryParameter(ge=1, le=SHOWN_MAX)] = stats.SHOWN
) -> StatsView:
    """`shown`: values of one kind that are told apart, the largest; the others are added up."""
    return StatsView.of(await node_of(request).database.read(stats.stats, caller_of(request).tenant, shown=shown))


@get(
    "/v1/sessions/limits", guards=[requires("sessions:read")], summary="What hosted sessions may use, and what is left"
)
async def get_limits(
    request: AnyRequest, user_id: Annotated[str, QueryParameter(max_length=ID_LENGTH_MAX)] = ""
) -> AllowanceView:
    """`user_id`: tell of this user too."""
    node = node_of(request)
    found = await node.database.read(allowance, node.settings.hosting, caller_of(request).tenant, user_id)
    return AllowanceView.of(found)
