"""Spans in: keep what a trace needs, and tell of each agent's run once it has ended; both in one transaction.

Nothing is answered before it is durable. Two requests, or two nodes, that have spans of one trace race for its row: the
one that comes second reads it again. A run of which nothing says that it is outermost is told of when its trace has
been silent for a while, by whichever node looks first.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from adjourn.clock import Clock
from adjourn.completion import otlp_rows
from adjourn.completion.otlp import Node, Span, Usage, node_of
from adjourn.completion.otlp_event import SOURCE, event_of
from adjourn.completion.otlp_rows import Kept, Put
from adjourn.completion.otlp_trace import NODES_MAX, Run, Trace, Tree, merge
from adjourn.completion.results import CONFLICT_MESSAGE, Result
from adjourn.completion.service import Ingest
from adjourn.database import Appended, Database, Tx, Verdict
from adjourn.errors import AdjournError
from adjourn.eventlog import get_logger
from adjourn.events import Record
from adjourn.prices import PriceTable
from adjourn.settings import OtlpSettings

_log = get_logger("adjourn.otlp")

LOOK_EVERY_S = 1.0
FORGET_EVERY_S = 60.0
DUE_AT_ONCE = 200
TRACES_AT_ONCE = 256
SPANS_PER_TURN = 1000
"""How many are read before the event loop gets its turn."""
DAY_MS = 86_400_000


class Told(msgspec.Struct):
    """What the sender hears. `warnings` are of spans that were taken."""

    rejected: int = 0
    reasons: list[str] = msgspec.field(default_factory=lambda: list[str]())
    warnings: list[str] = msgspec.field(default_factory=lambda: list[str]())

    def reject(self, reason: str, count: int = 1) -> None:
        self.rejected += count
        self.reasons.append(reason)


class Counters(msgspec.Struct):
    """Since this process started. `ignored`: no GenAI spans."""

    taken: int = 0
    ignored: int = 0
    rejected: int = 0


class _News(msgspec.Struct):
    """What a request has of one trace."""

    nodes: list[Node] = msgspec.field(default_factory=lambda: list[Node]())
    links: dict[str, tuple[str, bool]] = msgspec.field(default_factory=lambda: dict[str, tuple[str, bool]]())


class Traces:
    def __init__(
        self, database: Database, clock: Clock, settings: OtlpSettings, ingest: Ingest, prices: PriceTable
    ) -> None:
        self.counters = Counters()
        self._database = database
        self._clock = clock
        self._settings = settings
        self._ingest = ingest
        self._prices = prices
        self._forgot_s = clock.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="otlp-traces")

    async def stop(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def take(self, tenant: str, spans: Sequence[Span], refused: Sequence[str] = ()) -> Told:
        """Returns when everything is durable. `refused` says of other spans of the request why they are none. Raises
        TooBusy, Unavailable, StorageFull: then the same call may be made again."""
        told = Told(len(refused), list(refused))
        news = await self._read(spans, told)
        kept = await self._database.read(otlp_rows.load, tenant, list(news)) if news else {}
        work = [(trace_id, it) for trace_id, it in news.items() if it.nodes or trace_id in kept]
        for start in range(0, len(work), TRACES_AT_ONCE):
            part = work[start : start + TRACES_AT_ONCE]
            await _all(self._take(tenant, trace_id, it, kept.get(trace_id), told) for trace_id, it in part)
        self.counters.taken += sum(len(it.nodes) for it in news.values())
        self.counters.rejected += told.rejected
        return told

    # --- one trace -----------------------------------------------------------------------------------------------

    async def _read(self, spans: Sequence[Span], told: Told) -> dict[str, _News]:
        news: dict[str, _News] = {}
        for number, span in enumerate(spans, 1):
            it = news.setdefault(span.trace_id, _News())
            node = node_of(span)
            if node is None:
                it.links[span.span_id] = span.parent_id, span.remote_parent
                self.counters.ignored += 1
            else:
                it.nodes.append(node)
                if node.unreadable:
                    value = str(span.attributes[node.unreadable])[:40]
                    fact = f"span {span.span_id}: {node.unreadable} is {value!r}, which is no count or amount"
                    told.warnings.append(f"{fact}; its usage was left out: send a whole number from 0")
            if number % SPANS_PER_TURN == 0:
                await asyncio.sleep(0)
        return news

    async def _take(self, tenant: str, trace_id: str, news: _News, kept: Kept | None, told: Told) -> None:
        while True:
            kept = kept or Kept(Trace({}))
            before = otlp_rows.packed(kept.trace)
            left_out = merge(kept.trace, news.nodes, news.links)
            if otlp_rows.packed(kept.trace) != before:
                kept.heard_ms, kept.due_ms = self._clock.wall_ms(), None
            if await self._settle(tenant, trace_id, kept, before, told):
                break
            kept = await self._kept(tenant, trace_id)
        if left_out:
            fact = f"trace {trace_id} has more than {NODES_MAX} GenAI spans"
            told.reject(f"{fact}; {left_out} of them were not taken: end traces sooner", left_out)

    async def _settle(self, tenant: str, trace_id: str, kept: Kept, before: bytes, told: Told) -> bool:
        """Write a trace as it is now, with the events of its runs that have news. False: its row has changed since it
        was read; what was written stands, and the rest is to be done again."""
        tree = Tree(kept.trace)
        now_ms = self._clock.wall_ms()
        waited = kept.due_ms is not None and kept.due_ms <= now_ms
        if any(_told_now(run, waited) for run in tree.runs):
            await self._load_prices()
            tree = Tree(kept.trace, self._price)
        groups = await self._events(tenant, trace_id, [run for run in tree.runs if _told_now(run, waited)], told)
        waits = any(not run.known and not run.node.done and not run.node.refused for run in tree.runs) and not waited
        due_ms = kept.heard_ms + self._settings.parent_wait_ms if waits else None
        keep = tree.worth_keeping
        while True:
            group = groups.pop() if groups else []
            for run, _ in group:
                run.node.done += 1
                run.node.told = run.sums.fingerprint()
            body = otlp_rows.packed(kept.trace) if keep else None
            if not group and body == (before if kept.revision else None):
                return True
            put = Put(
                tenant,
                trace_id,
                kept.revision,
                secrets.randbits(62) + 1,
                body,
                now_ms if groups else due_ms,  # if this process ends between two of them, another does the rest
                kept.heard_ms,
            )
            if not await self._write(put, [record for _, record in group], told):
                return False
            if not groups:
                return True
            kept.revision = put.revision

    async def _events(
        self, tenant: str, trace_id: str, runs: Sequence[Run], told: Told
    ) -> list[list[tuple[Run, Record]]]:
        """Those of each partition together. What is not valid is in quarantine when this returns."""
        groups: dict[int, list[tuple[Run, Record]]] = {}
        for run in runs:
            event = event_of(trace_id, run, self._price)
            found = await self._ingest.examine(tenant, event)
            if isinstance(found, Record):
                groups.setdefault(self._database.partition_of(found.session_id), []).append((run, found))
                continue
            (result,) = await self._ingest.take(tenant, [event], source=SOURCE)
            if result.status == "invalid":
                run.node.refused = True
                why = f"{result.message}; {result.remedy}, then retry {result.quarantine_id} from quarantine"
                told.reject(f"span {run.node.span_id}: {why}")
        return list(groups.values())

    async def _write(self, put: Put, records: Sequence[Record], told: Told) -> bool:
        self._ingest.in_hand += len(records)
        try:
            key = records[0].session_id if records else put.trace_id
            appended = await self._database.write(_put, put, records, key=key, weight=max(1, len(records)))
        finally:
            self._ingest.in_hand -= len(records)
        if appended is None:
            return False
        verdicts: list[Verdict] = appended.verdicts or ["accepted"] * len(records)
        self._ingest.counters.add([Result(verdict) for verdict in verdicts], records)
        for record, verdict in zip(records, verdicts, strict=True):
            if verdict == "conflict":
                told.reject(f"{record.event_id}: {CONFLICT_MESSAGE}; it is in quarantine")
        return True

    def _price(self, model: str, end_ns: int, usage: Usage) -> int | None:
        when = datetime.fromtimestamp((end_ns or self._clock.wall_ms() * 1_000_000) // 1_000_000_000, UTC)
        cost, _ = self._prices.cost(model, when, usage.input, usage.output, usage.cache_read, usage.cache_creation)
        return cost

    async def _load_prices(self) -> None:
        if not self._prices.loaded:
            await asyncio.to_thread(self._prices.load)

    # --- those that fell silent ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        waits = ""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
                await self.forget()
                waits = ""
            except AdjournError as error:
                if error.message != waits:
                    _log.warning("otlp_waits", error=error.message)
                waits = error.message
            except Exception:
                _log.exception("otlp_failed")

    async def _look(self) -> None:
        """Tell of the runs that have waited long enough for what may be above them."""
        due = await self._database.read(otlp_rows.due, self._clock.wall_ms(), DUE_AT_ONCE)
        for tenant, trace_id in due:
            await self._take(tenant, trace_id, _News(), await self._kept(tenant, trace_id), Told())

    async def _kept(self, tenant: str, trace_id: str) -> Kept | None:
        return (await self._database.read(otlp_rows.load, tenant, [trace_id])).get(trace_id)

    async def forget(self) -> None:
        """Now and then: drop the traces of which nothing was heard for `retention_days`."""
        now_s = self._clock.monotonic()
        if now_s - self._forgot_s < FORGET_EVERY_S:
            return
        before_ms = self._clock.wall_ms() - int(self._settings.retention_days * DAY_MS)
        while await self._database.read(otlp_rows.any_silent, before_ms):
            gone = await self._database.write(otlp_rows.forget, before_ms)
            outside = sum(not any(node.kind == "agent" for node in trace.nodes.values()) for _, _, trace in gone)
            if outside:
                # Its agent was never sent, or there was none: nobody was told what these calls used.
                _log.warning("otlp_calls_without_agent", traces=outside)
        self._forgot_s = now_s


def _told_now(run: Run, waited: bool) -> bool:
    return run.news or (waited and not run.node.done and not run.node.refused)


def _put(tx: Tx, put: Put, records: Sequence[Record]) -> Appended | None:
    if not otlp_rows.put(tx, put):
        return None
    return tx.append(records) if records else Appended(records)


async def _all(work: Iterable[Coroutine[object, object, None]]) -> None:
    """Wait for every one, so that none is still under way when the caller hears of a failure."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
