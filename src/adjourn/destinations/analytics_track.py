"""Segment's and PostHog's forms of an event. Pure.

Sources: segment.com/docs/connections/sources/catalog/libraries/server/http-api, rudderstack.com/docs/api/http-api,
posthog.com/docs/api/capture.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from adjourn.clock import rfc3339
from adjourn.destinations.outbound_lanes import Item
from adjourn.destinations.webhook_bodies import item_of as whole_item
from adjourn.events import Completion, StatusChanged, StoredEvent, UserPart, decode_event
from adjourn.version import __version__

NAMES = {
    "session.completed": "Session Completed",
    "session.amended": "Session Amended",
    "session.status_changed": "Session Status Changed",
}
_PARTS = ("session", "user", "usage", "outcome", "metadata")
_ENVELOPE_BYTES = 3_000
"""What stands around the properties, with the longest ids."""

Decoded = Completion | StatusChanged

_decode = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.encode


def item_of(index: int, event: StoredEvent, *, bytes_max: int, public_url: str, posthog: bool) -> Item:
    """Raises ValueError, MsgspecError or RecursionError if the event's body is no event."""
    room = max(1, bytes_max - _ENVELOPE_BYTES)
    item = whole_item(index, event, bytes_max=room, public_url=public_url)
    decoded = decode_event(event.body)
    properties = properties_of(item.body, event.cost_nanousd)
    form = _posthog if posthog else _segment
    return msgspec.structs.replace(item, body=_encode(form(item.id, event, decoded, properties)))


def body_of(messages: Sequence[bytes], posthog_key: str | None) -> bytes:
    """PostHog's key stands in the body, Segment's in a header."""
    all_of_them = b",".join(messages)
    if posthog_key is None:
        return b'{"batch":[%b]}' % all_of_them
    return b'{"api_key":%b,"batch":[%b]}' % (_encode(posthog_key), all_of_them)


def basic(key: str) -> str:
    """The write key is the user, and there is no password."""
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


def properties_of(body: bytes, cost_nanousd: int | None) -> dict[str, object]:
    """The event with its parts laid flat, since these tools group by plain properties; what is none of them stays as it
    is. `cost_usd` is a number, since it is there to be summed, written with nine places; whoever reads it as a float
    finds the exact cost in `cost_nanousd`."""
    properties: dict[str, object] = {}
    fields = _decode(body)
    parts = {name: _decode(fields.pop(name)) for name in _PARTS if bytes(fields.get(name, b""))[:1] == b"{"}
    properties.update(fields)
    for part, values in parts.items():
        for name, value in values.items():
            properties[name if name not in properties else f"{part}_{name}"] = value
    if cost_nanousd is not None:
        properties["cost_usd"] = Raw(_usd(cost_nanousd))
        properties["cost_nanousd"] = cost_nanousd
    return properties


def _segment(message_id: str, event: StoredEvent, decoded: Decoded, properties: object) -> dict[str, object]:
    user = _user(decoded)
    context: dict[str, object] = {"library": {"name": "adjourn", "version": __version__}}
    if user is not None and user.organization_id is not None:
        context["groupId"] = user.organization_id
    return {
        "type": "track",
        "event": NAMES[decoded.event_type],
        "messageId": message_id,
        **_who(decoded),
        "timestamp": _when(event, decoded),
        "context": context,
        "properties": properties,
    }


def _posthog(message_id: str, event: StoredEvent, decoded: Decoded, properties: dict[str, object]) -> dict[str, object]:
    user = _user(decoded)
    user_id = user.user_id if user is not None else None
    if user_id is None:
        properties["$process_person_profile"] = False  # a session is no person
    properties["$lib"] = "adjourn"
    digest = hashlib.sha256(message_id.encode()).digest()[:16]
    return {
        "event": NAMES[decoded.event_type],
        "uuid": str(uuid.UUID(bytes=digest, version=5)),
        "distinct_id": user_id or decoded.session.session_id,
        "timestamp": _when(event, decoded),
        "properties": properties,
    }


def _user(decoded: Decoded) -> UserPart | None:
    return None if isinstance(decoded, StatusChanged) else decoded.user


def _who(decoded: Decoded) -> dict[str, str]:
    user = _user(decoded)
    if user is not None and user.user_id is not None:
        return {"userId": user.user_id}
    return {"anonymousId": decoded.session.session_id}


def _when(event: StoredEvent, decoded: Decoded) -> str:
    """As the database's `occurred_at`."""
    ended = None if isinstance(decoded, StatusChanged) else decoded.session.end_time
    moment = decoded.timestamp or ended
    return rfc3339(event.received_ms if moment is None else int(moment.timestamp() * 1000))


def _usd(cost_nanousd: int) -> bytes:
    whole, rest = divmod(abs(cost_nanousd), 1_000_000_000)
    return b"%b%d.%09d" % (b"-" if cost_nanousd < 0 else b"", whole, rest)
