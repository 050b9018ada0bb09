"""A change moves a session by the table, numbers what it tells, and ends it once."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sessions.hosted import session

from adjourn.errors import StatusRefused
from adjourn.sessions.change import Change
from adjourn.sessions.lifecycle import ENDED, NEXT, Status, completed, failed, limited, path, terminated

ENDINGS = (completed(), failed("abandoned"), limited("max_turns"), terminated())


@pytest.mark.parametrize(("before", "to"), list(itertools.product(NEXT, NEXT)))
def test_it_moves_by_the_table_or_is_refused(before: Status, to: Status) -> None:
    """Each step becomes one event of its own; where the table has no way, nothing has changed, and the refusal says
    what to do instead."""
    change = Change(session(status=before, events=7), 5_000)
    if to != before and not path(before, to):
        with pytest.raises(StatusRefused, match=f"is {before} and cannot become {to}; "):
            change.move(to, "test")
        assert (change.session.status, change.session.events, change.events, change.steps) == (before, 7, [], [])
        return
    change.move(to, "test")
    wanted = [] if to == before else path(before, to)
    assert [(step.before, step.after) for step in change.steps] == list(itertools.pairwise([before, *wanted]))
    assert [step.seq for step in change.steps] == [event.seq for event in change.events]
    assert [event.seq for event in change.events] == list(range(8, 8 + len(wanted)))


def test_it_works_on_a_copy() -> None:
    """The row as it was stays as it was: whoever compares them sees what has changed."""
    before = session(status="active")
    change = Change(before, 5_000)
    change.end(completed())
    assert (before.status, before.ended_ms, before.events) == ("active", None, 0)
    assert (change.session.status, change.session.ended_ms) == ("completed", 5_000)


@given(st.sampled_from(sorted(NEXT)), st.lists(st.sampled_from(ENDINGS), max_size=5))
def test_however_it_is_ended_there_is_one_completion(status: Status, endings: list[object]) -> None:
    """Of all endings of one session the first sets the outcome and is the completion; later ones move it at most from
    error to terminated, and tell no completion."""
    now = session(status=status, ended_ms=1 if status in ENDED else None)
    emitted = 0
    for ending in endings:
        change = Change(now, 5_000)
        try:
            change.end(ending)  # type: ignore[arg-type]  # one of ENDINGS
        except StatusRefused:
            continue
        emitted += change.ending is not None
        assert (change.ending is not None) == ([event.type for event in change.events].count("completed") == 1)
        if change.ending is not None:
            assert json.loads(bytes(change.events[-1].data))["outcome"] == change.session.outcome
        now = change.session
    assert emitted == (status not in ENDED and bool(endings))
    assert (now.ended_ms is not None) == (now.status in ENDED)


def test_an_end_is_never_before_the_beginning() -> None:
    """A clock that was set back does not make a duration negative."""
    change = Change(session(status="active", created_ms=9_000), 5_000)
    change.end(completed())
    assert change.session.ended_ms == 9_000


def test_an_idle_session_completes_through_active() -> None:
    """Two changes of status and the completion, in this order, in one change."""
    change = Change(session(status="idle"), 5_000)
    change.end(completed(final_message="bye"))
    assert [event.type for event in change.events] == ["status_changed", "status_changed", "completed"]
    assert change.session.described.final_message == "bye"


def test_what_has_not_begun_cannot_be_terminated() -> None:
    """It is an error whose outcome says that a caller did it."""
    change = Change(session(status="initializing"), 5_000)
    change.end(terminated())
    assert (change.session.status, change.session.outcome) == ("error", "user_terminated")
