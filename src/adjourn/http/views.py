"""What the API answers, as types; OpenAPI is made from them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from adjourn.clock import rfc3339
from adjourn.completion.quarantine import Quarantined
from adjourn.delivery.conservation import Balance
from adjourn.delivery.whereabouts import Place, Whereabouts
from adjourn.events import StoredEvent
from adjourn.security.keys import Key


class EventView(msgspec.Struct):
    """An event as it was sent, and what Adjourn knows of it."""

    event: msgspec.Raw
    tenant: str
    partition: int
    offset: int
    received_at: str
    cost_usd: str | None
    """Decimal USD, exact; null where neither the sender nor the price table knew it."""
    price_ref: str
    deliveries: list[DeliveryView]
    """Where it is, for each destination."""

    @classmethod
    def of(cls, event: StoredEvent, places: Sequence[Whereabouts]) -> EventView:
        return cls(
            msgspec.Raw(event.body),
            event.tenant,
            event.partition,
            event.offset,
            rfc3339(event.received_ms),
            None if event.cost_nanousd is None else usd(event.cost_nanousd),
            event.price_ref,
            [DeliveryView.of(place) for place in places],
        )


class StreamedEvent(msgspec.Struct):
    """An event as it was sent, and what Adjourn knows of it."""

    event: msgspec.Raw
    tenant: str
    partition: int
    offset: int
    received_at: str
    cost_usd: str | None
    price_ref: str

    @classmethod
    def of(cls, event: StoredEvent) -> StreamedEvent:
        return cls(
            msgspec.Raw(event.body),
            event.tenant,
            event.partition,
            event.offset,
            rfc3339(event.received_ms),
            None if event.cost_nanousd is None else usd(event.cost_nanousd),
            event.price_ref,
        )


class DeliveryView(msgspec.Struct):
    """Where one event is for one destination. `since`: when it came there; `next_try_at`: of a retrying one. `attempts`
    of a delivered one are those of its batch. `settled`: done with, and how was deleted by age."""

    destination: str
    place: Place
    attempts: int
    since: str | None
    next_try_at: str | None
    code: str
    reason: str

    @classmethod
    def of(cls, found: Whereabouts) -> DeliveryView:
        return cls(
            found.destination,
            found.place,
            found.attempts,
            None if found.since_ms is None else rfc3339(found.since_ms),
            None if found.next_ms is None else rfc3339(found.next_ms),
            found.code,
            found.reason,
        )


class QuarantineView(msgspec.Struct):
    """Something that was refused. `body` is text where it is UTF-8, and `body_base64` is the bytes where it is not."""

    id: str
    received_at: str
    code: str
    path: str
    message: str
    source: str
    state: str
    size_bytes: int
    body: str | None
    body_base64: bytes | None

    @classmethod
    def of(cls, entry: Quarantined) -> QuarantineView:
        try:
            text = entry.body.decode()
        except UnicodeDecodeError:
            text = None
        return cls(
            entry.id,
            rfc3339(entry.received_ms),
            entry.code,
            entry.path,
            entry.message,
            entry.source,
            entry.state,
            len(entry.body),
            text,
            entry.body if text is None else None,
        )


class QuarantinePage(msgspec.Struct):
    """`next_cursor` is given back as `cursor` for the page after; null on the last."""

    entries: list[QuarantineView]
    next_cursor: str | None


class KeyView(msgspec.Struct):
    id: str
    tenant: str
    name: str
    role: str
    created_at: str
    revoked_at: str | None

    @classmethod
    def of(cls, key: Key) -> KeyView:
        revoked = None if key.revoked_ms is None else rfc3339(key.revoked_ms)
        return cls(key.id, key.tenant, key.name, key.role, rfc3339(key.created_ms), revoked)


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """The key is made for the caller's own tenant."""

    role: str
    name: str = ""


class CreatedKey(msgspec.Struct):
    """`secret` is shown this once."""

    key: KeyView
    secret: str


class DestinationView(msgspec.Struct):
    """`waiting`: why nothing is delivered now, as the node that delivers said last; "not running" where none does;
    empty when all is well. The counts are events, of all tenants."""

    name: str
    waiting: str
    captured: int
    before: int
    delivered: int
    filtered: int
    sampled_out: int
    dead_lettered: int
    expired: int
    discarded: int
    lost: int
    pending: int
    difference: int

    @classmethod
    def of(cls, balance: Balance, waiting: str) -> DestinationView:
        return cls(
            name=balance.destination,
            waiting=waiting,
            difference=balance.difference,
            **{name: getattr(balance, name) for name in balance.__struct_fields__ if name != "destination"},
        )


class DestinationStats(msgspec.Struct):
    """`sent`, `success`, `failure`, `retries` and the latencies are this process's, since its start; the rest is the
    database's. `waiting`: why nothing is delivered now; empty when all is well."""

    sent: int = 0
    success: int = 0
    failure: int = 0
    retries: int = 0
    waiting: str = ""
    paused: bool = False
    pending: int = 0
    parked: int = 0
    dead_lettered: int = 0
    oldest_pending_ms: int = 0
    """Age of the oldest event that is pending."""
    average_latency_ms: float = 0.0
    p95_latency_ms: float = 0.0
    p99_latency_ms: float = 0.0


class Metrics(msgspec.Struct):
    """Since this process started. Latencies are from an event's arrival at this node to its delivery."""

    events_captured: int
    events_routed_success: int
    events_routed_failure: int
    average_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    buffer_utilization: float
    """Per cent of the write queue in use."""
    destination_stats: dict[str, DestinationStats]


class Probe(msgspec.Struct):
    status: str
    detail: str = ""


def usd(nanousd: int) -> str:
    """Integer nano-USD as decimal USD, exact, without an exponent."""
    text = f"{Decimal(nanousd).scaleb(-9):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
