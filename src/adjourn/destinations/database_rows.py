"""The table that completions are written to: its columns, and how a stored event becomes one row of it.

Both databases share the columns. `docs/reference/destinations.md` describes every one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from adjourn.clock import rfc3339
from adjourn.destination import Refusal
from adjourn.events import MetadataPart, OutcomePart, StoredEvent, UsagePart, UserPart

TABLE_VERSION = 1
"""Of the columns and indexes below. Later versions only ever add to them."""

Value: TypeAlias = str | int | None
Row: TypeAlias = tuple[Value, ...]


class Column(NamedTuple):
    name: str
    kind: Literal["text", "integer", "time", "json"]
    required: bool = False


COLUMNS = (
    Column("tenant", "text", required=True),
    Column("session_id", "text", required=True),
    Column("event_id", "text", required=True),
    Column("event_type", "text", required=True),
    Column("amends", "text"),
    Column("occurred_at", "time", required=True),
    Column("received_at", "time", required=True),
    Column("session_type", "text"),
    Column("attempt", "integer"),
    Column("started_at", "time"),
    Column("ended_at", "time"),
    Column("duration_ms", "integer"),
    Column("input_modality", "text"),
    Column("transport", "text"),
    Column("user_id", "text"),
    Column("organization_id", "text"),
    Column("tier", "text"),
    Column("model", "text"),
    Column("input_tokens", "integer"),
    Column("output_tokens", "integer"),
    Column("total_tokens", "integer"),
    Column("cache_read_input_tokens", "integer"),
    Column("cache_creation_input_tokens", "integer"),
    Column("reasoning_output_tokens", "integer"),
    Column("tool_calls", "integer"),
    Column("cost_nanousd", "integer"),
    Column("price_ref", "text"),
    Column("status", "text"),
    Column("error_code", "text"),
    Column("source", "text"),
    Column("client_version", "text"),
    Column("partition", "integer", required=True),
    Column("offset", "integer", required=True),
    Column("payload", "json", required=True),
)
COLUMN_LIST = ", ".join(f'"{column.name}"' for column in COLUMNS)
PRIMARY_KEY = "PRIMARY KEY (tenant, session_id, event_id)"
# Names the key: an owner's own UNIQUE rule must refuse an event aloud, not swallow it.
ON_CONFLICT = "ON CONFLICT (tenant, session_id, event_id) DO NOTHING"

# Every index is paid for by every write: these are what billing and support ask for; sessions are found by the key.
INDEXES = {
    "user": "(tenant, user_id, occurred_at) WHERE user_id IS NOT NULL",
    "model": "(tenant, model, occurred_at) WHERE model IS NOT NULL",
    "failed": "(tenant, status, occurred_at) WHERE status <> 'success'",
}

_NO_USER = UserPart()
_NO_USAGE = UsagePart()
_NO_OUTCOME = OutcomePart()
_NO_METADATA = MetadataPart()

# Events of one batch were mostly received in the same few milliseconds.
_received = lru_cache(maxsize=256)(rfc3339)


def _time(value: datetime | None) -> str | None:
    """`2025-12-21T10:30:45.123Z`: always 24 characters in UTC, so that text sorts as time. Finer digits are cut off."""
    if value is None:
        return None
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    return value.isoformat(timespec="milliseconds")[:-6] + "Z"


def row(event: StoredEvent) -> Row:
    """The values of COLUMNS. Raises MsgspecError, ValueError, OverflowError or RecursionError for what is no event."""
    completion = event.completion()
    if completion.event_id is None:
        raise ValueError("it has no event_id")
    session = completion.session
    user = completion.user or _NO_USER
    usage = completion.usage or _NO_USAGE
    outcome = completion.outcome or _NO_OUTCOME
    metadata = completion.metadata or _NO_METADATA
    received_at = _received(event.received_ms)
    ended_at = _time(session.end_time)
    return (
        event.tenant,
        session.session_id,
        completion.event_id,
        completion.event_type,
        completion.amends,
        _time(completion.timestamp) or ended_at or received_at,
        received_at,
        session.session_type,
        session.attempt,
        _time(session.start_time),
        ended_at,
        session.duration_ms,
        session.input_modality,
        session.transport,
        user.user_id,
        user.organization_id,
        user.tier,
        usage.model,
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.reasoning_output_tokens,
        usage.tool_calls,
        event.cost_nanousd,
        event.price_ref or None,
        outcome.status,
        outcome.error_code,
        metadata.source,
        metadata.client_version,
        event.partition,
        event.offset,
        str(event.body, "utf-8"),
    )


def rows(events: Sequence[StoredEvent]) -> tuple[list[tuple[int, Row]], list[Refusal]]:
    """(index in the batch, row) of every event that can be read, and a refusal for every other."""
    readable: list[tuple[int, Row]] = []
    refusals: list[Refusal] = []
    for index, event in enumerate(events):
        try:
            readable.append((index, row(event)))
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            reason = f"the event cannot be read as a completion: {error}; correct it and send it again"
            refusals.append(Refusal(index=index, code="event_invalid", reason=reason))
    return readable, refusals
