"""`session.status_changed`, as Adjourn writes it when a session that it hosts changes its status. Pure.

It is no claim of a sender's: nothing of it is judged, priced or kept in quarantine. Redaction looks at it like at any
other event, since its reason may be what a caller wrote.
"""

from __future__ import annotations

import msgspec

from adjourn import ids
from adjourn.clock import rfc3339
from adjourn.completion.hashes import content_hash, event_id_hash
from adjourn.completion.redact import Redact
from adjourn.events import STATUS_CHANGED, Record

REASON_LENGTH_MAX = 1_024

_encode = msgspec.json.encode


class Change(msgspec.Struct, frozen=True, gc=False):
    """`revision` rises with each change of one session: it is part of the event's id."""

    from_status: str
    to_status: str
    reason: str
    revision: int
    at_ms: int
    pattern: str = ""


def status_record(secret: bytes, tenant: str, session_id: str, change: Change, redact: Redact | None = None) -> Record:
    """The same session and revision always give the same id, which no completion of it is given."""
    # NUL occurs in no id, and two stand before no amendment's: see `dedupe.derived_id`.
    event_id = ids.derived_event_id(tenant, f"{session_id}\0\0{STATUS_CHANGED}", change.revision)
    session: dict[str, object] = {"session_id": session_id, "revision": change.revision}
    if change.pattern:
        session["pattern"] = change.pattern
    body = _encode(
        {
            "event_type": STATUS_CHANGED,
            "event_id": event_id,
            "timestamp": rfc3339(change.at_ms),
            "session": session,
            "from": change.from_status,
            "to": change.to_status,
            "reason": change.reason[:REASON_LENGTH_MAX],
        }
    )
    if redact is not None:
        body = redact(body)
    return record_of(secret, tenant, session_id, event_id, body, change.at_ms)


def record_of(
    secret: bytes, tenant: str, session_id: str, event_id: str, body: bytes, received_ms: int, sequence: int = 0
) -> Record:
    """Of an event that costs nothing and is one of several of its session."""
    return Record(
        tenant,
        session_id,
        event_id,
        body,
        event_id_hash(secret, tenant, event_id),
        content_hash(secret, tenant, body),
        received_ms,
        sequence=sequence,
    )
