"""The fold: what is applied while it runs is what is read back."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from adjourn.gateway.completions import completion_of
from adjourn.gateway.sessions import (
    ANSWERS_MAX,
    MODELS_MAX,
    Began,
    Closed,
    Ending,
    Head,
    Opened,
    Record,
    Sessions,
    Taken,
    Used,
)
from adjourn.gateway.usage import Usage


def opened(ref: str, key: str = "") -> Opened:
    return Opened(ref, key or f"key-{ref}", f"sess-{ref}", 1000, user_id="u")


def call(ref: str, name: str, **more: Any) -> list[Record]:
    used: dict[str, Any] = {"usage": Usage(10, 5), "model": "m", "cost_nanousd": 7, "status": "success", **more}
    return [Began(ref, name, 2000, model="asked"), Used(ref, name, 3000, **used)]


def closed(sessions: Sessions, ref: str) -> Closed:
    return Closed(ref, sessions.sequence + 1, msgspec.Raw(completion_of(sessions.open[ref])))


def sessions_of(*records: Record) -> Sessions:
    sessions = Sessions(Head("p", "00", 0))
    for record in records:
        sessions.apply(record)
    return sessions


def state(sessions: Sessions) -> Any:
    return list(sessions.snapshot())


def test_later_counts_of_a_call_take_the_place_of_earlier_ones() -> None:
    """A stream that tells its tokens three times has used them once."""
    told = [Used("a", "1", 2500, Usage(10, n), model="m") for n in (1, 2)]
    began, ended = call("a", "1")
    sessions = sessions_of(opened("a"), began, *told, ended, ended)
    session = sessions.open["a"]
    assert (session.calls, session.models["m"].output_tokens, session.ended_ms) == (1, 5, 3000)


def test_any_history_is_the_same_after_a_snapshot(rng: random.Random) -> None:
    """Records may be replaced by a snapshot at any point: what follows leads to the same."""
    history: list[Record] = []
    live = Sessions(Head("p", "00", 0))
    copies: list[Sessions] = []
    for number in range(300):
        refs = list(live.open)
        ref = rng.choice(refs) if refs else ""
        roll = rng.random()
        records: list[Record] = [opened(f"r{number}")]
        if ref and roll < 0.7:
            status = rng.choice(["success", "error", None])
            records = call(ref, f"c{number}", model=rng.choice(["m", "n", ""]), status=status, answer=f"a{number}")
        elif ref and roll < 0.8:
            records = [Ending(ref)]
        elif ref and roll < 0.9:
            records = [closed(live, ref)]
        elif roll < 0.95:
            records = [Taken(live.sequence)]
        if number % 50 == 0:
            copy = Sessions(Head("", "", 0))
            encoded = [msgspec.json.encode(record) for record in live.snapshot()]
            decoded = [msgspec.json.decode(data, type=Record) for data in encoded]
            assert isinstance(decoded[0], Head)
            copy = Sessions(decoded[0])
            for record in decoded:
                copy.apply(record)
            copies.append(copy)
        for record in records:
            history.append(record)
            for each in (live, *copies):
                each.apply(record)
    for copy in copies:
        assert state(copy) == state(live)
        assert all(copy.find(s.key) == live.find(s.key) for s in live.open.values())
    assert state(sessions_of(*history)) == state(live)


def test_keys_lead_to_open_sessions_only() -> None:
    """By its key, and by answers that it may continue from, until it ends or is told to."""
    sessions = sessions_of(opened("a"), *call("a", "1", answer="answer"))
    assert sessions.find("key-a") is sessions.find("answer") is sessions.open["a"]
    assert sessions.find(None) is sessions.find("other") is None
    sessions.apply(Ending("a"))
    assert sessions.find("key-a") is sessions.find("answer") is None
    sessions.apply(opened("b", "key-a"))
    sessions.apply(closed(sessions, "a"))
    assert sessions.find("key-a") is sessions.open["b"], "the next session of that key is not forgotten with it"


def test_a_session_stays_small() -> None:
    """However many models its calls name and answers they give."""
    records = [r for n in range(1000) for r in call("a", str(n), model=f"m{n}", answer=f"a{n}")]
    sessions = sessions_of(opened("a"), *records)
    session = sessions.open["a"]
    assert (len(session.models), len(session.answers), session.calls) == (MODELS_MAX, ANSWERS_MAX, 1000)
    assert sum(totals.calls for totals in session.models.values()) == 1000
    assert sessions.find("a999") is session
    assert sessions.find("a0") is None
    assert not session.open_calls
    assert not session.used
