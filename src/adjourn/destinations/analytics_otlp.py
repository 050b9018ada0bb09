"""An event as a log record of OpenTelemetry, in OTLP's JSON encoding. Pure.

JSON and not protobuf: both are OTLP/HTTP, every collector takes both, and JSON needs no generated code; packed, the two
differ little. Source: opentelemetry.io/docs/specs/otlp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from adjourn.destinations.outbound_lanes import Item
from adjourn.destinations.webhook_bodies import item_of as whole_item
from adjourn.events import Completion, StatusChanged, StoredEvent, decode_event
from adjourn.typed import decoder
from adjourn.version import __version__

GEN_AI_VERSION = 1
"""Of the GenAI attributes' names below, which OpenTelemetry may still change: it rises when ours follow."""

INFO, WARN, ERROR = (9, "INFO"), (13, "WARN"), (17, "ERROR")
_SEVERITIES = {"error": ERROR, "timeout": WARN}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_encode = msgspec.json.encode
Value = str | int | None


def item_of(index: int, event: StoredEvent, *, bytes_max: int, public_url: str) -> Item:
    """Raises ValueError, MsgspecError or RecursionError if the event's body is no event."""
    item = whole_item(index, event, bytes_max=bytes_max, public_url=public_url)
    decoded = decode_event(event.body)
    if isinstance(decoded, StatusChanged):
        moment, became, told = decoded.timestamp, decoded.to_status, _of_change(item.id, event, decoded)
    else:
        moment = decoded.timestamp or decoded.session.end_time
        became = None if decoded.outcome is None else decoded.outcome.status
        told = _attributes(item.id, event, decoded)
    number, text = _SEVERITIES.get(became or "", INFO)
    record = {
        "timeUnixNano": str(_nanoseconds(moment) if moment is not None else event.received_ms * 1_000_000),
        "observedTimeUnixNano": str(event.received_ms * 1_000_000),
        "severityNumber": number,
        "severityText": text,
        "eventName": decoded.event_type,
        "body": {"stringValue": str(item.body, "utf-8")},
        "attributes": [
            {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for key, value in told
            if value is not None
        ],
    }
    return msgspec.structs.replace(item, body=_encode(record))


def body_of(records: Sequence[bytes]) -> bytes:
    return b'{"resourceLogs":[{"resource":%b,"scopeLogs":[{"scope":%b,"logRecords":[%b]}]}]}' % (
        _RESOURCE,
        _SCOPE,
        b",".join(records),
    )


class _PartialSuccess(msgspec.Struct, rename="camel"):
    rejected_log_records: int | str = 0
    error_message: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


def rejected(answer: bytes) -> tuple[int, str]:
    """How many of the records were not taken, and why; an answer that cannot be read says nothing of the kind."""
    try:
        told = decoder(_Answer).decode(answer).partial_success
        return (0, "") if told is None else (int(told.rejected_log_records), told.error_message)
    except ValueError:  # msgspec.DecodeError is one
        return 0, ""


def _attributes(uid: str, event: StoredEvent, completion: Completion) -> Iterator[tuple[str, Value]]:
    """`log.record.uid` is the same for every attempt: records of one uid are one record, the conventions say."""
    session, cost = completion.session, event.cost_nanousd
    yield "log.record.uid", uid
    yield "session.id", session.session_id
    yield "gen_ai.operation.name", "invoke_agent"
    yield "gen_ai.conversation.id", session.session_id
    yield "gen_ai.provider.name", _provider(event.price_ref)
    if (user := completion.user) is not None:
        yield "user.id", user.user_id
        yield "adjourn.organization_id", user.organization_id
        yield "adjourn.tier", user.tier
    if (usage := completion.usage) is not None:
        yield "gen_ai.request.model", usage.model
        yield "gen_ai.usage.input_tokens", usage.input_tokens
        yield "gen_ai.usage.output_tokens", usage.output_tokens
        yield "gen_ai.usage.cache_read.input_tokens", usage.cache_read_input_tokens
        yield "gen_ai.usage.cache_creation.input_tokens", usage.cache_creation_input_tokens
        yield "gen_ai.usage.reasoning.output_tokens", usage.reasoning_output_tokens
        yield "adjourn.tool_calls", usage.tool_calls
    if (outcome := completion.outcome) is not None:
        yield "adjourn.status", outcome.status
        if outcome.status not in (None, "success"):
            yield "error.type", outcome.error_code or outcome.status
    yield "adjourn.event_id", completion.event_id
    yield "adjourn.amends", completion.amends
    yield "adjourn.tenant", event.tenant
    yield "adjourn.session_type", session.session_type
    yield "adjourn.duration_ms", session.duration_ms
    yield "adjourn.cost_nanousd", cost
    yield "adjourn.price_ref", event.price_ref or None


def _of_change(uid: str, event: StoredEvent, change: StatusChanged) -> Iterator[tuple[str, Value]]:
    yield "log.record.uid", uid
    yield "session.id", change.session.session_id
    yield "gen_ai.conversation.id", change.session.session_id
    yield "adjourn.event_id", change.event_id
    yield "adjourn.tenant", event.tenant
    yield "adjourn.from", change.from_status
    yield "adjourn.to", change.to_status
    yield "adjourn.reason", change.reason
    yield "adjourn.pattern", change.session.pattern
    yield "adjourn.revision", change.session.revision


def _provider(price_ref: str) -> str | None:
    """`genai-prices/0.2.3:openai/gpt-4o` names it."""
    _, _, model = price_ref.partition(":")
    provider, slash, _ = model.partition("/")
    return provider if slash else None


def _nanoseconds(moment: datetime) -> int:
    return max(0, (moment - _EPOCH) // _MICROSECOND * 1000)


_RESOURCE = _encode({"attributes": [{"key": "service.name", "value": {"stringValue": "adjourn"}}]})
_SCOPE = _encode(
    {
        "name": "adjourn.sessions",
        "version": __version__,
        "attributes": [{"key": "adjourn.gen_ai_version", "value": {"intValue": str(GEN_AI_VERSION)}}],
    }
)
