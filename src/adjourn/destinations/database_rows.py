"""The tables that events are written to, one for completions and one for changes of status: their columns, and how a
stored event becomes one row. A table of completions holds nothing else, so that its rows can be counted and summed.

Both databases share the columns. `docs/reference/destinations.md` describes every one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from adjourn.clock import rfc3339
from adjourn.destination import Refusal
from adjourn.events import (
    MetadataPart,
    OutcomePart,
    StoredEvent,
    UsagePart,
    UserPart,
    decode_status_changed,
    is_status_changed,
)

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
STATUS_COLUMNS = (
    Column("tenant", "text", required=True),
    Column("session_id", "text", required=True),
    Column("event_id", "text", required=True),
    Column("revision", "integer"),
    Column("occurred_at", "time", required=True),
    Column("received_at", "time", required=True),
    Column("from_status", "text"),
    Column("to_status", "text"),
    Column("reason", "text"),
    Column("pattern", "text"),
    Column("partition", "integer", required=True),
    Column("offset", "integer", required=True),
    Column("payload", "json", required=True),
)
PRIMARY_KEY = "PRIMARY KEY (tenant, session_id, event_id)"
# Names the key: an owner's own UNIQUE rule must refuse an event aloud, not swallow it.
ON_CONFLICT = "ON CONFLICT (tenant, session_id, event_id) DO NOTHING"

# Every index is paid for by every write: these are what billing and support ask for; sessions are found by the key.
INDEXES = {
    "user": "(tenant, user_id, occurred_at) WHERE user_id IS NOT NULL",
    "model": "(tenant, model, occurred_at) WHERE model IS NOT NULL",
    "failed": "(tenant, status, occurred_at) WHERE status <> 'success'",
}


class Shape(NamedTuple):
    """What a table is made of beside its primary key, which all have in common."""

    columns: tuple[Column, ...]
    indexes: Mapping[str, str]
    priced: bool
    """Whether it has `cost_usd`, computed of `cost_nanousd`."""

    @property
    def column_list(self) -> str:
        return ", ".join(f'"{column.name}"' for column in self.columns)


COMPLETIONS = Shape(COLUMNS, INDEXES, priced=True)
STATUS_CHANGES = Shape(STATUS_COLUMNS, {}, priced=False)
STATUS_SUFFIX = "_status"
"""Behind the name of the table of completions."""

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


def status_row(event: StoredEvent) -> Row:
    """The values of STATUS_COLUMNS. Raises as `row` does."""
    change = decode_status_changed(event.body)
    received_at = _received(event.received_ms)
    return (
        event.tenant,
        change.session.session_id,
        change.event_id,
        change.session.revision,
        _time(change.timestamp) or received_at,
        received_at,
        change.from_status,
        change.to_status,
        change.reason,
        change.session.pattern,
        event.partition,
        event.offset,
        str(event.body, "utf-8"),
    )


class Rows(NamedTuple):
    """(index in the batch, row) of every event that can be read, by the table that it belongs to, and a refusal for
    every other."""

    completions: list[tuple[int, Row]]
    status_changes: list[tuple[int, Row]]
    refusals: list[Refusal]


def rows(events: Sequence[StoredEvent]) -> Rows:
    found = Rows([], [], [])
    for index, event in enumerate(events):
        try:
            if is_status_changed(event.body):
                found.status_changes.append((index, status_row(event)))
            else:
                found.completions.append((index, row(event)))
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            reason = f"the event cannot be read: {error}; correct it and send it again"
            found.refusals.append(Refusal(index=index, code="event_invalid", reason=reason))
    return found
