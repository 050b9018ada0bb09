"""What became of each event of a request: every one has its result, at its own place."""

from __future__ import annotations

import json
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from adjourn.completion.results import Status, conflict, conflicting, refusal, results_of, with_refused
from adjourn.completion.validate import Context, Prepared, Problem, prepare
from adjourn.database import Appended, Verdict
from adjourn.prices import PriceTable

CONTEXT = Context(tenant="acme", now_ms=1_770_000_000_000, secret=b"s" * 32, prices=PriceTable())
Fate = Literal["accepted", "duplicate", "conflict", "invalid", "refused"]
FATES: tuple[Fate, ...] = ("accepted", "duplicate", "conflict", "invalid", "refused")

WRITTEN: dict[Fate, Verdict] = {"accepted": "accepted", "duplicate": "duplicate", "conflict": "conflict"}


def body(place: int, fate: Fate) -> bytes:
    session = {} if fate == "invalid" else {"session_id": f"s{place}"}
    return json.dumps({"event_id": f"e{place}", "session": session}).encode()


@given(st.lists(st.sampled_from(FATES), max_size=30), st.integers(1, 3))
def test_each_event_has_its_own_result(fates: list[Fate], partitions: int) -> None:
    """Whatever became of the others, whichever was refused before it was looked into, and whichever partitions they
    were written to."""
    raws = [body(place, fate) for place, fate in enumerate(fates) if fate != "refused"]
    refused = [
        Problem(place, "cloud_event_invalid", "", f"m{place}", "", body(place, fate))
        for place, fate in enumerate(fates)
        if fate == "refused"
    ]
    prepared = with_refused(prepare(raws, CONTEXT), refused)
    kept = [refusal(problem, CONTEXT, "http") for problem in prepared.problems]
    results = results_of(len(fates), prepared, kept, written(prepared, fates, partitions))
    told: list[Status] = ["invalid" if fate == "refused" else fate for fate in fates]
    assert [result.status for result in results] == told
    for place, (fate, result) in enumerate(zip(fates, results, strict=True)):
        if fate == "refused":
            assert result.message == f"m{place}"
        if fate in ("accepted", "duplicate", "conflict"):
            assert result.event_id == f"e{place}"
        if fate in ("invalid", "refused"):
            entry = next(entry for entry in kept if entry.id == result.quarantine_id)
            assert entry.body == body(place, fate)


def written(prepared: Prepared, fates: list[Fate], partitions: int) -> list[Appended]:
    """As a log of so many partitions says it."""
    parts: list[Appended] = []
    for partition in range(partitions):
        mine = range(partition, len(prepared.records), partitions)
        records = [prepared.records[i] for i in mine]
        parts.append(Appended(records, verdicts=[WRITTEN[fates[prepared.places[i]]] for i in mine]))
    return parts


def test_a_conflict_is_found_in_quarantine() -> None:
    """Under the id that its sender was told, with the place of the event that holds its id."""
    (record,) = prepare([body(0, "accepted")], CONTEXT).records
    (entry,) = conflicting([(record, 7)])
    assert entry.id == conflict(record).quarantine_id
    assert "(offset 7)" in entry.message
    (same_batch,) = conflicting([(record, -1)])
    assert "(in the same batch)" in same_batch.message
