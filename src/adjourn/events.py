"""What an event is: schema v1.2 of completions, the changes of status that Adjourn writes itself, and the forms in
which events travel inside Adjourn.

The bytes that a sender wrote are kept as they came (`body`), so that unknown fields survive; what Adjourn adds (cost,
price provenance, times) stands beside them. Times are RFC 3339 with an offset; counts are integers; cost outside is
decimal USD, inside integer nano-USD.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

SCHEMA_VERSION = "v1.2"
ID_LENGTH_MAX = 256
BEACON = "beacon"
"""`metadata.source` of what a browser claims under a public key: it is never priced."""
BEACON_PREFIX = "beacon_"
"""Before the ids of such events and of their sessions."""

Id = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH_MAX)]
Time = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Short = Annotated[str, Meta(max_length=1024)]

EventType = Literal["session.completed", "session.amended"]
COMPLETION_TYPES: Final[tuple[str, ...]] = get_args(EventType)
"""What senders send, and destinations receive unless their settings say otherwise."""
AMENDED: Final = "session.amended"
STATUS_CHANGED: Final = "session.status_changed"
EVENT_TYPES: Final = (*COMPLETION_TYPES, STATUS_CHANGED)
"""All that the log may hold."""
SessionType = Literal["chat", "api", "autonomous", "realtime"]
Modality = Literal["text", "audio", "video", "image"]
Transport = Literal["http", "sse", "websocket", "webrtc", "sip"]
OutcomeStatus = Literal["success", "error", "timeout", "user_terminated"]


class SessionPart(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    session_id: Id
    session_type: SessionType | None = None
    start_time: Time | None = None
    end_time: Time | None = None
    duration_ms: Count | None = None
    input_modality: Modality | None = None
    transport: Transport | None = None
    attempt: Count | None = None
    """Which run of the session this completes, from 1; part of the id that an event without one is given."""


class UserPart(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    user_id: Id | None = None
    organization_id: Id | None = None
    tier: Short | None = None


class UsagePart(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    model: Short | None = None
    estimated_cost_usd: Decimal | None = None
    tool_calls: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    reasoning_output_tokens: Count | None = None


class OutcomePart(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    status: OutcomeStatus | None = None
    final_message: str | None = None
    error_code: Short | None = None
    final_state: msgspec.Raw | UnsetType = UNSET


class MetadataPart(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    client_version: Short | None = None
    source_ip: Short | None = None
    source: Short | None = None
    """Which door or SDK it came through; `capture.sources` may restrict it."""
    custom_tags: dict[str, msgspec.Raw] | None = None


class Completion(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    """One `session.completed` (or `session.amended`) event as senders write it. Only `session.session_id` is a must."""

    event_type: EventType = "session.completed"
    event_id: Id | None = None
    timestamp: Time | None = None
    session: SessionPart
    user: UserPart | None = None
    usage: UsagePart | None = None
    outcome: OutcomePart | None = None
    metadata: MetadataPart | None = None
    amends: Id | None = None
    """On `session.amended`: the id of the event that this one corrects."""


class HostedPart(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    session_id: Id
    pattern: Short | None = None
    revision: Count | None = None
    """Rises with each change of the session."""


class StatusChanged(
    msgspec.Struct, gc=False, omit_defaults=True, kw_only=True, rename={"from_status": "from", "to_status": "to"}
):
    """One `session.status_changed` event: Adjourn itself writes it when a session that it hosts changes its status."""

    event_type: Literal["session.status_changed"]
    event_id: Id
    timestamp: Time | None = None
    session: HostedPart
    from_status: Short | None = None
    to_status: Short | None = None
    reason: Short | None = None


class Record(msgspec.Struct, gc=False):
    """An event on its way into the log: validated, priced, identified."""

    tenant: str
    session_id: str
    event_id: str
    body: bytes
    """The event's JSON object as the sender wrote it, with `event_id` put in if it had none."""
    id_hash: bytes
    """8 bytes: the event id under the installation's secret and the tenant."""
    content_hash: bytes
    """8 bytes over the body as it was sent."""
    received_ms: int
    cost_nanousd: int | None = None
    price_ref: str = ""
    """Where the cost came from: `sent`, or `genai-prices/0.2.3:openai/gpt-4o`; empty when there is none."""
    dedupe_hash: bytes = b""
    """8 bytes: what the window holds it by, where that is not the event id (`dedupe_by: session`); else empty."""
    sequence: int = 0
    """Of a known producer: this event's number in its stream, from 1. 0 for anonymous senders."""


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event read back from the log, at (partition, offset)."""

    partition: int
    offset: int
    tenant: str
    body: bytes
    received_ms: int
    cost_nanousd: int | None
    price_ref: str

    def completion(self) -> Completion:
        """Raises ValueError where it is none: `is_status_changed` tells."""
        return decode_completion(self.body)


class Identity(msgspec.Struct, gc=False):
    """As little of an event as routing needs; decodes several times faster than the whole."""

    event_id: str
    session: SessionIdentity


class SessionIdentity(msgspec.Struct, gc=False):
    session_id: str


decode_completion = msgspec.json.Decoder(Completion).decode
decode_identity = msgspec.json.Decoder(Identity).decode
decode_status_changed = msgspec.json.Decoder(StatusChanged).decode


class _Kind(msgspec.Struct, gc=False):
    event_type: str | None = None


_decode_kind = msgspec.json.Decoder(_Kind).decode
_MARK: Final = STATUS_CHANGED.encode()
STATUS_CHANGED_BYTES_MAX: Final = 16_384
"""More than one can have, however its reason is written: larger events need not be searched."""


def event_type_of(body: bytes) -> str:
    """Without looking at the rest; empty where that cannot be read."""
    try:
        return _decode_kind(body).event_type or "session.completed"
    except (ValueError, RecursionError):
        return ""


def is_status_changed(body: bytes) -> bool:
    """Nearly free where it is not: Adjourn writes these events itself, and never with escapes in their type."""
    return len(body) <= STATUS_CHANGED_BYTES_MAX and _MARK in body and event_type_of(body) == STATUS_CHANGED


def decode_event(body: bytes) -> Completion | StatusChanged:
    """Raises ValueError, ArithmeticError or RecursionError for what is neither."""
    return decode_status_changed(body) if is_status_changed(body) else decode_completion(body)
