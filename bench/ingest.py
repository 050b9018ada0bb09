"""`POST /v1/events` in batches of 500 and one by one: durable answers, keys checked, client on the same cores."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

import uvloop

from adjourn.prices import PriceTable
from bench import client, floor, sample
from bench.serving import Serving, serving
from bench.table import Row, median, quantile

BATCH = 500
EVENTS = 100_000
CONNECTIONS = 8
RUNS = 5
SINGLES = 20_000
SINGLE_CONNECTIONS = 64
RATE = 2_000
ECHO_PORT = 8798


def batches(count: int, run: str) -> list[list[bytes]]:
    events = sample.events(count, run=run)
    return [events[i : i + BATCH] for i in range(0, count, BATCH)]


def bulk() -> list[Row]:
    """Acknowledged events a second with both destinations on, beside the bare loop and beside no destinations."""
    ours: list[float] = []
    typed: list[float] = []
    judged: list[float] = []
    drains: list[float] = []
    judge = floor.judged(PriceTable())
    with serving() as server:
        for run in range(RUNS):
            made = batches(EVENTS, f"bulk-{run}-{time.time()}")
            typed.append(floor.bare_ingest(made, floor.typed))
            judged.append(floor.bare_ingest(made, judge))
            ours.append(_post_all(server, made))
            drains.append(_drain(server))
    alone: list[float] = []
    with serving(destinations=[]) as server:
        alone.extend(_post_all(server, batches(EVENTS, f"alone-{run}-{time.time()}")) for run in range(RUNS))
    of_typed = median([o / b for o, b in zip(ours, typed, strict=True)])
    of_judged = median([o / b for o, b in zip(ours, judged, strict=True)])
    return [
        Row(
            "POST /v1/events, NDJSON of 500, durable, both destinations on",
            f"{median(ours):,.0f} events/s",
            f"without destinations {median(alone):,.0f}/s",
            "≥ 80,000/s",
            median(ours) >= 80_000,
        ),
        Row(
            "the same, as a share of a bare loop: typed decode + zstd + fdatasync",
            f"{of_typed:.2f}",
            f"{median(typed):,.0f}/s",
            "≥ 0.6",
            of_typed >= 0.6,
        ),
        Row(
            "as a share of the same loop with every rule, price and hash that an event must have",
            f"{of_judged:.2f}",
            f"{median(judged):,.0f}/s",
            "said",
            None,
        ),
        Row(
            "what both destinations together take of a backlog (database and JSONL)",
            f"{median(drains):,.0f} events/s",
            "each event delivered twice",
            "said",
            None,
        ),
    ]


def _post_all(server: Serving, made: Sequence[Sequence[bytes]]) -> float:
    requests = [client.request("/v1/events", b"\n".join(batch), key=server.key) for batch in made]
    seconds, _, statuses = uvloop.run(client.closed_loop(server.port, requests, CONNECTIONS))
    if set(statuses) != {202}:
        raise RuntimeError(f"not every answer was 202: {set(statuses)}")
    return sum(len(batch) for batch in made) / seconds


def _drain(server: Serving) -> float:
    """Events that left the backlog, per second, from the last answer until both destinations have everything."""
    before = sum(server.pending().values())
    started = time.perf_counter()
    while any(server.pending().values()):
        time.sleep(0.05)
    return before / 2 / (time.perf_counter() - started)


def single() -> list[Row]:
    """One event a request: throughput beside a bare ASGI echo, and latency at a fixed rate beside fdatasync."""
    rows: list[Row] = []
    echo = subprocess.Popen([sys.executable, "-m", "bench.echo", str(ECHO_PORT)])
    try:
        time.sleep(1.5)
        for destinations, what in (([], "durable"), (None, "durable, both destinations on")):
            with serving(destinations=destinations) as server:
                rows += _single_rows(server, what)
    finally:
        echo.terminate()
        echo.wait()
    return rows


def _single_rows(server: Serving, what: str) -> list[Row]:
    ours, echoed = _single_closed(server)
    runs = [_open_run(server, run) for run in range(RUNS)]
    ratio = median([o / e for o, e in zip(ours, echoed, strict=True)])
    p50, p99, echo_p99, sync_p50, sync_p99 = (median(column) for column in zip(*runs, strict=True))
    bound = 3 * sync_p99 + 3
    return [
        Row(
            f"single-event POST, {what}, {SINGLE_CONNECTIONS} connections",
            f"{median(ours):,.0f} requests/s = {ratio:.2f} of the echo",
            f"bare ASGI echo {median(echoed):,.0f}/s",
            "≥ 0.5 of the echo",
            ratio >= 0.5,
        ),
        Row(
            f"the same at {RATE:,}/s, open loop, median of {RUNS} runs",
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
            f"fdatasync p50 {sync_p50:.2f} ms, p99 {sync_p99:.2f} ms; the echo's p99 {echo_p99:.1f} ms",
            f"p99 ≤ 3 F(p99) + 3 ms = {bound:.1f} ms",
            p99 <= bound,
        ),
    ]


def _single_closed(server: Serving) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    echoed: list[float] = []
    for run in range(RUNS):
        events = sample.events(SINGLES, run=f"single-{run}-{time.time()}")
        requests = [client.request("/v1/events", event, key=server.key) for event in events]
        seconds, _, _ = uvloop.run(client.closed_loop(ECHO_PORT, requests, SINGLE_CONNECTIONS))
        echoed.append(SINGLES / seconds)
        seconds, _, statuses = uvloop.run(client.closed_loop(server.port, requests, SINGLE_CONNECTIONS))
        ours.append(statuses.count(202) / seconds)
        _drain(server)
    return ours, echoed


def _open_run(server: Serving, run: int) -> tuple[float, float, float, float, float]:
    """In ms: p50 and p99 of ours, p99 of the echo, p50 and p99 of fdatasync."""
    events = sample.events(RATE * 3, run=f"open-{run}-{time.time()}")
    requests = [client.request("/v1/events", event, key=server.key) for event in events]
    ours = uvloop.run(client.open_loop(server.port, requests, RATE, SINGLE_CONNECTIONS))
    echoed = uvloop.run(client.open_loop(ECHO_PORT, requests, RATE, SINGLE_CONNECTIONS))
    syncs = floor.fdatasync_ms()
    return (
        quantile(ours, 0.5) * 1000,
        quantile(ours, 0.99) * 1000,
        quantile(echoed, 0.99) * 1000,
        quantile(syncs, 0.5),
        quantile(syncs, 0.99),
    )


def sustained() -> list[Row]:
    """The highest of a few rates at which neither destination's backlog grows."""
    held = 0
    with serving() as server:
        for rate in (2_000, 4_000, 6_000, 8_000, 10_000, 14_000, 20_000):
            made = batches(rate * 4, f"sustained-{rate}-{time.time()}")
            requests = [client.request("/v1/events", b"\n".join(batch), key=server.key) for batch in made]
            uvloop.run(client.open_loop(server.port, requests, rate / BATCH, CONNECTIONS))
            if max(server.pending().values()) > rate:  # more than one second behind
                break
            held = rate
            _drain(server)
    what = "sustained with the backlog flat, both destinations"
    return [Row(what, f"{held:,} events/s", "rates tried: 2,000–20,000", "said", None)]
