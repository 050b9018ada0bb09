"""Events out: how soon a webhook has them, how many all destinations take, and what a dead one costs the others."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from bench import client, floor, sample
from bench.ingest import BATCH, CONNECTIONS, batches
from bench.serving import Serving, database, logfile, serving
from bench.table import Row, median, quantile

SECONDS = 5
RUNS = 3
SENT = b"00000000000000000000"
BACKLOG = 30_000
PENDING = 1_000_000
SLOW_MS = 100.0
RATES = (1_000, 2_000, 4_000, 6_000, 8_000, 12_000, 16_000, 20_000)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def receiver(port: int, delay_ms: float = 0.0) -> Generator[None]:
    process = subprocess.Popen([sys.executable, "-m", "bench.receiver", str(port), str(delay_ms)])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait(10)


def received(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        return json.loads(answer.read())


def hook(port: int, **more: object) -> dict[str, object]:
    """Signed, as in production."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    return {
        "type": "webhook",
        "url": f"http://127.0.0.1:{port}/hook",
        "allow_http": True,
        "allow_networks": ["127.0.0.0/8"],
        "signing_secrets": [secret],
        **more,
    }


def analytics(port: int, **more: object) -> dict[str, object]:
    return {**hook(port), "type": "analytics", "signing_secrets": [], **more}


def stamped(events: Sequence[bytes]) -> list[bytes]:
    """With a place for the time at which each is sent."""
    return [event.replace(b'"custom_tags":{}', b'"custom_tags":{"sent_ns":"%b"}' % SENT) for event in events]


async def timed(port: int, requests: Sequence[bytes], rate: float, connections: int) -> None:
    """An open loop that writes into each request when it was due."""
    import asyncio

    free: asyncio.Queue[client.Connection] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(await client.connect(port))

    async def one(data: bytes, due_ns: int) -> None:
        connection = await free.get()
        await connection.ask(data.replace(SENT, b"%020d" % due_ns))
        free.put_nowait(connection)

    tasks: list[asyncio.Task[None]] = []
    started_ns = time.monotonic_ns()
    for index, data in enumerate(requests):
        due_ns = started_ns + int(index / rate * 1e9)
        delay_s = (due_ns - time.monotonic_ns()) / 1e9
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        tasks.append(asyncio.create_task(one(data, due_ns)))
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait().close()


def latency() -> list[Row]:
    """From the moment at which an event was to be sent until a signed webhook has it."""
    return [
        _latency_row("1,000/s, one event a request and a body", hook, 1_000, 1, p50_ms=2.0),
        _latency_row("5,000/s, 25 events a request, bodies of up to 100", _batched, 5_000, 25, p50_ms=None),
    ]


def _batched(port: int) -> dict[str, object]:
    return hook(port, batch_size=100)


def _latency_row(what: str, made: Any, rate: int, each: int, *, p50_ms: float | None) -> Row:
    port = free_port()
    p50s: list[float] = []
    p99s: list[float] = []
    syncs: list[float] = []
    with receiver(port), serving(destinations=[made(port)]) as server:
        for run in range(RUNS + 1):
            events = stamped(sample.events(rate * SECONDS, run=f"hook-{run}-{time.time()}"))
            bodies = [b"\n".join(events[i : i + each]) for i in range(0, len(events), each)]
            requests = [client.request("/v1/events", body, key=server.key) for body in bodies]
            uvloop.run(timed(server.port, requests, rate / each, 64))
            _wait(server)
            found = received(port)["latencies_ms"]
            if len(found) < len(events):
                raise RuntimeError(f"{len(events)} were sent, {len(found)} arrived")
            if run:  # the first one warms up
                p50s.append(quantile(found, 0.5))
                p99s.append(quantile(found, 0.99))
                syncs += floor.fdatasync_ms()
    p50, p99 = median(p50s), median(p99s)
    sync_p50, sync_p99 = quantile(syncs, 0.5), quantile(syncs, 0.99)
    bound = 2 * sync_p99 + 5
    fast_disk = sync_p50 <= 0.5
    target = f"p99 ≤ 2 F(p99) + 5 ms = {bound:.1f} ms" + (", p50 ≤ 2 ms" if p50_ms and fast_disk else "")
    return Row(
        f"POST → received by a webhook, {what}",
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
        f"fdatasync p50 {sync_p50:.2f} ms, p99 {sync_p99:.2f} ms",
        target,
        p99 <= bound and (p50 <= p50_ms if p50_ms and fast_disk else True),
    )


def _wait(server: Serving, names: Sequence[str] = ()) -> None:
    """Until these destinations (all, if none is named) have everything."""
    while any(count for name, count in server.pending().items() if not names or name in names):
        time.sleep(0.02)


def together() -> list[Row]:
    """The highest rate at which no backlog grows: each destination alone, then all five on."""
    port = free_port()
    rows: list[Row] = []
    with receiver(port), serving(destinations=[]) as centre:
        each = {
            "database": database(),
            "logfile": logfile(),
            "webhook": hook(port),
            "analytics": analytics(port),
            "upstream": _upstream(centre),
        }
        alone = {name: _sustained([made]) for name, made in each.items()}
        everything = _sustained(list(each.values()))
    said = ", ".join(f"{name} {rate:,}" for name, rate in alone.items())
    tried = f"rates tried: {RATES[0]:,}–{RATES[-1]:,}"
    rows.append(
        Row(
            "sustained with the backlog flat, all five destinations (centre and receiver on the same cores)",
            f"{everything:,} events/s",
            f"alone: {said}; {tried}",
            "said",
            None,
        )
    )
    return rows


def _upstream(centre: Serving) -> dict[str, object]:
    return {
        **hook(centre.port),
        "type": "upstream",
        "url": f"http://127.0.0.1:{centre.port}",
        "signing_secrets": [],
        "headers": {"Authorization": f"Bearer {centre.key}"},
    }


def _sustained(destinations: Sequence[dict[str, object]]) -> int:
    held = 0
    with serving(destinations=destinations) as server:
        for rate in RATES:
            made = batches(rate * 3, f"sustained-{rate}-{time.time()}")
            requests = [client.request("/v1/events", b"\n".join(batch), key=server.key) for batch in made]
            uvloop.run(client.open_loop(server.port, requests, rate / BATCH, CONNECTIONS))
            if max(server.pending().values()) > rate:  # more than one second behind
                break
            held = rate
            _wait(server)
    return held


def isolation() -> list[Row]:
    """How fast two destinations take a backlog while the third is well, dead, or a hundred times slower."""
    rates: dict[str, list[float]] = {"well": [], "dead": [], "slow": []}
    for run in range(RUNS):
        for state in rates:
            rates[state].append(_rate_beside(state, run))
    rows: list[Row] = []
    for state, what in (("dead", "dead"), ("slow", f"slower by {SLOW_MS:.0f} ms an answer, 100 × and more")):
        share = median([beside / well for beside, well in zip(rates[state], rates["well"], strict=True)])
        rows.append(
            Row(
                f"database and log file take a backlog of {BACKLOG:,} while a webhook is {what}",
                f"{median(rates[state]):,.0f} events/s = {share:.2f} of what they do beside a webhook that is well",
                f"{median(rates['well']):,.0f} events/s",
                "≥ 0.9",
                share >= 0.9,
            )
        )
    return rows


def _rate_beside(state: str, run: int) -> float:
    port = free_port()
    destinations = [database(), logfile(), hook(port, batch_size=100)]
    made = batches(BACKLOG, f"{state}-{run}-{time.time()}")
    if state == "dead":
        return _drained(destinations, made)
    with receiver(port, SLOW_MS if state == "slow" else 0.0):
        return _drained(destinations, made)


def _drained(destinations: Sequence[dict[str, object]], made: Sequence[Sequence[bytes]]) -> float:
    with serving(destinations=destinations) as server:
        requests = [client.request("/v1/events", b"\n".join(batch), key=server.key) for batch in made]
        uvloop.run(client.closed_loop(server.port, requests, CONNECTIONS))
        before = sum(server.pending()[name] for name in ("database", "logfile"))
        started = time.perf_counter()
        _wait(server, ("database", "logfile"))
        return before / 2 / (time.perf_counter() - started)


def outage() -> list[Row]:
    """A million events behind a dead webhook: what the server weighs, and how soon the first one is out."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="adjourn-bench-", dir=Path.cwd()))
    try:
        with serving(destinations=[hook(port, batch_size=100)], folder=folder) as server:
            for part in range(20):
                made = batches(PENDING // 20, f"outage-{part}-{time.time()}")
                requests = [client.request("/v1/events", b"\n".join(batch), key=server.key) for batch in made]
                uvloop.run(client.closed_loop(server.port, requests, CONNECTIONS))
            time.sleep(2)
            pending, weight = server.pending()["webhook"], server.rss_mb()
        with receiver(port):
            started_ns = time.monotonic_ns()
            with serving(destinations=[hook(port, batch_size=100)], folder=folder):
                first_ns = 0
                while not first_ns:
                    time.sleep(0.02)
                    first_ns = received(port)["first_ns"]
    finally:
        shutil.rmtree(folder)
    first_s = (first_ns - started_ns) / 1e9
    return [
        Row(
            f"server with {pending:,} events pending behind a dead webhook",
            f"{weight:.0f} MB RSS",
            "",
            "≤ 200 MB",
            weight <= 200,
        ),
        Row("from its restart to the first delivery", f"{first_s:.2f} s", "", "≤ 3 s", first_s <= 3),
    ]
