"""What of many sessions is asked for, and where a list goes on. Values only."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from adjourn.errors import BodyInvalid
from adjourn.events import SessionType
from adjourn.sessions.hosting import Pattern
from adjourn.sessions.lifecycle import ENDED, LIVE, Status
from adjourn.sessions.session import Role, Session
from adjourn.typed import decoder

LIMIT_MAX = 500

Order = Literal["created", "active", "ended", "cost"]


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which sessions, in which order: what is given must fit. Times are wall milliseconds; `since` belongs to a range,
    `until` does not. By `ended`, only those that have ended are listed."""

    pattern: Pattern | None = None
    status: tuple[Status, ...] = ()
    """One of these."""
    live: bool | None = None
    user_id: str | None = None
    tags: tuple[str, ...] = ()
    """All of these."""
    role: Role | None = None
    kind: SessionType | None = None
    interface: str | None = None
    runner: str | None = None
    model: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    """The whole tree below a session, and that session."""
    name_prefix: str = ""
    created_since_ms: int | None = None
    created_until_ms: int | None = None
    ended_since_ms: int | None = None
    ended_until_ms: int | None = None
    order: Order = "created"
    descending: bool = True
    cursor: str = ""
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 100

    def statuses(self) -> list[Status] | None:
        """Those that may be; None: any. A session is live in just those of `LIVE`."""
        if not self.status and self.live is None:
            return None
        wanted = set(self.status) if self.status else LIVE | ENDED
        if self.live is not None:
            wanted &= LIVE if self.live else ENDED
        return sorted(wanted)


class Page(msgspec.Struct, frozen=True):
    """It may be short, or empty, and have a `cursor` all the same: where what is looked for is rare, each page looks
    through a bounded number of sessions. Without a cursor it is the last."""

    sessions: list[Session]
    cursor: str


class Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Of a session in a list: what the list is in order of, then its id, which no other has."""

    order: Order
    descending: bool
    key: int | str
    id: str

    def __str__(self) -> str:
        return urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def parse_place(query: Query) -> Place | None:
    """Where the query goes on; None: at the beginning. Raises BodyInvalid."""
    if not query.cursor:
        return None
    try:
        place = decoder(Place).decode(urlsafe_b64decode(query.cursor + "=" * (-len(query.cursor) % 4)))
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise BodyInvalid("this cursor was not given by this list; begin without one", path="cursor") from error
    fits = isinstance(place.key, str) == (place.order == "created") and not -(2**63) > _number(place) < 2**63
    if not fits or (place.order, place.descending) != (query.order, query.descending):
        raise BodyInvalid("this cursor is that of a list in another order; begin without one", path="cursor")
    return place


def _number(place: Place) -> int:
    return place.key if isinstance(place.key, int) else 0
