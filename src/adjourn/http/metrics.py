"""What a node counts, in two forms: a JSON summary, and Prometheus text. docs/reference/metrics.md lists the names.

Labels are names of destinations and fixed kinds, never a tenant or a session; of models there is a bounded number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from adjourn.completion import quarantine
from adjourn.delivery.channel import ChannelStats
from adjourn.delivery.conservation import KINDS
from adjourn.delivery.gate import GateState
from adjourn.delivery.latency import Latency
from adjourn.delivery.standing import Standing
from adjourn.http.rates import Rates
from adjourn.http.stream import Streams
from adjourn.http.views import DestinationStats, Metrics
from adjourn.logs import upkeep
from adjourn.node import Node
from adjourn.prices import OTHER_MODELS
from adjourn.sessions import queries
from adjourn.sessions import watched as rows
from adjourn.version import __version__

PROMETHEUS_TYPE = "text/plain; version=0.0.4"
"""The framework adds the character set."""

MODELS_MAX = 99
LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86_400)

NAMES = {
    "adjourn_info": "1; the version is in its label.",
    "adjourn_events_total": "Events received by this process, by what became of them.",
    "adjourn_events_unpriced_total": "Accepted or duplicate events whose cost neither sender nor price table knew.",
    "adjourn_unknown_models_total": "Events that named a model the price table does not know, by model.",
    "adjourn_otlp_spans_total": "Spans received by this process, by what became of them.",
    "adjourn_write_queue_events": "Events that wait to be written.",
    "adjourn_write_queue_events_max": "How many may wait before senders are told to come back.",
    "adjourn_dedupe_window_entries": "Identities in the dedupe window.",
    "adjourn_dedupe_window_effective_seconds": "How far back a resend is recognised now.",
    "adjourn_dedupe_window_spilled_bytes": "How much of the dedupe window is in files.",
    "adjourn_log_events": "Events ever appended to the log.",
    "adjourn_log_bytes": "Size of what the log holds now, compressed.",
    "adjourn_quarantine_held": "Entries of quarantine that nobody has retried with success.",
    "adjourn_watched_sessions_open": "Watched sessions that are open, of all tenants.",
    "adjourn_watched_sessions_abandoned_total": "Watched sessions that this process ended because their leases had.",
    "adjourn_sessions_live": "Hosted sessions that have not ended, of all tenants, by status and pattern.",
    "adjourn_sessions_due": "Hosted sessions whose time for the sweep has come, and which it has not reached.",
    "adjourn_sessions_limited_total": "Hosted sessions that this process ended because a limit of time was reached.",
    "adjourn_sessions_taken_over_total": "Hosted sessions that this process took over from nodes that had died.",
    "adjourn_turns_running": "Turns that this process runs now.",
    "adjourn_turns_total": "Turns that this process has settled, by how they ended.",
    "adjourn_turn_seconds_total": "Time that those turns took together.",
    "adjourn_turns_lost_total": "Turns that this process ran and another one had to settle.",
    "adjourn_runners_open": "Sessions whose runner this process holds open.",
    "adjourn_destination_events": "Events of the log by what became of them at a destination.",
    "adjourn_destination_parked": "Pending events that are tried again alone.",
    "adjourn_destination_oldest_seconds": "Age of the oldest pending event; 0 where none is.",
    "adjourn_destination_waiting": "1 while a destination cannot be delivered to, or is paused.",
    "adjourn_destination_paused": "1 while a destination is paused, until somebody resumes it.",
    "adjourn_destination_gate": "1 for the state of this process's gate: closed lets everything through.",
    "adjourn_destination_sent_total": "Events handed to the destination by this process, repetitions included.",
    "adjourn_destination_success_total": "Events that this process delivered.",
    "adjourn_destination_failure_total": "Events that this process gave to dead letters.",
    "adjourn_destination_retries_total": "Attempts of this process that ended in an outage.",
    "adjourn_delivery_latency_seconds": "From an event's arrival to its delivery by this process.",
    "adjourn_requests_limited_total": "Requests that this process refused by their rate, by whose it was.",
    "adjourn_streams": "Live streams that are open at this process.",
    "adjourn_streamed_events_total": "Events sent over all live streams of this process together.",
}


async def summary(node: Node) -> Metrics:
    delivery, counters, health = node.delivery, node.ingest.counters, node.database.health()
    stats, standing = delivery.stats, {one.name: one for one in await delivery.standings()}
    latency = delivery.latency
    return Metrics(
        events_captured=counters.accepted,
        events_routed_success=sum(s.success for s in stats.values()),
        events_routed_failure=sum(s.failure for s in stats.values()),
        average_latency_ms=round(latency.mean_ms(), 3),
        p95_latency_ms=round(latency.quantile_ms(0.95), 3),
        p99_latency_ms=round(latency.quantile_ms(0.99), 3),
        buffer_utilization=round(100 * health.waiting_events / health.queue_events_max, 3),
        destination_stats={
            name: _stats_of(stats.get(name, ChannelStats()), standing.get(name), node.clock.wall_ms())
            for name in sorted({*stats, *standing})
        },
    )


def _stats_of(stats: ChannelStats, standing: Standing | None, now_ms: int) -> DestinationStats:
    balance = standing.balance if standing else None
    return DestinationStats(
        sent=stats.sent,
        success=stats.success,
        failure=stats.failure,
        retries=stats.retries,
        waiting=stats.waiting or (standing.waiting if standing else ""),
        paused=standing is not None and standing.paused is not None,
        pending=balance.pending if balance else 0,
        parked=standing.parked if standing else 0,
        dead_lettered=balance.dead_lettered if balance else 0,
        oldest_pending_ms=_age_ms(standing, now_ms) if standing else 0,
        average_latency_ms=round(stats.latency.mean_ms(), 3),
        p95_latency_ms=round(stats.latency.quantile_ms(0.95), 3),
        p99_latency_ms=round(stats.latency.quantile_ms(0.99), 3),
    )


def _age_ms(standing: Standing, now_ms: int) -> int:
    return 0 if standing.oldest_ms is None else max(0, now_ms - standing.oldest_ms)


async def prometheus_text(node: Node, streams: Streams, rates: Rates) -> bytes:
    families = [
        *_ingest(node),
        *_window(node),
        *await _stored(node),
        *await _hosted(node),
        *_standing(await node.delivery.standings(), node.clock.wall_ms(), node.delivery.stats),
        *_delivery(node),
        _counter("adjourn_requests_limited_total", ["by"], {(by,): count for by, count in rates.refused.items()}),
        _gauge("adjourn_streams", [], {(): streams.count}),
        _counter("adjourn_streamed_events_total", [], {(): streams.sent}),
    ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


Values = Mapping[tuple[str, ...], float]


def _counter(name: str, labels: list[str], values: Values) -> Metric:
    family = CounterMetricFamily(name.removesuffix("_total"), NAMES[name], labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _gauge(name: str, labels: list[str], values: Values) -> Metric:
    family = GaugeMetricFamily(name, NAMES[name], labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _ingest(node: Node) -> list[Metric]:
    counters, health = node.ingest.counters, node.database.health()
    statuses = ("accepted", "duplicate", "conflict", "invalid")
    spans: dict[str, int] = msgspec.structs.asdict(node.traces.counters)
    return [
        _gauge("adjourn_info", ["version"], {(__version__,): 1}),
        _counter("adjourn_events_total", ["status"], {(status,): getattr(counters, status) for status in statuses}),
        _counter("adjourn_events_unpriced_total", [], {(): counters.unpriced}),
        _counter("adjourn_unknown_models_total", ["model"], _few(node.prices.unknown_models)),
        _counter("adjourn_otlp_spans_total", ["fate"], {(fate,): count for fate, count in spans.items()}),
        _gauge("adjourn_write_queue_events", [], {(): health.waiting_events}),
        _gauge("adjourn_write_queue_events_max", [], {(): health.queue_events_max}),
    ]


def _few(models: Mapping[str, int]) -> Values:
    """The first that came, which stay the first, so that no counter ever goes back; the others as one."""
    named = list(models.items())[:MODELS_MAX]
    few = {(model,): float(count) for model, count in named}
    rest = sum(models.values()) - sum(count for _, count in named)
    return few | ({(OTHER_MODELS,): few.get((OTHER_MODELS,), 0.0) + rest} if rest else {})


def _window(node: Node) -> list[Metric]:
    stats = node.appender.window_stats()
    return [
        _gauge("adjourn_dedupe_window_entries", [], {(): sum(s.entries for s in stats)}),
        _gauge("adjourn_dedupe_window_effective_seconds", [], {(): min((s.effective_s for s in stats), default=0.0)}),
        _gauge("adjourn_dedupe_window_spilled_bytes", [], {(): sum(s.spilled_bytes for s in stats)}),
    ]


async def _stored(node: Node) -> list[Metric]:
    return [
        _gauge("adjourn_log_events", [], {(): sum(await node.log.heads())}),
        _gauge("adjourn_log_bytes", [], {(): await node.database.read(upkeep.size_bytes)}),
        _gauge("adjourn_quarantine_held", [], {(): await node.database.read(quarantine.held)}),
        _gauge(
            "adjourn_watched_sessions_open",
            [],
            {(): sum((await node.database.read(rows.count_open)).values())},
        ),
        _counter("adjourn_watched_sessions_abandoned_total", [], {(): node.watched.watch.abandoned}),
    ]


async def _hosted(node: Node) -> list[Metric]:
    turns, sessions = node.sessions.turns, node.sessions
    live = await node.database.read(queries.live_by_status)
    return [
        _gauge("adjourn_sessions_live", ["status", "pattern"], live),
        _gauge("adjourn_sessions_due", [], {(): await node.database.read(queries.count_due, node.clock.wall_ms())}),
        _counter("adjourn_sessions_limited_total", [], {(): sessions.sweep.ended}),
        _counter("adjourn_sessions_taken_over_total", [], {(): sessions.owner.taken_over}),
        _gauge("adjourn_turns_running", [], {(): len(turns.live)}),
        _counter("adjourn_turns_total", ["status"], {(status,): count for status, count in turns.settled.items()}),
        _counter("adjourn_turn_seconds_total", [], {(): turns.settled_ms / 1000}),
        _counter("adjourn_turns_lost_total", [], {(): turns.lost_turns}),
        _gauge("adjourn_runners_open", [], {(): len(turns.opened.held)}),
    ]


def _standing(standings: Iterable[Standing], now_ms: int, stats: Mapping[str, ChannelStats]) -> list[Metric]:
    """Of the database, the same from every node; what this process knows sooner than the database, from here."""
    kinds = (*KINDS, "pending", "difference")
    events: dict[tuple[str, ...], float] = {}
    parked: dict[tuple[str, ...], float] = {}
    oldest: dict[tuple[str, ...], float] = {}
    waiting: dict[tuple[str, ...], float] = {}
    paused: dict[tuple[str, ...], float] = {}
    for one in standings:
        events |= {(one.name, kind): getattr(one.balance, kind) for kind in kinds}
        parked[(one.name,)] = one.parked
        oldest[(one.name,)] = _age_ms(one, now_ms) / 1000
        waiting[(one.name,)] = float(bool(one.waiting or (one.name in stats and stats[one.name].waiting)))
        paused[(one.name,)] = float(one.paused is not None)
    return [
        _gauge("adjourn_destination_events", ["destination", "kind"], events),
        _gauge("adjourn_destination_parked", ["destination"], parked),
        _gauge("adjourn_destination_oldest_seconds", ["destination"], oldest),
        _gauge("adjourn_destination_waiting", ["destination"], waiting),
        _gauge("adjourn_destination_paused", ["destination"], paused),
    ]


def _delivery(node: Node) -> list[Metric]:
    stats, gates = node.delivery.stats, node.delivery.gates
    states = {
        (name, state): float(state == now) for name, now in gates.items() for state in sorted(get_args(GateState))
    }
    counted = ("sent", "success", "failure", "retries")
    return [
        _gauge("adjourn_destination_gate", ["destination", "state"], states),
        *(
            _counter(
                f"adjourn_destination_{kind}_total",
                ["destination"],
                {(name,): getattr(s, kind) for name, s in stats.items()},
            )
            for kind in counted
        ),
        _histogram("adjourn_delivery_latency_seconds", {name: s.latency for name, s in stats.items()}),
    ]


def _histogram(name: str, latencies: Mapping[str, Latency]) -> Metric:
    family = HistogramMetricFamily(name, NAMES[name], labels=["destination"])
    for destination, latency in latencies.items():
        counts = latency.at_most([bound * 1000 for bound in LATENCY_BOUNDS_S])
        buckets = [(str(float(bound)), float(count)) for bound, count in zip(LATENCY_BOUNDS_S, counts, strict=True)]
        family.add_metric([destination], [*buckets, ("+Inf", latency.count)], latency.total_ms / 1000)
    return family
