"""A turn in memory: what it has told, and how it went."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sessions.hosted import say, session

from adjourn.runner import Cost, Done, TextDelta, TurnEvent, TurnFailed, Usage
from adjourn.sessions import live as lives
from adjourn.sessions.lifecycle import terminated
from adjourn.sessions.live import Live, Stop
from adjourn.sessions.money import Meter
from adjourn.sessions.session import Described, Limits, SessionKey, Spent
from adjourn.sessions.turn import TurnError
from adjourn.sessions.turn_rows import TurnRow, asked_of

TIMEOUT = TurnError(code="turn_timeout_ms", message="too long")
FAILED = TurnFailed("down", "the model is down", retryable=True)


def live(*said: TurnEvent, told: list[SessionKey] | None = None, **row: Any) -> Live:
    fields = {"number": 1, "turn_id": "turn_1", "status": "running", "idempotency": None, "created_ms": 1_000}
    given = {"tenant": "default", "session_id": "sess_1", "asked": asked_of(say()), "began_ms": 5_000, **fields, **row}
    turn = TurnRow(**given)
    limits = Described(limits=Limits(max_tokens=10))
    now = session(status="active", turn_id="turn_1", events=7, spent=Spent(input_tokens=4), described=limits)
    heard = told if told is not None else []
    made = Live(now, turn, Meter(lambda usage: usage.input_tokens), 80, heard.append)
    for event in said:
        made.take(event, 6_000)
    return made


@pytest.mark.parametrize(
    ("last", "stop", "status", "code"),
    [
        (Done(), None, "done", ""),
        (Done("interrupted"), None, "interrupted", ""),
        (FAILED, None, "failed", "down"),
        (None, None, "failed", "no_answer"),
        (None, Stop(), "interrupted", ""),
        (Done("interrupted"), Stop(), "interrupted", ""),
        (FAILED, Stop(), "interrupted", ""),
        (Done(), Stop(), "done", ""),
        (None, Stop(error=TIMEOUT), "failed", "turn_timeout_ms"),
        (Done("interrupted"), Stop(error=TIMEOUT), "failed", "turn_timeout_ms"),
        (None, Stop(ending=terminated()), "interrupted", ""),
        (TurnFailed("", ""), None, "failed", "runner_error"),
    ],
)
def test_how_a_turn_went(last: Done | TurnFailed | None, stop: Stop | None, status: str, code: str) -> None:
    """By the runner's last word, and by why it was stopped: a limit is a failure that names itself, an answer that came
    before it was heard of is an answer."""
    turn = live(TextDelta("so "), TextDelta("far"), *([] if last is None else [last]))
    turn.stopping = stop
    found = turn.result(9_000)
    assert (found.status, found.error.code if found.error else "", found.text) == (status, code, "so far")
    assert (found.began_ms, found.ended_ms, found.usage.turns) == (5_000, 9_000, 1)
    assert found.usage.errors == (status == "failed")


def test_what_a_runner_calls_its_failure_fits_into_a_column() -> None:
    """Programs of anybody say it: it is cut, and without NUL, which PostgreSQL does not take."""
    error = live(TurnFailed("a\0b" * 1_000, "m")).result(9_000).error
    assert error is not None
    assert len(error.code) == lives.CODE_LENGTH_MAX
    assert "\0" not in error.code


def test_events_are_numbered_behind_those_of_the_session() -> None:
    """Each once, in order; whoever follows hears of each; one that cannot be written takes no number."""
    told: list[SessionKey] = []
    turn = live(TextDelta("a"), TextDelta("b"), told=told)
    with pytest.raises(UnicodeEncodeError):
        turn.take(TextDelta("\ud800"), 6_000)
    turn.take(Done(), 6_000)
    assert [event.seq for event in turn.events] == [8, 9, 10]
    assert told == [SessionKey("default", "sess_1")] * 3
    assert turn.over


def test_what_is_kept_in_the_database_need_not_be_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many stay in memory; who asks for earlier ones is sent to the database, never told of a part."""
    monkeypatch.setattr(lives, "SEEN_EVENTS_MAX", 2)
    turn = live(*(TextDelta(str(n)) for n in range(6)))
    assert [event.seq for event in turn.to_tell] == [8, 9, 10, 11, 12, 13]
    turn.kept(5)
    assert [event.seq for event in turn.to_tell] == [13]
    assert [event.seq for event in turn.seen_after(10) or []] == [11, 12, 13]
    assert turn.seen_after(9) is None
    assert turn.seen_after(13) == []


def test_it_knows_what_it_may_still_spend() -> None:
    """Money where it holds some, tokens where there is a limit; where there is no budget, money is no matter."""
    free = live(Usage(input_tokens=5))
    assert (free.held_nanousd, free.needs_more(), free.has_spent_all(), free.tokens_left()) == (None, 0, False, True)
    bound = live(reserved_nanousd=10, reservation="held")
    assert (bound.needs_more(), bound.has_spent_all()) == (0, False)
    bound.take(Cost(10), 6_000)
    assert bound.needs_more() > 0
    assert bound.has_spent_all()
    bound.take(Usage(input_tokens=6), 6_000)
    assert not bound.tokens_left()
