"""What became of each event of a request, for its sender; and what of it quarantine keeps. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from adjourn.completion.quarantine import Quarantined, quarantine_id
from adjourn.completion.validate import Context, Prepared, Problem
from adjourn.database import Appended, Verdict
from adjourn.errors import EventConflict
from adjourn.events import Record

Status = Literal["accepted", "duplicate", "conflict", "invalid"]

CONFLICT_MESSAGE = "an event with this id was taken before, with other content"
CONFLICT_REMEDY = (
    'give the new event an id of its own, or send a correction as event_type "session.amended" that names in `amends` '
    "what it corrects"
)


class Result(msgspec.Struct, omit_defaults=True):
    """What became of one event."""

    status: Status
    event_id: str | None = None
    code: str = ""
    path: str = ""
    message: str = ""
    remedy: str = ""
    quarantine_id: str = ""


def results_of(
    count: int, prepared: Prepared, refused: Sequence[Quarantined], appended: Sequence[Appended]
) -> list[Result]:
    """One for each of the `count` events of a request, in its order. `refused` are the entries of quarantine for
    `prepared.problems`, and `appended` what the log says of `prepared.records`."""
    if not prepared.problems and len(appended) == 1 and appended[0].verdicts is None:
        return [Result("accepted", record.event_id) for record in prepared.records]
    by_place: dict[int, Result] = {}
    place_of = {id(record): place for record, place in zip(prepared.records, prepared.places, strict=True)}
    for part in appended:
        verdicts: list[Verdict] = part.verdicts or ["accepted"] * len(part.records)
        for record, verdict in zip(part.records, verdicts, strict=True):
            by_place[place_of[id(record)]] = (
                conflict(record) if verdict == "conflict" else Result(verdict, record.event_id)
            )
    for problem, entry in zip(prepared.problems, refused, strict=True):
        by_place[problem.index] = Result(
            "invalid",
            code=problem.code,
            path=problem.path,
            message=problem.message,
            remedy=problem.remedy,
            quarantine_id=entry.id,
        )
    return [by_place[index] for index in range(count)]


def conflict(record: Record) -> Result:
    return Result(
        "conflict",
        record.event_id,
        code=EventConflict.code,
        path="event_id",
        message=CONFLICT_MESSAGE,
        remedy=CONFLICT_REMEDY,
        quarantine_id=quarantine_id(record.tenant, EventConflict.code, record.body),
    )


def refusal(problem: Problem, context: Context, source: str) -> Quarantined:
    """An invalid event, for quarantine."""
    return Quarantined(
        id=quarantine_id(context.tenant, problem.code, problem.raw),
        tenant=context.tenant,
        received_ms=context.now_ms,
        code=problem.code,
        path=problem.path,
        message=f"{problem.message}; {problem.remedy}",
        source=source,
        state="held",
        body=problem.raw,
    )


def conflicting(records: Sequence[tuple[Record, int]]) -> list[Quarantined]:
    """What the log refused as conflicts (record, offset of the event that holds the id), for quarantine."""
    return [
        Quarantined(
            id=quarantine_id(record.tenant, EventConflict.code, record.body),
            tenant=record.tenant,
            received_ms=record.received_ms,
            code=EventConflict.code,
            path="event_id",
            message=f"{CONFLICT_MESSAGE} ({_place_of(offset)}); {CONFLICT_REMEDY}",
            source="ingest",
            state="held",
            body=record.body,
        )
        for record, offset in records
    ]


def _place_of(offset: int) -> str:
    return f"offset {offset}" if offset >= 0 else "in the same batch"


def with_refused(prepared: Prepared, refused: Sequence[Problem]) -> Prepared:
    """Put both in the order of the whole."""
    taken = {problem.index for problem in refused}
    count = len(taken) + len(prepared.records) + len(prepared.problems)
    free = [place for place in range(count) if place not in taken]
    problems = [msgspec.structs.replace(problem, index=free[problem.index]) for problem in prepared.problems]
    return Prepared(prepared.records, [free[place] for place in prepared.places], [*problems, *refused])
