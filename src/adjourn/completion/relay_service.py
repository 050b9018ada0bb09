"""Events that another Adjourn has taken before, and hands on: nothing of them is lost, and nothing is there twice.

What is new by its number is appended like any known producer's. What is not may have been taken before (its answer got
lost) or not (it was held back there while others went on, or that node was restored from a backup and numbers anew), so
that its number proves nothing: the log is asked for the event itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from adjourn.completion.dedupe import judge
from adjourn.completion.quarantine import Quarantined
from adjourn.completion.validate import Context, Prepared
from adjourn.database import Appended, Database, Reader, Verdict
from adjourn.events import Record
from adjourn.log import Log

AHEAD_MS_MAX = 10 * 365 * 86_400_000

Write = Callable[[list[Record], list[Quarantined], str], Awaitable[list[Appended]]]
"""Records, what is refused beside them, and the producer."""
KeepConflicts = Callable[[Sequence[tuple[Record, int]]], Awaitable[None]]


class Cost(NamedTuple):
    nanousd: int | None
    price_ref: str


class Relayed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One line of a relay's body: `[sequence, tenant, cost, price_ref, event]`."""

    sequence: Annotated[int, Meta(le=2**53)]
    tenant: str
    cost_nanousd: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None
    price_ref: Annotated[str, Meta(max_length=256)]
    event: msgspec.Raw


def relayed(context: Context) -> Context:
    """Its times were judged by the clock of the node that took it first: this one's may be behind. And changes of
    status, which no sender may send, are that node's own."""
    return msgspec.structs.replace(context, timestamp_ahead_ms_max=AHEAD_MS_MAX, relayed=True)


def keep_costs(prepared: Prepared, costs: Sequence[Cost]) -> None:
    """An event has one price, wherever it is: none, too, stays none."""
    for record, place in zip(prepared.records, prepared.places, strict=True):
        record.cost_nanousd, record.price_ref = costs[place]


def last_sequences(reader: Reader, producer: str) -> dict[int, int]:
    """By partition."""
    rows = reader.rows("SELECT partition, sequence FROM producers WHERE producer = ?", (producer,))
    return {int(partition or 0): int(sequence or 0) for partition, sequence in rows}


class Resends:
    def __init__(self, database: Database, log: Log, write: Write, keep_conflicts: KeepConflicts) -> None:
        self._database = database
        self._log = log
        self._write = write
        self._keep_conflicts = keep_conflicts

    async def write(self, records: list[Record], refused: list[Quarantined], producer: str) -> list[Appended]:
        """As `write`, but that nothing is called a duplicate, for its number or within the window, which the log does
        not hold. What comes later overrides what was said of the same record before."""
        last = await self._database.read(last_sequences, producer)
        old = [record for record in records if record.sequence <= last.get(self._partition(record), 0)]
        numbers = {id(record) for record in old}
        new = [record for record in records if id(record) not in numbers]
        # The old ones first: of one session, they come before the new ones.
        settled = await self._look_up(old)
        appended = await self._write(new, refused, producer) if new or refused else []
        doubtful = [
            record
            for part in appended
            for record, verdict in zip(part.records, part.verdicts or (), strict=False)
            if verdict == "duplicate"
        ]
        return [*settled, *appended, *await self._look_up(doubtful)]

    async def _look_up(self, records: Sequence[Record]) -> list[Appended]:
        groups: dict[int, list[Record]] = {}
        for record in records:
            groups.setdefault(self._partition(record), []).append(record)
        found: list[Appended] = []
        for partition, group in groups.items():
            found += await self._look_up_in(partition, group)
        return found

    async def _look_up_in(self, partition: int, records: list[Record]) -> list[Appended]:
        held = await self._log.find_all(partition, records[0].tenant, {record.event_id for record in records})
        known: list[Record] = []
        verdicts: list[Verdict] = []
        conflicts: list[tuple[Record, int]] = []
        absent: list[Record] = []
        for record in records:
            holder = held.get(record.event_id)
            verdict: Verdict = "accepted" if holder is None else judge(record, holder)
            if holder is None or verdict == "accepted":
                absent.append(record)
                continue
            known.append(record)
            verdicts.append(verdict)
            if verdict == "conflict":
                conflicts.append((record, holder.offset))
        if conflicts:
            await self._keep_conflicts(conflicts)
        told = [Appended(known, partition=partition, verdicts=verdicts)] if known else []
        # Without a producer, so within the window: of two that look at once, and find nothing, one comes second.
        return [*told, *await self._write(absent, [], "")] if absent else told

    def _partition(self, record: Record) -> int:
        return self._database.partition_of(record.session_id)
