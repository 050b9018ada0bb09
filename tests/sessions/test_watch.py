"""The rules of watched sessions: the lifecycle, what is written, when a lease ends."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sessions.rigs import complete, parts

from adjourn.sessions.watch import (
    NEXT,
    Begin,
    Book,
    Complete,
    Key,
    Sighting,
    State,
    Watched,
    abandoned_event,
    bare_event,
    before,
    begun_event,
    completed_event,
    fingerprint,
)

NOW_MS = 1_700_000_000_000
KEY = Key("t", "s")


def watched(begin: Begin, *, state: State = "open", usage: dict[str, object] | None = None) -> Watched:
    return Watched(
        tenant="t",
        session_id="s",
        attempt=begin.attempt,
        state=state,
        token=b"",
        lease_ms=1000,
        beat=0,
        begun=begun_event("s", begin, NOW_MS),
        usage=b"" if usage is None else json.dumps(usage).encode(),
        event_id="evt_1",
        began_ms=NOW_MS,
        heard_ms=NOW_MS + 5000,
    )


def decoded(body: bytes) -> dict[str, Any]:
    return json.loads(body)


def test_the_table_is_whole_and_ends() -> None:
    """Each state has its row; `open` is where it begins; every way through ends after two steps at most."""
    assert set(NEXT) == set(get_args(State))
    assert before("open") == []
    assert [state for state in NEXT if not NEXT[state]] == ["completed", "amended"]
    assert before("completed") == before("abandoned") == ["open"]
    assert before("amended") == ["abandoned"]


def test_a_completion_is_what_was_begun_with_and_what_is_said_at_the_end() -> None:
    """Parts are merged by name, tags too; what is said later wins, and what nobody asks about stays as it was."""
    begin = Begin(
        session_type=msgspec.Raw(b'"chat"'),
        start_time=msgspec.Raw(b'"2023-11-14T22:13:20Z"'),
        user=parts(user_id="u", own=1),
        metadata=parts(client_version="1", custom_tags={"a": 1, "b": 1}),
    )
    end = complete(user={"tier": "pro"}, metadata={"custom_tags": {"b": 2, "c": 3}}, outcome={"final_message": "bye"})
    event = decoded(completed_event(watched(begin), end, NOW_MS + 1500))
    assert event == {
        "timestamp": "2023-11-14T22:13:21.500Z",
        "session": {
            "session_id": "s",
            "session_type": "chat",
            "start_time": "2023-11-14T22:13:20Z",
            "end_time": "2023-11-14T22:13:21.500Z",
            "duration_ms": 1500,
        },
        "user": {"user_id": "u", "own": 1, "tier": "pro"},
        "outcome": {"status": "success", "final_message": "bye"},
        "metadata": {"client_version": "1", "custom_tags": {"a": 1, "b": 2, "c": 3}},
    }


def test_the_newest_usage_counts_whole_and_keeps_the_model() -> None:
    """Counts of an earlier report are never mixed with those of a later one; the model is kept from the beginning."""
    begin = Begin(usage=parts(model="gpt-4o", total_tokens=1))
    beaten = watched(begin, usage={"input_tokens": 5})
    assert decoded(completed_event(beaten, Complete(), NOW_MS))["usage"] == {"model": "gpt-4o", "input_tokens": 5}
    said = complete(usage={"output_tokens": 3, "model": "o3"})
    assert decoded(completed_event(beaten, said, NOW_MS))["usage"] == {"model": "o3", "output_tokens": 3}
    assert decoded(abandoned_event(watched(begin), NOW_MS))["usage"] == {"model": "gpt-4o", "total_tokens": 1}


def test_numbers_are_kept_as_they_were_written() -> None:
    """A cost with twenty digits arrives with twenty digits."""
    end = msgspec.json.decode(b'{"usage": {"estimated_cost_usd": 0.12345678901234567890}}', type=Complete)
    assert b"0.12345678901234567890" in completed_event(watched(Begin()), end, NOW_MS)


def test_an_abandoned_session_ended_when_it_was_last_heard_of() -> None:
    """Nobody knows more: end and duration are those of the last sign of life, the timestamp is that of the finding."""
    event = decoded(abandoned_event(watched(Begin(attempt=2)), NOW_MS + 60_000))
    assert event["outcome"] == {"status": "error", "error_code": "abandoned"}
    assert event["session"]["end_time"] == "2023-11-14T22:13:25.000Z"
    assert event["session"]["duration_ms"] == 5000
    assert event["session"]["attempt"] == 2
    assert event["timestamp"] == "2023-11-14T22:14:20.000Z"


def test_an_end_is_never_before_its_start() -> None:
    """A client whose clock is ahead, and a server whose clock steps back, give a duration of nothing, not a refusal."""
    ahead = Begin(start_time=msgspec.Raw(b'"2023-11-14T22:17:00.000+00:00"'))
    for event in (completed_event(watched(ahead), Complete(), NOW_MS), abandoned_event(watched(ahead), NOW_MS)):
        session = decoded(event)["session"]
        assert (session["end_time"], session["duration_ms"]) == ("2023-11-14T22:17:00+00:00", 0)


def test_a_late_completion_amends() -> None:
    """After it was abandoned, a client's completion says which event it corrects."""
    event = decoded(completed_event(watched(Begin(), state="abandoned"), Complete(), NOW_MS))
    assert (event["event_type"], event["amends"]) == ("session.amended", "evt_1")
    assert event["outcome"] == {"status": "success"}


def test_the_least_completion_needs_nothing_of_what_was_sent() -> None:
    """It holds the id, the attempt and the outcome, whatever else was begun with."""
    begin = Begin(attempt=3, metadata=parts(source="refused"))
    assert decoded(bare_event(watched(begin))) == {
        "session": {"session_id": "s", "attempt": 3},
        "outcome": {"status": "error", "error_code": "abandoned"},
    }


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"usage":{"input_tokens":5,"model":"m"}}', b'{ "usage": {"model": "m", "input_tokens": 5.0} }', True),
        (b'{"usage":{"input_tokens":5}}', b'{"usage":{"input_tokens":6}}', False),
        (b'{"usage":{"a":"5"}}', b'{"usage":{"a":5}}', False),
        (b'{"usage":{"a":true}}', b'{"usage":{"a":1}}', False),
        (b'{"usage":{"a":1e400}}', b'{"usage":{"a":10e399}}', True),
        (b"{}", b'{"attempt":1}', True),
        (b"{}", b'{"usage":{}}', False),
    ],
)
def test_completions_are_the_same_by_value(one: bytes, other: bytes, same: bool) -> None:
    """Spacing, the order of keys and the way a number is written do not make another completion."""
    left, right = (fingerprint(msgspec.json.decode(body, type=Complete)) for body in (one, other))
    assert (left == right) == same


def look(book: Book, now_s: float, *beats: int, lease_ms: int = 1000) -> int:
    """How many are overdue; sessions are numbered, and each has stood at that beat."""
    sightings = [Sighting(Key("t", str(number)), beat, lease_ms) for number, beat in enumerate(beats)]
    return len(book.look(sightings, now_s, now_s, away_s_max=5))


def test_a_lease_ends_when_its_beat_stands_still_for_so_long() -> None:
    """Counted from when this node saw it first, and anew with each beat."""
    book = Book()
    assert [look(book, second, 0, 0) for second in (10.0, 10.9, 11.0)] == [0, 0, 2]
    assert [look(book, second, 1, 0) for second in (11.5, 12.4, 12.5)] == [1, 1, 2]


def test_a_beat_that_arrives_while_the_database_answers_slowly_counts_from_the_answer() -> None:
    """What was read may have been written just before the answer: the whole lease lies behind that."""
    book, sighting = Book(), Sighting(KEY, 0, 1000)
    assert book.look([sighting], 10.0, 12.0, away_s_max=5) == []
    assert book.look([sighting], 12.9, 13.0, away_s_max=5) == []
    assert book.look([sighting], 13.0, 13.1, away_s_max=5) == [sighting]


def test_leases_begin_anew_after_an_absence() -> None:
    """A node that did not look, because it stood still or had no database, could not hear either."""
    book = Book()
    assert [look(book, second, 0) for second in (10.0, 10.5, 16.0, 16.9, 17.0)] == [0, 0, 0, 0, 1]


@given(st.lists(st.tuples(st.floats(0.1, 5), st.booleans()), min_size=1, max_size=30))
def test_whoever_beats_within_its_lease_is_never_overdue(steps: list[tuple[float, bool]]) -> None:
    """Whatever the pace of looking is, nobody is overdue who beat less than a lease ago."""
    book, now_s, beat, beaten_s = Book(), 100.0, 0, 100.0
    look(book, now_s, beat, lease_ms=3000)
    for gap_s, beats in steps:
        now_s += gap_s
        if beats:
            beat, beaten_s = beat + 1, now_s
        if look(book, now_s, beat, lease_ms=3000):
            assert now_s - beaten_s >= 3.0
