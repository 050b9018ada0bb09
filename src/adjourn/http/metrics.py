"""What a node counts, in two forms: a JSON summary, and Prometheus text. docs/reference/metrics.md lists the names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from adjourn.http.views import DestinationStats, Metrics
from adjourn.node import Node

PROMETHEUS_TYPE = "text/plain; version=0.0.4"
"""The framework adds the character set."""

NAMES = {
    "adjourn_events_total": "Events received by this process, by what became of them.",
    "adjourn_events_unpriced_total": "Accepted or duplicate events whose cost neither sender nor price table knew.",
    "adjourn_unknown_models_total": "Events that named a model the price table does not know, by model.",
    "adjourn_write_queue_events": "Events that wait to be written.",
    "adjourn_dedupe_window_entries": "Identities in the dedupe window.",
    "adjourn_dedupe_window_effective_seconds": "How far back a resend is recognised now.",
    "adjourn_dedupe_window_spilled_bytes": "How much of the dedupe window is in files.",
    "adjourn_log_events": "Events ever appended to the log.",
    "adjourn_destination_events": "Events of the log by what became of them at a destination.",
    "adjourn_destination_waiting": "1 while a destination cannot be delivered to.",
    "adjourn_delivery_latency_seconds": "From arrival at this node to delivery, by quantile.",
}


def summary(node: Node) -> Metrics:
    delivery, counters, health = node.delivery, node.ingest.counters, node.database.health()
    stats = delivery.stats
    return Metrics(
        events_captured=counters.accepted,
        events_routed_success=sum(s.success for s in stats.values()),
        events_routed_failure=sum(s.failure for s in stats.values()),
        average_latency_ms=round(delivery.latency.mean_ms(), 3),
        p95_latency_ms=round(delivery.latency.quantile_ms(0.95), 3),
        p99_latency_ms=round(delivery.latency.quantile_ms(0.99), 3),
        buffer_utilization=round(100 * health.waiting_events / health.queue_events_max, 3),
        destination_stats={name: DestinationStats(s.sent, s.success, s.failure) for name, s in stats.items()},
    )


async def prometheus_text(node: Node) -> bytes:
    families = [*_ingest(node), *_window(node), *await _destinations(node)]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _counter(name: str, label: str, values: dict[str, float]) -> Metric:
    family = CounterMetricFamily(name.removesuffix("_total"), NAMES[name], labels=[label] if label else [])
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family


def _gauge(name: str, labels: list[str], values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, NAMES[name], labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _ingest(node: Node) -> list[Metric]:
    counters = node.ingest.counters
    by_status: dict[str, float] = {
        "accepted": counters.accepted,
        "duplicate": counters.duplicate,
        "conflict": counters.conflict,
        "invalid": counters.invalid,
    }
    unknown = {model: float(count) for model, count in node.prices.unknown_models.items()}
    return [
        _counter("adjourn_events_total", "status", by_status),
        _counter("adjourn_events_unpriced_total", "", {"": counters.unpriced}),
        _counter("adjourn_unknown_models_total", "model", unknown),
        _gauge("adjourn_write_queue_events", [], {(): node.database.health().waiting_events}),
    ]


def _window(node: Node) -> list[Metric]:
    stats = node.appender.window_stats()
    return [
        _gauge("adjourn_dedupe_window_entries", [], {(): sum(s.entries for s in stats)}),
        _gauge("adjourn_dedupe_window_effective_seconds", [], {(): min((s.effective_s for s in stats), default=0.0)}),
        _gauge("adjourn_dedupe_window_spilled_bytes", [], {(): sum(s.spilled_bytes for s in stats)}),
    ]


async def _destinations(node: Node) -> list[Metric]:
    delivery = node.delivery
    kinds = ("before", "delivered", "sampled_out", "dead_lettered", "expired", "lost", "pending", "difference")
    events = {(b.destination, kind): float(getattr(b, kind)) for b in await delivery.balances() for kind in kinds}
    latency = delivery.latency
    return [
        _gauge("adjourn_log_events", [], {(): sum(await node.log.heads())}),
        _gauge("adjourn_destination_events", ["destination", "kind"], events),
        _gauge(
            "adjourn_destination_waiting",
            ["destination"],
            {(name,): 1.0 if stats.waiting else 0.0 for name, stats in delivery.stats.items()},
        ),
        _gauge(
            "adjourn_delivery_latency_seconds",
            ["quantile"],
            {(str(q),): latency.quantile_ms(q) / 1000 for q in (0.5, 0.95, 0.99)},
        ),
    ]
