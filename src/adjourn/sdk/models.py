"""What a server answers, as types. Fields that a newer server adds are passed over."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from adjourn.events import Completion, decode_completion, event_type_of

EventStatus = Literal["accepted", "duplicate", "conflict", "invalid"]


class EventResult(msgspec.Struct, frozen=True):
    """What became of one event: `accepted` and `duplicate` are in the log, `conflict` and `invalid` in quarantine."""

    # A closed set: a word that this version does not know must not be taken for delivered.
    status: EventStatus
    event_id: str | None = None
    """The event's own id, or the one that it was given; None where none could be read."""
    code: str = ""
    """Why it was not accepted: `field_missing`, `event_conflict` …; empty where it was."""
    path: str = ""
    """The offending field: `usage.total_tokens`."""
    message: str = ""
    remedy: str = ""
    quarantine_id: str = ""


class SendAnswer(msgspec.Struct, frozen=True):
    """The events of one request, all of them durable: counts, and one result per event, in order."""

    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    invalid: int = 0
    results: tuple[EventResult, ...] = ()


class EventAnswer(msgspec.Struct, frozen=True):
    """An event as it was sent, and what the server knows of it."""

    event: msgspec.Raw
    tenant: str
    partition: int
    offset: int
    received_at: str
    """RFC 3339, UTC."""
    cost_usd: Decimal | None
    """Exact; None where neither the sender nor the price table knew it."""
    price_ref: str
    """Where the cost came from: `sent`, or `genai-prices/0.2.3:openai/gpt-4o`; empty where there is none."""

    @property
    def event_type(self) -> str:
        """`session.completed`, `session.amended` or `session.status_changed`."""
        return event_type_of(bytes(self.event))

    def completion(self) -> Completion:
        """Raises ValueError for a change of status, which is none."""
        return decode_completion(self.event)


class DestinationCounts(msgspec.Struct, frozen=True):
    """Events handed to one destination."""

    sent: int
    success: int
    failure: int


class MetricsAnswer(msgspec.Struct, frozen=True):
    """Since the server's process started. Latencies are from an event's arrival to its delivery."""

    events_captured: int
    events_routed_success: int
    events_routed_failure: int
    average_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    buffer_utilization: float
    """Per cent of the write queue in use."""
    destination_stats: dict[str, DestinationCounts]


SessionState = Literal["open", "completed", "abandoned", "amended"]


class WatchedAnswer(msgspec.Struct, frozen=True):
    """A watched session. Its completion is event `event_id`, once it is not open any more."""

    session_id: str
    attempt: int
    state: SessionState
    lease_ms: int
    event_id: str
    amendment_id: str | None
    """Of a completion that came after the session had been abandoned."""
    began_at: str
    """RFC 3339, UTC, by the server's clock; so are the others."""
    heard_at: str
    expires_at: str | None
    ended_at: str | None


class WatchedPage(msgspec.Struct, frozen=True):
    """One page; `next_cursor` leads to the next, None after the last."""

    sessions: tuple[WatchedAnswer, ...]
    next_cursor: str | None


class CompletedAnswer(msgspec.Struct, frozen=True):
    """`accepted`: this is the session's completion. `amended`: it had been abandoned, and this corrects that.
    `duplicate`: it was there already."""

    # A closed set, as above.
    status: Literal["accepted", "amended", "duplicate"]
    session_id: str
    attempt: int
    event_id: str
    amends: str | None = None


class ProblemAnswer(msgspec.Struct, frozen=True):
    """An error as RFC 9457 writes it; every member may be missing, since proxies write such bodies too."""

    title: str = ""
    detail: str = ""
    code: str = ""
    path: str = ""
    retry_after_ms: int | None = None
