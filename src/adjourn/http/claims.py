"""What a public key brings in is a claim of whoever read it in a page. Pure.

It is made sure that a claim can stand beside what a trusted sender says, and never in its place.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

import msgspec

from adjourn.errors import BodyInvalid, EventInvalid, Forbidden
from adjourn.events import BEACON, BEACON_PREFIX

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_ABSENT: Final = msgspec.Raw(b"null")

Fields = dict[str, msgspec.Raw]


def fields_of(body: bytes) -> Fields:
    """Raises BodyInvalid."""
    try:
        return _decode(body)
    except (ValueError, RecursionError) as error:
        raise BodyInvalid(f"the body is not a JSON object ({error}); send one completion event") from error


def key_of(fields: Fields, query: bytes) -> str:
    """Taken out of the body, else the `key` of the query; "" where there is none."""
    given = _text(fields.pop("key", _ABSENT))
    if given is None:
        given = parse_qs(query.decode("latin-1")).get("key", [""])[0]
    return given


def claim(fields: Fields) -> bytes:
    """The event as it goes on: marked, under ids that no trusted sender's can be mistaken for, and without a cost.

    Raises Forbidden and EventInvalid for what cannot be made safe. What is of the wrong type stays as it is, since the
    schema refuses it."""
    if _text(fields.get("event_type", _ABSENT)) not in (None, "session.completed"):
        raise Forbidden(
            "a public key adds session.completed and nothing else; send amendments with a key of the role writer",
            path="event_type",
        )
    event_id = _text(fields.get("event_id", _ABSENT))
    if not event_id:
        raise EventInvalid("a beacon needs an event_id; send one of its own, the same when repeated", path="event_id")
    fields["event_id"] = _raw(BEACON_PREFIX + event_id)
    session = _object(fields.get("session", _ABSENT))
    if session is not None:
        session_id = _text(session.get("session_id", _ABSENT))
        if session_id:
            fields["session"] = _raw(session | {"session_id": _raw(BEACON_PREFIX + session_id)})
    usage = _object(fields.get("usage", _ABSENT))
    if usage is not None:
        usage.pop("estimated_cost_usd", None)
        fields["usage"] = _raw(usage)
    metadata = {} if bytes(fields.get("metadata", _ABSENT)) == b"null" else _object(fields["metadata"])
    if metadata is not None:
        metadata.pop("source_ip", None)  # nobody here has seen it
        fields["metadata"] = _raw(metadata | {"source": _raw(BEACON)})
    return _encode(fields)


def _text(raw: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except (ValueError, RecursionError):
        return None


def _object(raw: msgspec.Raw) -> Fields | None:
    try:
        return _decode(raw)
    except (ValueError, RecursionError):
        return None


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))
