"""What both clients share of hosted sessions: what is asked for, and how a stream of events goes on. No I/O."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, TypedDict, cast
from urllib.parse import quote

import msgspec

from adjourn.errors import BodyInvalid, ConfigInvalid
from adjourn.sdk._client import Request
from adjourn.sdk._watch import SESSIONS_PATH, session_path
from adjourn.sdk.models_events import SessionEvent
from adjourn.sdk.models_sessions import (
    Config,
    Limits,
    OnDisconnect,
    Part,
    Pattern,
    Price,
    SessionAnswer,
    Status,
)
from adjourn.typed import decoder

Time = str | datetime
"""RFC 3339, or a time with its zone."""
Json = Mapping[str, object]

PAGE = 100
SILENCE_S = 45.0
"""A stream that lives says something every 15 s."""
_UNKEPT = frozenset({"text_delta", "tool_call", "tool_result", "usage", "cost", "error", "done"})
"""What a turn that runs has told last may be lost with its node; other events are durable before they are told."""

_encode = msgspec.json.Encoder(decimal_format="string").encode
_sorted = msgspec.json.Encoder(order="sorted").encode


class NewSession(TypedDict, total=False):
    """What a session may begin with; the server knows the defaults."""

    runner: str
    config: Config | Json
    limits: Limits | Json
    price: Price | Json
    role: Literal["director", "department", "observer", "active"]
    kind: Literal["chat", "api", "autonomous", "realtime"]
    interface: str
    user_id: str
    name: str
    description: str
    workspace: str
    tags: Sequence[str]
    capabilities: Sequence[str]
    constraints: Sequence[str]
    resources: Json
    metadata: Json
    state: Json
    parent_id: str
    resumed_from: str
    snapshot_id: str
    on_disconnect: OnDisconnect
    triggers: Sequence[Json]


class Filter(TypedDict, total=False):
    """Which sessions, in which order: what is given must fit. `since` belongs to a range, `until` does not."""

    pattern: Pattern
    status: Status | Sequence[Status]
    """One of these."""
    live: bool
    user_id: str
    tags: str | Sequence[str]
    """All of these."""
    role: str
    kind: str
    interface: str
    runner: str
    model: str
    parent_id: str
    root_id: str
    name_prefix: str
    created_since: Time
    created_until: Time
    ended_since: Time
    ended_until: Time
    order: Literal["created", "active", "ended", "cost"]
    descending: bool


class Changes(TypedDict, total=False):
    """What of a session can be changed; what is not given stays."""

    name: str
    description: str
    tags: Sequence[str]
    capabilities: Sequence[str]
    constraints: Sequence[str]
    metadata: Json
    state: Json
    limits: Limits | Json
    on_disconnect: OnDisconnect


class Saying(TypedDict, total=False):
    """How a message is said, beside what it says."""

    role: Literal["user", "assistant", "system", "tool"]
    message_id: str
    agent: str
    metadata: Json


class Asking(Saying, total=False):
    """How a turn is run, too."""

    queue: bool
    """Wait for the turn that runs, if one does, instead of being refused."""
    options: Json
    """For the runner, over those of the session, for this turn."""
    on_disconnect: OnDisconnect


class Correction(TypedDict, total=False):
    """What a completion should have said; what is not given stays as it was."""

    outcome: Literal["success", "error", "timeout", "user_terminated"]
    error_code: str
    final_message: str
    input_tokens: int
    output_tokens: int
    cost_usd: object


# --- what to ask -----------------------------------------------------------------------------------------------------


def token() -> str:
    """Of one call, however often it is sent."""
    return os.urandom(16).hex()


def path_of(session_id: str, *more: str) -> str:
    """Raises BodyInvalid for no id, which would lead elsewhere."""
    if not session_id:
        raise BodyInvalid("the session's id is empty; give it as `create` answered it", path="session_id")
    return "/".join([session_path(session_id), *more])


def write(method: str, path: str, body: object = None, *, key: str = "") -> Request:
    """Under a key of its own, so that one that is sent again is known as the same. Raises BodyInvalid."""
    headers = {"content-type": "application/json", "idempotency-key": key or token()}
    try:
        return Request(method, path, headers, None if body is None else _encode(body))
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise BodyInvalid(f"this cannot be written as JSON ({error}); use JSON's types") from error


def create_request(pattern: Pattern, new: NewSession, key: str) -> Request:
    return write("POST", SESSIONS_PATH, {"pattern": pattern, **new}, key=key)


def list_request(wanted: Filter, *, limit: int, cursor: str) -> Request:
    query: dict[str, str | int | Sequence[str]] = {"limit": limit}
    query |= {"cursor": cursor} if cursor else {}
    for name, value in wanted.items():
        name = "tag" if name == "tags" else name
        if isinstance(value, datetime):
            query[name] = _rfc3339(name, value)
        elif isinstance(value, bool):
            query[name] = "true" if value else "false"
        elif value is not None:
            query[name] = cast("str | Sequence[str]", value)
    return Request("GET", SESSIONS_PATH, query=query)


def page_request(path: str, **query: str | int | bool | None) -> Request:
    """What is None is not asked for."""
    plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
    return Request("GET", path, query={name: value for name, value in plain.items() if value is not None})


def message_of(said: str | Sequence[Part], how: Asking | Saying) -> dict[str, object]:
    what: dict[str, object] = {"prompt": said} if isinstance(said, str) else {"parts": list(said)}
    return {**what, **how}


def trigger_path(session_id: str, name: str) -> str:
    return path_of(session_id, "triggers", quote(name, safe="").replace(".", "%2E"))


def call_request(session_id: str, name: str, body: bytes, key: str) -> Request:
    return Request("POST", trigger_path(session_id, name), {"idempotency-key": key or token()}, body)


def _rfc3339(name: str, at: datetime) -> str:
    if at.tzinfo is None:
        raise ConfigInvalid(f"{name} has no time zone; give it one, as datetime.now(UTC) has", path=name)
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


# --- what became of a call whose answer was lost ----------------------------------------------------------------------


def is_patched(session: SessionAnswer, revision: int, changes: Changes) -> bool:
    """Whether the session is as such an update leaves it."""
    if session.revision != revision + 1:
        return False
    now = decoder(dict[str, object]).decode(_encode(session))
    wanted = decoder(dict[str, object]).decode(_encode(changes))
    limits = decoder(Limits).decode(_encode(wanted.pop("limits", {})))
    given = [name for name in Limits.__struct_fields__ if getattr(limits, name) is not None]
    return all(now.get(name) == value for name, value in wanted.items()) and all(
        getattr(limits, name) == getattr(session.limits, name) for name in given
    )


# --- a stream, and how it goes on when it broke off -------------------------------------------------------------------


class Progress:
    """Which events have been given, so that those of a stream that is taken up again come once.

    It is taken up behind the last event that is durable for certain: what came after it is told again, and known by its
    number and content. Where a node died with what it had told, other events stand at those numbers, and they count."""

    def __init__(self, after: int = 0) -> None:
        self.after = after
        """Where to take it up."""
        self.retry_ms = 0
        """How long the server asks to stay away."""
        self.heard = False
        """Whether it has told an event, or that it lives."""
        self._given: dict[int, bytes] = {}
        self._data: list[str] = []

    def begin(self) -> None:
        """A new connection. Half an event of the one before is none."""
        self._data, self.heard, self.retry_ms = [], False, 0

    def headers(self) -> dict[str, str]:
        return {"last-event-id": str(self.after)} if self.after else {}

    def feed(self, line: str) -> SessionEvent | None:
        """A line without its end; the event that it ends, if that is new. Raises msgspec.DecodeError."""
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        elif name == "retry" and value.strip().isdecimal():
            self.retry_ms = int(value)
        elif line.startswith(":"):
            self.heard = True
        elif not line and self._data:
            event = decoder(SessionEvent).decode("\n".join(self._data))
            self._data = []
            return event if self._takes(event) else None
        return None

    def _takes(self, event: SessionEvent) -> bool:
        self.heard = True
        mark = _mark(event)
        if event.seq <= self.after or self._given.get(event.seq) == mark:
            return False
        for seq in [seq for seq in self._given if seq >= event.seq]:
            del self._given[seq]
        if event.type in _UNKEPT:
            self._given[event.seq] = mark
        else:
            self.after = event.seq
            self._given.clear()
        return True


def _mark(event: SessionEvent) -> bytes:
    """What it is known by; a database may write its data in another order."""
    data = _sorted(decoder(dict[str, object]).decode(event.data))
    return hashlib.blake2b(b"%b %b %b" % (event.type.encode(), event.at.encode(), data), digest_size=12).digest()
