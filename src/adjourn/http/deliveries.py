"""The routes of delivery: destinations and what each did not take. A dead letter belongs to its event's tenant; a
destination, its pause and its configuration are the whole installation's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from adjourn.clock import rfc3339
from adjourn.delivery import letters_service
from adjourn.delivery.held import Held
from adjourn.delivery.letters import Wanted
from adjourn.delivery.letters_service import DeadLetters
from adjourn.delivery.route import Shapes
from adjourn.delivery.transform import shaping_of
from adjourn.errors import ConfigInvalid
from adjourn.http.auth import caller_of, node_of, requires
from adjourn.http.views import DestinationView, Probe
from adjourn.node import Reconfigured

AnyRequest = Request[Any, Any, Any]
PAGE_MAX = 500
CURSOR_MAX = 500
_NO_NUL = r"^[^\x00]*$"
"""PostgreSQL cannot hold it. In addresses, nothing gets past `app.py` with one."""
Text = Annotated[str, msgspec.Meta(pattern=_NO_NUL)]


class DeadLetterView(msgspec.Struct):
    """An event that a destination would not take, as it was sent. `code` and `reason`: why it was not taken last."""

    id: str
    destination: str
    event_id: str
    session_id: str
    received_at: str
    died_at: str
    code: str
    reason: str
    attempts: int
    event: msgspec.Raw

    @classmethod
    def of(cls, letter: Held) -> DeadLetterView:
        return cls(
            letter.id,
            letter.destination,
            letter.event_id,
            letter.session_id,
            rfc3339(letter.received_ms),
            rfc3339(letter.held_ms),
            letter.code,
            letter.reason,
            letter.attempts_total,
            msgspec.Raw(letter.body),
        )


class DeadLetterPage(msgspec.Struct):
    """`next_cursor` is given back as `cursor` for the page after; null on the last. A call looks for a second at most:
    a page may be short, or empty, and not the last."""

    entries: list[DeadLetterView]
    next_cursor: str | None


class Described(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters: every field that is given must fit. `since` and `until` are RFC 3339 times of their death;
    `filter` is an expression over the event."""

    destination: Text | None = None
    code: Text | None = None
    since: datetime | None = None
    until: datetime | None = None
    event_id: Text | None = None
    filter: str = ""

    def wanted(self, tenant: str | None) -> Wanted:
        return Wanted(
            tenant=tenant,
            destination=self.destination,
            code=self.code,
            since_ms=_ms(self.since),
            until_ms=_ms(self.until),
            event_id=self.event_id,
        )

    def fits(self) -> Shapes | None:
        """Raises ConfigInvalid."""
        return shaping_of(filter=self.filter, transform="")


class DealtWith(Described, kw_only=True):
    """`cursor`: where the call before came to; the rest as then."""

    cursor: Annotated[str, msgspec.Meta(max_length=CURSOR_MAX, pattern=_NO_NUL)] = ""


class Dealt(msgspec.Struct):
    """How many. A call goes on for a second at most: `next_cursor` is given back as `cursor`, with the same
    description, for the rest; null when all is done. `full`: as many as may be at once are waiting at a destination to
    be tried again; go on when it has had them."""

    count: int
    next_cursor: str | None = None
    full: bool = False

    @classmethod
    def of(cls, dealt: letters_service.Dealt) -> Dealt:
        return cls(dealt.count, dealt.cursor or None, dealt.full)


class Why(msgspec.Struct, forbid_unknown_fields=True):
    """`reason` is shown wherever the destination is."""

    reason: Text = "by request"


@get("/v1/destinations", guards=[requires("destinations:read")], summary="Every destination and its balance")
async def list_destinations(request: AnyRequest) -> list[DestinationView]:
    return [
        DestinationView.of(one.balance, one.waiting or ("" if one.running else "not running"))
        for one in await node_of(request).delivery.standings()
    ]


@post(
    "/v1/destinations/{name:str}/pause",
    guards=[requires("destinations:write")],
    status_code=200,
    summary="Deliver nothing there, on any node, until it is resumed; its backlog waits",
)
async def pause_destination(request: AnyRequest, name: FromPath[str], data: JSONBody[Why]) -> Probe:
    await node_of(request).delivery.pause(name, data.reason[:500])
    return Probe("paused", data.reason[:500])


@post(
    "/v1/destinations/{name:str}/resume",
    guards=[requires("destinations:write")],
    status_code=200,
    summary="Deliver there again",
)
async def resume_destination(request: AnyRequest, name: FromPath[str]) -> Probe:
    was_paused = await node_of(request).delivery.resume(name)
    return Probe("ok", "" if was_paused else "it was not paused")


@post(
    "/v1/destinations/{name:str}/test",
    guards=[requires("destinations:write")],
    status_code=200,
    summary="Reach it now, with a probe that is marked as one; 503 says what is wrong",
)
async def try_destination(request: AnyRequest, name: FromPath[str]) -> Probe:
    await node_of(request).probe(name)
    return Probe("ok", f"{name} takes events")


@get("/v1/dead-letters", guards=[requires("dead_letters:read")], summary="What was not taken, newest first")
async def list_dead_letters(
    request: AnyRequest,
    destination: FromQuery[str | None] = None,
    code: FromQuery[str | None] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    event_id: FromQuery[str | None] = None,
    expression: Annotated[str, QueryParameter(name="filter", max_length=4_000)] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)] = 50,
    cursor: Annotated[str, QueryParameter(max_length=CURSOR_MAX)] = "",
) -> DeadLetterPage:
    described = Described(
        destination=destination, code=code, since=since, until=until, event_id=event_id, filter=expression
    )
    page = await _letters(request).select(
        described.wanted(caller_of(request).tenant), fits=described.fits(), cursor=cursor, limit=limit
    )
    return DeadLetterPage([DeadLetterView.of(letter) for letter in page.letters], page.cursor or None)


@get("/v1/dead-letters/{letter_id:str}", guards=[requires("dead_letters:read")], summary="One dead letter, whole")
async def get_dead_letter(request: AnyRequest, letter_id: FromPath[str]) -> DeadLetterView:
    return DeadLetterView.of(await _letters(request).show(caller_of(request).tenant, letter_id))


@post(
    "/v1/dead-letters/{letter_id:str}/redrive",
    guards=[requires("dead_letters:write")],
    status_code=200,
    summary="Give it back to its destination: the same event, under the same id",
)
async def redrive_dead_letter(request: AnyRequest, letter_id: FromPath[str]) -> Dealt:
    await _letters(request).redrive(caller_of(request).tenant, letter_id)
    return Dealt(1)


@delete(
    "/v1/dead-letters/{letter_id:str}",
    guards=[requires("dead_letters:write")],
    summary="Discard it for good; the balance counts it as discarded",
)
async def discard_dead_letter(request: AnyRequest, letter_id: FromPath[str]) -> None:
    await _letters(request).discard(caller_of(request).tenant, letter_id)


@post(
    "/v1/dead-letters/redrive",
    guards=[requires("dead_letters:write")],
    status_code=200,
    summary="Give back those that fit, oldest first; {} is all",
)
async def redrive_dead_letters(request: AnyRequest, data: JSONBody[DealtWith]) -> Dealt:
    wanted = data.wanted(caller_of(request).tenant)
    return Dealt.of(await _letters(request).redrive_some(wanted, fits=data.fits(), cursor=data.cursor))


@post(
    "/v1/dead-letters/discard",
    guards=[requires("dead_letters:write")],
    status_code=200,
    summary="Discard those that fit; {} is all",
)
async def discard_dead_letters(request: AnyRequest, data: JSONBody[DealtWith]) -> Dealt:
    wanted = data.wanted(caller_of(request).tenant)
    return Dealt.of(await _letters(request).discard_some(wanted, fits=data.fits(), cursor=data.cursor))


@post(
    "/v1/reload",
    guards=[requires("settings:write")],
    status_code=200,
    summary="Read the settings again: the destinations of now, whole or not at all",
)
async def reload_settings(request: AnyRequest) -> Reconfigured:
    reload: Callable[[], Any] | None = request.app.state.reload
    if reload is None:
        raise ConfigInvalid(
            "this server was started by a program, with settings that it made; it can reload none: restart it there"
        )
    return await reload()


DELIVERY_ROUTES = [
    list_destinations,
    pause_destination,
    resume_destination,
    try_destination,
    list_dead_letters,
    get_dead_letter,
    redrive_dead_letter,
    discard_dead_letter,
    redrive_dead_letters,
    discard_dead_letters,
    reload_settings,
]


def _letters(request: AnyRequest) -> DeadLetters:
    return node_of(request).dead_letters


def _ms(time: datetime | None) -> int | None:
    """A time without an offset is UTC, whatever this machine's zone."""
    return None if time is None else int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
