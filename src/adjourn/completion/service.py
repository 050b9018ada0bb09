"""Events in: validate → price → identify → write, and tell of each event what became of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from adjourn.clock import Clock
from adjourn.completion import quarantine, status
from adjourn.completion.dedupe import DedupeBy, judge
from adjourn.completion.quarantine import Quarantined
from adjourn.completion.redact import Redact, Unreadable
from adjourn.completion.relay_service import Cost, Resends, keep_costs, relayed
from adjourn.completion.results import Result, conflict, conflicting, refusal, results_of, with_refused
from adjourn.completion.validate import Context, Prepared, Problem, prepare
from adjourn.database import Appended, Database, Fence, Tx
from adjourn.events import Record, is_status_changed
from adjourn.log import Log
from adjourn.prices import PriceTable
from adjourn.tracing import OFF, Tracing

AHEAD_MS_MAX = 100 * 366 * 86_400_000
SLICE_BYTES = 256 * 1024
"""How much is decoded before the event loop gets its turn."""


class IngestSettings(msgspec.Struct, frozen=True, kw_only=True):
    secret: bytes
    dedupe_by: DedupeBy
    timestamp_ahead_ms_max: int
    sources: frozenset[str]
    redact_for: Callable[[str], Redact] | None = None
    """A tenant's redaction; None: nothing is redacted."""


class Counters(msgspec.Struct):
    """Since this process started."""

    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    invalid: int = 0
    unpriced: int = 0

    def add(self, results: Sequence[Result], records: Sequence[Record]) -> None:
        statuses = [result.status for result in results]
        self.accepted += statuses.count("accepted")
        self.duplicate += statuses.count("duplicate")
        self.conflict += statuses.count("conflict")
        self.invalid += statuses.count("invalid")
        unpriced = [record for record in records if record.cost_nanousd is None]
        self.unpriced += sum([not is_status_changed(record.body) for record in unpriced])


class Ingest:
    def __init__(
        self,
        database: Database,
        log: Log,
        settings: IngestSettings,
        prices: PriceTable,
        clock: Clock,
        tracing: Tracing = OFF,
    ) -> None:
        self.counters = Counters()
        self.in_hand = 0
        """Events that are being taken now: neither durable nor refused yet."""
        self._database = database
        self._log = log
        self._settings = settings
        self._prices = prices
        self._clock = clock
        self._tracing = tracing
        self._last_context: Context | None = None

    async def take(
        self,
        tenant: str,
        raws: Sequence[bytes],
        *,
        source: str,
        producer: str = "",
        sequences: Sequence[int] | None = None,
        refused: Sequence[Problem] = (),
        costs: Sequence[Cost] | None = None,
    ) -> list[Result]:
        """Write events (JSON objects) to the log; returns when they are durable, one result each, in order.

        `producer` and `sequences` (ascending) make a resend exact without a window. `refused` are bodies that the
        caller has found wrong already, with their places in the whole. `costs`: of events that another Adjourn has
        taken and priced; they stand, and what its sequences call known is looked up before it is believed. Raises
        TooBusy, Unavailable, StorageFull: then nothing is claimed, and the same call may be made again."""
        self.in_hand += len(raws)
        try:
            with self._tracing.span("adjourn.ingest", **{"adjourn.source": source, "adjourn.events": len(raws)}):
                return await self._take(tenant, raws, source, producer, sequences, refused, costs)
        finally:
            self.in_hand -= len(raws)

    async def _take(
        self,
        tenant: str,
        raws: Sequence[bytes],
        source: str,
        producer: str,
        sequences: Sequence[int] | None,
        refused: Sequence[Problem],
        costs: Sequence[Cost] | None,
    ) -> list[Result]:
        await self._load_prices()
        context = self._context(tenant) if costs is None else relayed(self._context(tenant))
        if len(raws) == 1:
            prepared = prepare(raws, context, sequences)
        else:
            prepared = await self._prepare(raws, context, sequences)
        if refused:
            prepared = with_refused(prepared, [_searched(problem, context.redact) for problem in refused])
        kept = [refusal(problem, context, source) for problem in prepared.problems]
        scoped = f"{tenant}/{producer}" if producer else ""
        write = self._write
        if costs is not None:
            keep_costs(prepared, costs)
            write = Resends(self._database, self._log, self._write, self._keep_conflicts).write
        appended = await write(prepared.records, kept, scoped)
        results = results_of(len(raws) + len(refused), prepared, kept, appended)
        self.counters.add(results, prepared.records)
        return results

    async def examine(self, tenant: str, raw: bytes) -> Record | Problem:
        """What `take` would make of one event, without taking it."""
        await self._load_prices()
        prepared = prepare([raw], self._context(tenant))
        return prepared.records[0] if prepared.records else prepared.problems[0]

    def composed(self, tenant: str, raw: bytes) -> Record | Problem:
        """The same at once, of an event that Adjourn itself has made: what is asked of senders' clocks and sources is
        not asked of it. Prices that are not loaded yet are loaded now."""
        context = msgspec.structs.replace(
            self._context(tenant), timestamp_ahead_ms_max=AHEAD_MS_MAX, sources=frozenset()
        )
        prepared = prepare([raw], context)
        return prepared.records[0] if prepared.records else prepared.problems[0]

    def status_record(
        self,
        tenant: str,
        session_id: str,
        *,
        from_status: str,
        to_status: str,
        reason: str,
        revision: int,
        at_ms: int,
        pattern: str = "",
    ) -> Record:
        """The event that a hosted session has changed its status, for `tx.append` in the transaction of that change.
        `revision` must be another one for each change of the session: it is part of the event's id."""
        settings = self._settings
        change = status.Change(from_status, to_status, reason, revision, at_ms, pattern)
        redact = None if settings.redact_for is None else settings.redact_for(tenant)
        return status.status_record(settings.secret, tenant, session_id, change, redact)

    async def take_if(
        self,
        tenant: str,
        raw: bytes,
        change: Callable[[Tx, Record], bool],
        *,
        source: str,
        fence: Fence | None = None,
        key: str = "",
    ) -> Result | None:
        """Write one event in the transaction of the change of state that it tells of. None: `change` said that it does
        not take place, and nothing was written. A body that is invalid goes to quarantine, and nothing is changed.
        `key`: the lane's, the root of a tree of sessions; without one, the session's id."""
        found = await self.examine(tenant, raw)
        if not isinstance(found, Record):
            return (await self.take(tenant, [raw], source=source))[0]
        self.in_hand += 1
        try:
            appended = await self._database.write(_put_if, change, found, key=key or found.session_id, fence=fence)
        finally:
            self.in_hand -= 1
        if appended is None:
            return None
        results = results_of(1, Prepared([found], [0], []), [], [appended])
        self.counters.add(results, [found])
        return results[0]

    async def retry(self, tenant: str | None, entry_id: str) -> Result:
        """Send a quarantined body again, as it is, under the settings of now. Raises NotFound.

        A retry may come days later, so it is not the window that knows what was taken: the whole log is asked."""
        entry = await self._database.read(quarantine.show, tenant, entry_id)
        result = await self._before(entry) or (await self.take(entry.tenant, [entry.body], source=entry.source))[0]
        if entry.state == "held" and result.status in ("accepted", "duplicate"):
            await self._database.write(quarantine.accepted, entry_id)
        return result

    async def _before(self, entry: Quarantined) -> Result | None:
        """What the log says of an event that it holds already, from an earlier retry or another sender."""
        records = prepare([entry.body], self._context(entry.tenant)).records
        if not records:
            return None
        (record,) = records
        holder = await self._log.find(entry.tenant, record.event_id)
        if holder is None:  # deleted since, perhaps: what was accepted once stays accepted
            return Result("duplicate", record.event_id) if entry.state == "accepted" else None
        verdict = judge(record, holder)
        if verdict == "accepted":
            return None
        return conflict(record) if verdict == "conflict" else Result("duplicate", record.event_id)

    async def _load_prices(self) -> None:
        if not self._prices.loaded:
            await asyncio.to_thread(self._prices.load)  # a quarter of a second, once; the event loop goes on meanwhile

    def _context(self, tenant: str) -> Context:
        """Events of one tenant that come in the same millisecond share it."""
        now_ms = self._clock.wall_ms()
        context = self._last_context
        if context is not None and context.now_ms == now_ms and context.tenant == tenant:
            return context
        settings = self._settings
        self._last_context = context = Context(
            tenant=tenant,
            now_ms=now_ms,
            secret=settings.secret,
            prices=self._prices,
            dedupe_by=settings.dedupe_by,
            timestamp_ahead_ms_max=settings.timestamp_ahead_ms_max,
            sources=settings.sources,
            redact=None if settings.redact_for is None else settings.redact_for(tenant),
        )
        return context

    async def _prepare(self, raws: Sequence[bytes], context: Context, sequences: Sequence[int] | None) -> Prepared:
        cuts = _slices(raws)
        whole = Prepared([], [], [])
        for start, end in cuts:
            part = prepare(raws[start:end], context, sequences[start:end] if sequences is not None else None)
            whole.records.extend(part.records)
            whole.places.extend([place + start for place in part.places])
            whole.problems.extend([msgspec.structs.replace(p, index=p.index + start) for p in part.problems])
            await asyncio.sleep(0)
        return whole

    async def _keep_conflicts(self, records: Sequence[tuple[Record, int]]) -> None:
        await self._database.write(quarantine.keep, conflicting(records))

    async def _write(self, records: list[Record], refused: list[Quarantined], producer: str) -> list[Appended]:
        """One write for each partition that the events belong to; what is refused goes with the first."""
        if not records and not refused:
            return []
        with self._tracing.span("adjourn.commit", **{"adjourn.events": len(records)}):
            appended = await self._commit(records, refused, producer)
            for part in appended:
                if part.first_offset >= 0:
                    accepted = len(part.records) if part.verdicts is None else part.verdicts.count("accepted")
                    self._tracing.committed(part.partition, part.first_offset, accepted)
        return appended

    async def _commit(self, records: list[Record], refused: list[Quarantined], producer: str) -> list[Appended]:
        if self._database.partitions == 1:
            weight = max(1, len(records))
            return [await self._database.write(_put, records, refused, producer, weight=weight)]
        groups = _by_partition(records, self._database)
        writes = [
            self._database.write(_put, mine, held, producer, key=key, weight=max(1, len(mine) + len(held)))
            for (key, mine), held in zip(groups, itertools.chain((refused,), itertools.repeat(())), strict=False)
        ]
        if len(writes) == 1:
            return [await writes[0]]
        return await _all(writes)


async def _all(writes: Sequence[Awaitable[Appended]]) -> list[Appended]:
    """Wait for every write, so that none is still under way when the caller hears of a failure."""
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def _put(tx: Tx, records: Sequence[Record], refused: Sequence[Quarantined], producer: str) -> Appended:
    if refused:
        quarantine.keep(tx, refused)
    return tx.append(records, producer=producer)


def _put_if(tx: Tx, change: Callable[[Tx, Record], bool], record: Record) -> Appended | None:
    return tx.append([record]) if change(tx, record) else None


def _searched(problem: Problem, redact: Redact | None) -> Problem:
    """What was refused before it came here is kept without what must not be kept, as far as it can be read."""
    if redact is None:
        return problem
    try:
        return msgspec.structs.replace(problem, raw=redact(problem.raw))
    except Unreadable:
        return problem


def _slices(raws: Sequence[bytes]) -> list[tuple[int, int]]:
    cuts: list[tuple[int, int]] = []
    start = size = 0
    for index, raw in enumerate(raws):
        size += len(raw)
        if size >= SLICE_BYTES:
            cuts.append((start, index + 1))
            start, size = index + 1, 0
    if start < len(raws) or not cuts:
        cuts.append((start, len(raws)))
    return cuts


def _by_partition(records: list[Record], database: Database) -> list[tuple[str, list[Record]]]:
    """(a key that leads to the partition, its records in order); at least one group."""
    if not records:
        return [("", records)]
    groups: dict[int, tuple[str, list[Record]]] = {}
    for record in records:
        partition = database.partition_of(record.session_id)
        group = groups.get(partition)
        if group is None:
            groups[partition] = (record.session_id, [record])
        else:
            group[1].append(record)
    return list(groups.values())
