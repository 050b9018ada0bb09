"""When two events are the same one: the rules of identity and of content. Where they are looked up is not decided here.

Nearly every event is new, which its hash alone shows. Where a hash was seen before, `judge` compares the identities
themselves and then the bodies as values, because a sender may write the same event with other spacing.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Literal, TypeAlias, cast

from adjourn import ids
from adjourn.database import Verdict
from adjourn.events import (
    BEACON,
    Completion,
    Record,
    StoredEvent,
    decode_completion,
    decode_identity,
    is_status_changed,
)

DedupeBy = Literal["event", "session"]

_Json: TypeAlias = "dict[str, _Json] | list[_Json] | str | Decimal | _HugeNumber | bool | None"


class _HugeNumber(str):
    """A number whose exponent Decimal cannot hold, compared as it was written."""


def identity(event: Completion, dedupe_by: DedupeBy) -> str:
    """What makes two events of a tenant the same one. `event.event_id` must be there (`prepare` sees to that).

    By `session`, a session has one completion, whatever its id, and another one that a browser claims; amendments of it
    are told apart by their own ids."""
    if dedupe_by == "session" and event.event_type == "session.completed":
        return ("c:" if is_claim(event) else "s:") + event.session.session_id
    return f"e:{event.event_id}"


def is_claim(event: Completion) -> bool:
    """Whether a browser says so, under a key that everyone can read."""
    return event.metadata is not None and event.metadata.source == BEACON


def derived_id(tenant: str, event: Completion) -> str:
    """The id of an event that came without one: from tenant, session and attempt, and from what it amends."""
    session = event.session
    # An amendment must not get the id of what it amends. NUL cannot occur in ids, so the pair is unambiguous.
    name = session.session_id if event.amends is None else f"{session.session_id}\0{event.amends}"
    return ids.derived_event_id(tenant, name, session.attempt or 1)


def judge(record: Record, holder: StoredEvent) -> Verdict:
    """What a new event is, beside the stored one whose hash of identity is the same.

    Eight bytes may collide: then the two are different events, and the new one is accepted, never lost."""
    dedupe_by: DedupeBy = "session" if record.dedupe_hash else "event"
    if record.tenant != holder.tenant:
        return "accepted"
    if _identity_in(record.body, dedupe_by) != _identity_in(holder.body, dedupe_by):
        return "accepted"
    return "duplicate" if same_content(record.body, holder.body) else "conflict"


def _identity_in(body: bytes, dedupe_by: DedupeBy) -> str:
    if is_status_changed(body):  # a session has many of them
        return f"e:{decode_identity(body).event_id}"
    return identity(decode_completion(body), dedupe_by)


def same_content(a: bytes, b: bytes) -> bool:
    """Whether two event bodies are equal as JSON values: the order of keys and spacing do not count, numbers count
    exactly (`1.0` is `1`, no rounding). An `event_id` counts only where both have one: Adjourn may have added it."""
    if a == b:
        return True
    try:
        left, right = _read(a), _read(b)
        if isinstance(left, dict) and isinstance(right, dict) and not (left.get("event_id") and right.get("event_id")):
            left.pop("event_id", None)
            right.pop("event_id", None)
        return _same(left, right)
    except (ValueError, RecursionError):
        return False  # unreadable bodies are the same only if their bytes are


def _read(body: bytes) -> _Json:
    # Decimal for integers too: int() refuses more than 4,300 digits, and 1 must equal 1.0.
    return cast(_Json, json.loads(body, parse_int=_number, parse_float=_number))


def _number(text: str) -> Decimal | _HugeNumber:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return _HugeNumber(text)
    return number if number.is_finite() else _HugeNumber(text)


def _same(a: _Json, b: _Json) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    # Python holds true == 1 and Huge("1e9…") == "1e9…"; JSON does not.
    return type(a) is type(b) and a == b
