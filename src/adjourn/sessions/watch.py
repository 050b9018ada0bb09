"""Watched sessions: what a session that runs elsewhere may become, what its completion says, and when its lease ends.

Pure: values in, values out. A session is begun with a lease that heartbeats keep; it is completed by its client, or
abandoned when nothing was heard of it for as long as the lease lasts. Whichever comes first emits the one completion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple, Protocol, cast

import msgspec
from msgspec import UNSET, UnsetType

from adjourn.clock import rfc3339

State = Literal["open", "completed", "abandoned", "amended"]

NEXT: Mapping[State, frozenset[State]] = {
    "open": frozenset({"completed", "abandoned"}),
    "abandoned": frozenset({"amended"}),
    "completed": frozenset(),
    "amended": frozenset(),
}
"""The lifecycle. `completed` and `abandoned` emit the session's `session.completed`; `amended` emits a
`session.amended` that corrects the abandoned one, when the client's completion comes after all."""

LEASE_MS_MIN = 1000
ABANDONED = "abandoned"
"""The `error_code` of a completion that nobody sent."""

Parts = Mapping[str, msgspec.Raw]
"""One part of an event as its sender wrote it: names to values, each as JSON."""

_NO_PARTS: Parts = {}
_encode = msgspec.json.Encoder().encode
_decode_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def before(state: State) -> list[State]:
    """The states that lead to one."""
    return [earlier for earlier, later in NEXT.items() if state in later]


class Key(NamedTuple):
    """Which run of which session: `attempt` counts from 1."""

    tenant: str
    session_id: str
    attempt: int = 1


class Watched(msgspec.Struct, kw_only=True):
    """A watched session as it is kept. Times are wall milliseconds, for people; leases are never judged by them."""

    tenant: str
    session_id: str
    attempt: int
    state: State
    token: bytes
    """Tells a begin that is sent again from another one for the same session."""
    lease_ms: int
    beat: int
    """Moves with every sign of life."""
    begun: bytes
    """What the completion begins with, as a JSON object; empty once it was emitted and nothing can amend it."""
    usage: bytes
    """The last usage that a heartbeat brought, as a JSON object; empty if there is none."""
    event_id: str
    began_ms: int
    heard_ms: int
    ended_ms: int | None = None
    content: bytes = b""
    """Fingerprint of what the client completed it with."""
    amendment_id: str | None = None

    @property
    def key(self) -> Key:
        return Key(self.tenant, self.session_id, self.attempt)


class Begin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of a session when it begins. `user`, `usage` and `metadata` are those parts of the completion."""

    session_id: str | None = None
    session_type: msgspec.Raw | UnsetType = UNSET
    input_modality: msgspec.Raw | UnsetType = UNSET
    transport: msgspec.Raw | UnsetType = UNSET
    start_time: msgspec.Raw | UnsetType = UNSET
    attempt: int = 1
    lease_ms: int | None = None
    user: dict[str, msgspec.Raw] | None = None
    usage: dict[str, msgspec.Raw] | None = None
    metadata: dict[str, msgspec.Raw] | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sign of life. `usage` is what was used so far, all of it, not what was added."""

    attempt: int = 1
    usage: dict[str, msgspec.Raw] | None = None


class Complete(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The rest of the completion. What was begun with or said by heartbeats need not be said again."""

    attempt: int = 1
    end_time: msgspec.Raw | UnsetType = UNSET
    duration_ms: msgspec.Raw | UnsetType = UNSET
    timestamp: msgspec.Raw | UnsetType = UNSET
    user: dict[str, msgspec.Raw] | None = None
    usage: dict[str, msgspec.Raw] | None = None
    outcome: dict[str, msgspec.Raw] | None = None
    metadata: dict[str, msgspec.Raw] | None = None


class Problem(Protocol):
    """Why an event would be refused."""

    @property
    def path(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def remedy(self) -> str: ...


class Taken(Problem, Protocol):
    """What became of an event that was handed to the log."""

    @property
    def status(self) -> Literal["accepted", "duplicate", "conflict", "invalid"]: ...
    @property
    def event_id(self) -> str | None: ...
    @property
    def quarantine_id(self) -> str: ...


# --- what is written -------------------------------------------------------------------------------------------------


def begun_event(session_id: str, begin: Begin, now_ms: int) -> bytes:
    """The completion as far as it is known at the beginning: a valid event if what was sent is valid."""
    session: dict[str, object] = {"session_id": session_id, "start_time": rfc3339(now_ms)}
    for name in ("session_type", "input_modality", "transport", "start_time"):
        if (value := cast("msgspec.Raw | UnsetType", getattr(begin, name))) is not UNSET:
            session[name] = value
    if begin.attempt != 1:
        session["attempt"] = begin.attempt
    return _event(session=session, user=begin.user, usage=begin.usage, metadata=begin.metadata)


def usage_event(session_id: str, usage: Parts) -> bytes:
    """An event that is valid if the usage is."""
    return _event(session={"session_id": session_id}, usage=usage)


def usage_in(event: bytes) -> bytes:
    return bytes(_decode_parts(event)["usage"])


def completed_event(watched: Watched, complete: Complete, now_ms: int) -> bytes:
    """`session.completed`; for one that was abandoned before, the `session.amended` that corrects it."""
    begun = _decode_parts(watched.begun)
    session = _merged(_parts(begun, "session"))
    session["end_time"] = _given(complete.end_time) or _not_before(session.get("start_time"), now_ms)
    duration = _given(complete.duration_ms) or _duration_ms(session.get("start_time"), session["end_time"])
    if duration is not None:
        session["duration_ms"] = duration
    late = {"event_type": "session.amended", "amends": watched.event_id} if watched.state == ABANDONED else {}
    return _event(
        **late,
        timestamp=_given(complete.timestamp) or rfc3339(now_ms),
        session=session,
        user=_merged(_parts(begun, "user"), complete.user),
        usage=usage_of(watched, complete.usage),
        outcome=_merged({"status": msgspec.Raw(b'"success"')}, complete.outcome),
        metadata=_merged_metadata(_parts(begun, "metadata"), complete.metadata or _NO_PARTS),
    )


def abandoned_event(watched: Watched, now_ms: int) -> bytes:
    """The completion that nobody sent: it ended, as far as anybody knows, when it was last heard of."""
    begun = _decode_parts(watched.begun)
    session = _merged(_parts(begun, "session"))
    session["end_time"] = _not_before(session.get("start_time"), watched.heard_ms)
    duration = _duration_ms(session.get("start_time"), session["end_time"])
    if duration is not None:
        session["duration_ms"] = duration
    return _event(
        timestamp=rfc3339(now_ms),
        session=session,
        user=_parts(begun, "user"),
        usage=usage_of(watched, None),
        outcome={"status": "error", "error_code": ABANDONED},
        metadata=_parts(begun, "metadata"),
    )


def bare_event(watched: Watched) -> bytes:
    """The least that a completion can say, which no setting refuses."""
    session: dict[str, object] = {"session_id": watched.session_id}
    if watched.attempt != 1:
        session["attempt"] = watched.attempt
    return _event(session=session, outcome={"status": "error", "error_code": ABANDONED})


def usage_of(watched: Watched, given: Parts | None) -> dict[str, object]:
    """The newest usage, whole: what was given, else the last heartbeat's, else what it began with. The model, which is
    often known before the counts, is kept from an earlier one."""
    begun = _parts(_decode_parts(watched.begun), "usage")
    newest = given or (_decode_parts(watched.usage) if watched.usage else begun)
    model = {name: value for name, value in begun.items() if name == "model"}
    return _merged(model, newest)


def fingerprint(value: msgspec.Struct) -> bytes:
    """Equal for what is equal as JSON values: spacing and the order of keys do not count, numbers count exactly."""
    read = json.loads(_encode(value), parse_int=_number, parse_float=_number)
    return hashlib.blake2b(json.dumps(read, sort_keys=True).encode(), digest_size=16).digest()


def _number(text: str) -> list[str]:
    try:
        return ["number", str(Decimal(text).normalize())]
    except InvalidOperation:
        return ["number", text]


def _event(**parts: object) -> bytes:
    return _encode({name: value for name, value in parts.items() if value})


def _given(value: msgspec.Raw | UnsetType) -> msgspec.Raw | None:
    return None if isinstance(value, UnsetType) or value == b"null" else value


def _parts(event: Parts, name: str) -> Parts:
    return _decode_parts(event[name]) if name in event else _NO_PARTS


def _merged(earlier: Parts, later: Parts | None = None) -> dict[str, object]:
    return {**earlier, **(later or _NO_PARTS)}


def _merged_metadata(earlier: Parts, later: Parts) -> dict[str, object]:
    """Tags are merged by their names, too."""
    found = _merged(earlier, later)
    if "custom_tags" in earlier and "custom_tags" in later:
        found["custom_tags"] = _merged(*(_tags(part["custom_tags"]) for part in (earlier, later)))
    return found


def _tags(value: msgspec.Raw) -> Parts:
    try:
        return _decode_parts(value)
    except msgspec.ValidationError:  # no object: left to the rules for events, which say so with the path
        return _NO_PARTS


def _not_before(start: object, ms: int) -> str:
    """Wall clocks step and differ: an end is never before its start."""
    started = _time(start)
    ended = rfc3339(ms)
    return started.isoformat() if started is not None and started > datetime.fromisoformat(ended) else ended


def _duration_ms(start: object, end: object) -> int | None:
    started, ended = _time(start), _time(end)
    return None if started is None or ended is None else max(0, round((ended - started).total_seconds() * 1000))


def _time(value: object) -> datetime | None:
    """None for what is no time with an offset: the rules for events say so, with the path."""
    try:
        found = msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
        time = datetime.fromisoformat(cast(str, found))
    except (ValueError, TypeError):
        return None
    return time if time.tzinfo is not None else None


# --- when a lease ends -----------------------------------------------------------------------------------------------


class Sighting(NamedTuple):
    """An open session as it stands in the database now."""

    key: Key
    beat: int
    lease_ms: int


class Book:
    """What the node that watches has seen of each open session: its beat, and since when it stands still there, in
    seconds of this node's monotonic clock. It begins empty, and with it every lease begins anew."""

    def __init__(self) -> None:
        self._seen: dict[Key, tuple[int, float]] = {}
        self._looked_s: float | None = None

    def look(
        self, sightings: Iterable[Sighting], asked_s: float, answered_s: float, *, away_s_max: float
    ) -> list[Sighting]:
        """Take in all that is open, asked for and answered at these times; what stood still for its whole lease.

        Where this node did not look for `away_s_max` (its machine slept, the database was gone), nobody could be heard
        meanwhile: every lease begins anew."""
        away = self._looked_s is None or answered_s - self._looked_s > away_s_max
        self._looked_s = answered_s
        earlier: dict[Key, tuple[int, float]] = {} if away else self._seen
        self._seen = {}
        overdue: list[Sighting] = []
        for sighting in sightings:
            beat, since_s = earlier.get(sighting.key, (-1, answered_s))
            if beat != sighting.beat:
                since_s = answered_s
            self._seen[sighting.key] = (sighting.beat, since_s)
            if (asked_s - since_s) * 1000 >= sighting.lease_ms:
                overdue.append(sighting)
        return overdue
