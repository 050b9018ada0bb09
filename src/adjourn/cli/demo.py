"""`adjourn serve --demo`: a real trace, captured in this process and sent to its own server, as any program would.

capture → spool → POST /v1/events → log → destinations; what is printed was measured on the way.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from adjourn.cli.progress import progress
from adjourn.cli.trace import MODEL, Request, event_id_of, event_of, requests
from adjourn.completion.receipts import Receipt
from adjourn.delivery.conservation import KINDS, Balance
from adjourn.errors import AdjournError
from adjourn.events import StoredEvent, decode_identity
from adjourn.http.views import usd
from adjourn.node import Node
from adjourn.runtime import Runtime
from adjourn.settings import Settings

REPLAY_S = 4.0
"""The whole trace in this time: its own rhythm, some hundred times faster."""
SETTLE_S_MAX = 60.0
STOP_S = 0.5
KEY_NAME = "demo"
TENANT = "default"


def destinations(data_dir: str) -> list[dict[str, object]]:
    """Where a demo delivers to, unless the settings say."""
    return [
        {"type": "database", "name": "completions", "connection_string": f"sqlite:///{data_dir}/completions.db"},
        {"type": "logfile", "log_path": f"{data_dir}/completions.jsonl"},
    ]


class Watch:
    """When each event was captured (in one thread), and how long it then took to each destination (in the node's)."""

    def __init__(self) -> None:
        self.captured: dict[str, float] = {}
        self.latencies_s: list[float] = []
        self.cost_nanousd: dict[str, int | None] = {}
        self.open = True

    def delivered(self, events: Sequence[StoredEvent]) -> None:
        if not self.open:
            return
        now = time.perf_counter()
        for event in events:
            event_id = decode_identity(event.body).event_id
            began = self.captured.get(event_id)
            if began is not None:
                self.latencies_s.append(now - began)
                self.cost_nanousd[event_id] = event.cost_nanousd


class Tally(msgspec.Struct, frozen=True):
    """What this process has acknowledged, and delivered to each destination."""

    acknowledged: int
    delivered: dict[str, int]

    @classmethod
    def of(cls, node: Node) -> Tally:
        delivered = {name: stats.success for name, stats in node.delivery.stats.items()}
        return cls(node.ingest.counters.accepted, delivered)


class Demo:
    def __init__(self, settings: Settings, *, replay_s: float = REPLAY_S) -> None:
        self._watch = Watch()
        self.on_delivered = self._watch.delivered
        self._run = os.urandom(4).hex()
        self._requests = requests()
        self._replay_s = replay_s
        self._stopping = threading.Event()
        # A spool of its own: what other programs left in theirs belongs to other tenants, perhaps.
        spool_dir = str(Path(settings.data_dir) / "demo-spool")
        self._settings = msgspec.structs.replace(
            settings, capture=msgspec.structs.replace(settings.capture, spool_dir=spool_dir)
        )

    async def run(self, node: Node, url: str) -> None:
        """Replay, tell, and print what to paste. What goes wrong is told, and the server goes on."""
        try:
            secret = await new_key(node)
            await self._replay(node, url, secret)
            print(told_to_paste(url, secret, self._run), flush=True)
        except (AdjournError, TimeoutError) as error:
            print(f"adjourn: the demo stopped: {error or 'it took too long'}", flush=True)
        finally:
            self._watch.open = False

    async def _replay(self, node: Node, url: str, secret: str) -> None:
        began = time.perf_counter()
        total = len(self._requests)
        runtime = Runtime(self._settings, url=url, key=secret)
        work = asyncio.create_task(self._work(node, runtime))
        try:
            with progress(total, ["captured", "acknowledged", *node.delivery.stats]) as show:
                while not work.done():
                    await asyncio.wait((work,), timeout=0.1)
                    show(self._counts(Tally.of(node)))
            await work
        finally:
            self._stopping.set()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await asyncio.to_thread(runtime.stop, STOP_S)
        taken_s = time.perf_counter() - began
        print("\n".join(self._summary(Tally.of(node), await node.delivery.balances(), taken_s)), flush=True)

    async def _work(self, node: Node, runtime: Runtime) -> None:
        last = await asyncio.to_thread(self._capture_all, runtime)
        async with asyncio.timeout(SETTLE_S_MAX):
            if last is not None:
                # A process's events are acknowledged in their order: with the last, all are.
                await last.durable()
            await node.delivery.drained()
        # A batch is counted just after its cursor has moved.
        await asyncio.sleep(0.05)

    def _capture_all(self, runtime: Runtime) -> Receipt | None:
        """In the trace's own rhythm, faster; in a thread, since programs capture from theirs."""
        first, last = self._requests[0].when, self._requests[-1].when
        scale = self._replay_s / (last - first).total_seconds()
        began = time.perf_counter()
        receipt: Receipt | None = None
        for request in self._requests:
            early_s = (request.when - first).total_seconds() * scale - (time.perf_counter() - began)
            if early_s > 0.001:
                self._stopping.wait(early_s)
            if self._stopping.is_set():
                break
            event = event_of(request, self._run)
            self._watch.captured[event_id_of(request, self._run)] = time.perf_counter()
            receipt = runtime.capture(event)
        return receipt

    def _counts(self, tally: Tally) -> list[int]:
        """For the bars. An earlier run's events may be on their way too; a bar ends at its end."""
        captured = len(self._watch.captured)
        return [captured, *(min(captured, n) for n in (tally.acknowledged, *tally.delivered.values()))]

    def _summary(self, tally: Tally, balances: Sequence[Balance], taken_s: float) -> list[str]:
        watch = self._watch
        captured = len(watch.captured)
        costs = list(watch.cost_nanousd.values())
        earlier = tally.acknowledged - captured
        told = " · ".join(f"{name} {count:,}" for name, count in tally.delivered.items())
        p50, p95, p99 = (f"{percentile(watch.latencies_s, q) * 1000:.1f} ms" for q in (0.50, 0.95, 0.99))
        return [
            f"\nreplayed {captured:,} sessions of the Azure LLM inference trace ({span_of(self._requests)}) "
            f"in {taken_s:.1f} s",
            f"  captured      {captured:,}" + (f", and {earlier:,} left by an earlier run" if earlier > 0 else ""),
            f"  delivered     {told or 'nowhere: there are no destinations'}",
            f"  latency       p50 {p50} · p95 {p95} · p99 {p99}, from capture to delivered",
            f"  cost          {usd(sum(cost or 0 for cost in costs))} USD, as {MODEL}"
            + (f"; {costs.count(None):,} without a price" if None in costs else ""),
            *(f"  conservation  {conserved(balance)}" for balance in balances),
        ]


async def new_key(node: Node) -> str:
    """A demo's key is good until the next demo starts."""
    for key in await node.keys.list(TENANT):
        if key.name == KEY_NAME and key.revoked_ms is None:
            await node.keys.revoke(key.id)
    return (await node.keys.create(tenant=TENANT, name=KEY_NAME, role="admin"))[1]


def percentile(values: Sequence[float], quantile: float) -> float:
    """The nearest rank; not a number where there is nothing."""
    return sorted(values)[max(0, math.ceil(quantile * len(values)) - 1)] if values else math.nan


def span_of(trace: Sequence[Request]) -> str:
    seconds = round((trace[-1].when - trace[0].when).total_seconds())
    return f"{seconds // 60} min {seconds % 60} s of {trace[0].when:%Y-%m-%d}"


def conserved(balance: Balance) -> str:
    """`captured = …`, the sum of what became of them: all that was ever captured into this database."""
    parts = [f"{getattr(balance, kind):,} {kind.replace('_', ' ')}" for kind in KINDS if getattr(balance, kind)]
    parts.append(f"{balance.pending:,} pending")
    return (
        f"{balance.destination}: {balance.captured:,} captured = {' + '.join(parts)}; difference {balance.difference}"
    )


def told_to_paste(url: str, secret: str, run: str) -> str:
    """Lines that work when they are pasted, each by itself."""
    event_id = f"evt_curl_{run}"
    event = msgspec.json.encode(
        {
            "event_id": event_id,
            "session": {"session_id": f"sess_curl_{run}"},
            "usage": {"model": MODEL, "input_tokens": 1250, "output_tokens": 890},
        }
    ).decode()
    authorization = f"-H 'Authorization: Bearer {secret}'"
    return (
        f"\nkey {secret}  (tenant {TENANT}, role admin, good until the next demo)\n"
        "\nsend an event, and read it back:\n"
        f"  curl -sS {url}/v1/events {authorization} -d '{event}'\n"
        f"  curl -sS {url}/v1/events/{event_id} {authorization}\n"
        "\nserving; Ctrl-C stops it"
    )
