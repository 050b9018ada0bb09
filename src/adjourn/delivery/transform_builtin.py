"""The transforms that have names. Each gives a completion with fewer fields and one object of its own beside them, so
that every destination can take it, a database included. docs/reference/transforms.md shows each one's output.

What counts sessions and their costs takes completions alone: a change of status is none, and is filtered out.

Values that are passed on are copied byte for byte: numbers keep their digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from functools import lru_cache

import msgspec
from msgspec import UNSET, Raw, UnsetType

from adjourn.clock import rfc3339
from adjourn.delivery.transform_view import usd_text
from adjourn.errors import ShapingFailed
from adjourn.events import Completion, StoredEvent, decode_completion, is_status_changed

_Sent = Raw | UnsetType
_received = lru_cache(maxsize=256)(rfc3339)
_encode = msgspec.json.encode


class _Session(msgspec.Struct, gc=False, kw_only=True):
    session_id: str
    session_type: _Sent = UNSET
    start_time: _Sent = UNSET
    end_time: _Sent = UNSET
    duration_ms: _Sent = UNSET
    input_modality: _Sent = UNSET
    transport: _Sent = UNSET
    attempt: _Sent = UNSET


class _User(msgspec.Struct, gc=False, kw_only=True):
    user_id: _Sent = UNSET
    organization_id: _Sent = UNSET
    tier: _Sent = UNSET


class _Usage(msgspec.Struct, gc=False, kw_only=True):
    model: _Sent = UNSET
    input_tokens: _Sent = UNSET
    output_tokens: _Sent = UNSET
    total_tokens: _Sent = UNSET
    cache_read_input_tokens: _Sent = UNSET
    cache_creation_input_tokens: _Sent = UNSET
    reasoning_output_tokens: _Sent = UNSET
    tool_calls: _Sent = UNSET
    estimated_cost_usd: Decimal | UnsetType | None = UNSET


class _Outcome(msgspec.Struct, gc=False, kw_only=True):
    status: _Sent = UNSET
    error_code: _Sent = UNSET


class _Tags(msgspec.Struct, gc=False, kw_only=True):
    custom_tags: _Sent = UNSET


class _Origin(msgspec.Struct, gc=False, kw_only=True):
    client_version: _Sent = UNSET
    source: _Sent = UNSET


class _Head(msgspec.Struct, gc=False, kw_only=True):
    event_type: str = "session.completed"
    event_id: str
    amends: _Sent = UNSET
    timestamp: _Sent = UNSET
    session: _Session
    user: _User | UnsetType | None = UNSET
    usage: _Usage | UnsetType | None = UNSET
    outcome: _Outcome | UnsetType | None = UNSET


class _Bill(msgspec.Struct, gc=False, kw_only=True):
    tenant: str
    amount_usd: str | None
    price_ref: str | None
    received_at: str


class _Billing(_Head, gc=False, kw_only=True):
    metadata: _Tags | UnsetType | None = UNSET
    billing: _Bill | UnsetType = UNSET


class _Analysis(msgspec.Struct, gc=False, kw_only=True):
    tenant: str
    date: str
    hour: int
    succeeded: bool | None
    duration_ms: int | None
    total_tokens: int | None
    cost_usd: str | None
    received_at: str


class _Analytics(_Head, gc=False, kw_only=True):
    metadata: _Origin | UnsetType | None = UNSET
    analytics: _Analysis | UnsetType = UNSET


class _Audit(msgspec.Struct, gc=False, kw_only=True):
    tenant: str
    received_at: str
    partition: int
    offset: int
    cost_usd: str | None
    price_ref: str | None
    body_sha256: str
    sent: Raw | UnsetType = UNSET


class Builtin(msgspec.Struct, frozen=True):
    make: Callable[[StoredEvent], bytes | None]
    """None: it is not for events of this kind."""
    gives: str


_decode_billing = msgspec.json.Decoder(_Billing).decode
_decode_analytics = msgspec.json.Decoder(_Analytics).decode


def _billing_v1(event: StoredEvent) -> bytes:
    shaped = _decode_billing(event.body)
    shaped.billing = _Bill(
        tenant=event.tenant,
        amount_usd=_amount(event),
        price_ref=event.price_ref or None,
        received_at=_received(event.received_ms),
    )
    return _encode(shaped)


def _analytics_v2(event: StoredEvent) -> bytes:
    shaped, completion = _decode_analytics(event.body), decode_completion(event.body)
    session, usage, outcome = completion.session, completion.usage, completion.outcome
    ended = completion.timestamp or session.end_time
    # Received at: what has no time of its own happened, as far as anyone knows, when it came.
    when = _received(event.received_ms) if ended is None else ended.astimezone(UTC).isoformat()
    shaped.analytics = _Analysis(
        tenant=event.tenant,
        date=when[:10],
        hour=int(when[11:13]),
        succeeded=None if outcome is None or outcome.status is None else outcome.status == "success",
        duration_ms=_duration_ms(completion),
        total_tokens=None if usage is None else _total(usage.total_tokens, usage.input_tokens, usage.output_tokens),
        cost_usd=_amount(event),
        received_at=_received(event.received_ms),
    )
    return _encode(shaped)


def _audit_v1(event: StoredEvent) -> bytes:
    """The whole body, byte for byte, and where it stands: `audit` is spliced in before its last brace."""
    body = event.body
    audit = _Audit(
        tenant=event.tenant,
        received_at=_received(event.received_ms),
        partition=event.partition,
        offset=event.offset,
        cost_usd=_amount(event),
        price_ref=event.price_ref or None,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )
    if b'"audit"' in body or b"\\u00" in body:
        fields = msgspec.json.decode(body, type=dict[str, Raw])
        if "audit" in fields:
            audit.sent = fields.pop("audit")
            body = _encode(fields)
    return b'%b,"audit":%b}' % (body.strip()[:-1], _encode(audit))


def _read(make: Callable[[StoredEvent], bytes]) -> Callable[[StoredEvent], bytes]:
    def made(event: StoredEvent) -> bytes:
        try:
            return make(event)
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise ShapingFailed(
                f"the event cannot be read as a completion: {error}; correct it and send it again"
            ) from error

    return made


def _of_completions(make: Callable[[StoredEvent], bytes]) -> Callable[[StoredEvent], bytes | None]:
    read = _read(make)
    return lambda event: None if is_status_changed(event.body) else read(event)


def _amount(event: StoredEvent) -> str | None:
    return None if event.cost_nanousd is None else usd_text(event.cost_nanousd)


def _duration_ms(completion: Completion) -> int | None:
    session = completion.session
    if session.duration_ms is not None or session.start_time is None or session.end_time is None:
        return session.duration_ms
    return max(0, round((session.end_time - session.start_time).total_seconds() * 1000))


def _total(total: int | None, input_tokens: int | None, output_tokens: int | None) -> int | None:
    if total is not None or (input_tokens is None and output_tokens is None):
        return total
    return (input_tokens or 0) + (output_tokens or 0)


BUILTINS = {
    "billing_v1": Builtin(
        _of_completions(_billing_v1), "who used how much, and what it cost; no text of the conversation"
    ),
    "analytics_v2": Builtin(_of_completions(_analytics_v2), "what to count and group by; no text, no address, no tags"),
    "audit_v1": Builtin(_read(_audit_v1), "the event as it was sent, and its place, cost and SHA-256"),
}
