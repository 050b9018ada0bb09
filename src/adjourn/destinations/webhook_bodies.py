"""What a webhook's body is, and under which id it goes. Pure.

A single event's body is the event to the byte, with Adjourn's facts as its last field, as in the log file. One that is
larger than the receiver takes goes without its largest fields, and with a link to the whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import msgspec

from adjourn.destinations.logfile import line
from adjourn.destinations.outbound_lanes import Item
from adjourn.events import StoredEvent, decode_identity

# In a header, signed with dots around it, and short enough for any receiver's column.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
NAMED_MAX = 20
NAME_CHARACTERS = 100

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode

Fields = dict[str, msgspec.Raw]


class Whole(msgspec.Struct, gc=False):
    """Where the whole event is, and what of it is missing here: `adjourn.payload`."""

    url: str
    bytes: int
    left_out: list[str]


def item_of(index: int, event: StoredEvent, *, bytes_max: int, public_url: str) -> Item:
    """Raises ValueError, MsgspecError or RecursionError if the event's body is no event."""
    identity = decode_identity(event.body)
    event_id, session_id = identity.event_id, identity.session.session_id
    session = f"{event.tenant}\0{session_id}"
    body = line(event)[:-1]
    if len(body) > bytes_max:
        body = thin(body, bytes_max, f"{public_url.rstrip('/')}/v1/events/{quote(event_id, safe='')}")
    return Item(index=index, session=session, id=webhook_id(event.tenant, session_id, event_id), body=body)


def webhook_id(tenant: str, session_id: str, event_id: str) -> str:
    """The same for every attempt, and for no other event: two tenants, or two sessions, may use one event id, and a
    receiver that drops what repeats must not drop the second. The event's own id stands before the dash if it is
    plain."""
    parts = [part.encode("utf-8", "surrogatepass") for part in (tenant, session_id, event_id)]
    digest = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()[:24]
    return f"{event_id}-{digest}" if _PLAIN_ID.fullmatch(event_id) else f"evt-{digest}"


def batch_body(items: Sequence[Item]) -> tuple[str, bytes]:
    """(id, body). The id follows from the events within: other events, another id."""
    digest = hashlib.sha256("\n".join([item.id for item in items]).encode()).hexdigest()[:32]
    events = b",".join([item.body for item in items])
    return f"batch-{digest}", b'{"type":"session.batch","events":[%b]}' % events


def probe_body(now: str) -> bytes:
    return _encode({"type": "adjourn.probe", "timestamp": now})


# --- thin payloads ----------------------------------------------------------------------------------------------------


def thin(body: bytes, bytes_max: int, url: str) -> bytes:
    """Without as few of its largest fields, and fields of these, as it takes to fit. What identifies the event and what
    Adjourn knows of it stays in any case."""
    fields = _decode(body)
    inner = {name: _decode(raw) for name, raw in fields.items() if bytes(raw)[:1] == b"{"}
    facts = inner.pop("adjourn")
    sent = facts.pop("sent", None)
    left_out = [] if sent is None else ["adjourn.sent"]
    whole = Whole(url=url, bytes=len(body), left_out=left_out)
    size = len(_encode({**fields, "adjourn": {**facts, "payload": whole}}))
    for length, name, part in sorted(_parts(fields, inner), reverse=True):
        if size <= bytes_max:
            break
        size -= length
        del (inner[name] if part else fields)[part or name]
        if len(left_out) < NAMED_MAX:
            left_out.append((f"{name}.{part}" if part else name)[:NAME_CHARACTERS])
            size += len(_encode(left_out[-1])) + 1
    return _encode({**fields, **inner, "adjourn": {**facts, "payload": whole}})


_KEPT = frozenset({"event_id", "event_type", "amends", "timestamp", "adjourn"})


def _parts(fields: Fields, inner: dict[str, Fields]) -> Iterator[tuple[int, str, str]]:
    """(bytes, field, field within it or "") of all that may be left out."""
    for name, raw in fields.items():
        if name in inner:
            for part, value in inner[name].items():
                if (name, part) != ("session", "session_id"):
                    yield len(part) + len(bytes(value)) + 4, name, part
        elif name not in _KEPT:
            yield len(name) + len(bytes(raw)) + 4, name, ""
