"""What completions and amendments say."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
from tests.sessions.hosted import session

from adjourn.sessions.completions import amendment_event, bare_event, completion_event
from adjourn.sessions.lifecycle import Ending, completed, limited
from adjourn.sessions.session import Described, Session, Spent
from adjourn.sessions.turn import Amending

SPENT = Spent(turns=3, input_tokens=10, output_tokens=4, tool_calls=2, errors=1, cost_nanousd=1_500_000_001)


def ended(**fields: Any) -> Session:
    given = {"status": "completed", "ended_ms": 61_000, "outcome": "success", "spent": SPENT, "model": "m"}
    return session(**{**given, **fields})


def test_a_completion_says_all_that_is_known() -> None:
    """Times, usage with the exact cost, the outcome with its last words and its state, and under which names it ran."""
    state = msgspec.Raw(b'{"a":1}')
    ending = Ending(to="completed", outcome="success", reason="completed", final_message="bye", final_state=state)
    said = json.loads(completion_event(ended(user_id="u", name="n"), ending), parse_float=Decimal)
    assert said["session"] == {
        "session_id": "sess_1",
        "session_type": "api",
        "start_time": "1970-01-01T00:00:01.000Z",
        "end_time": "1970-01-01T00:01:01.000Z",
        "duration_ms": 60_000,
    }
    assert said["usage"] == {
        "input_tokens": 10,
        "output_tokens": 4,
        "total_tokens": 14,
        "tool_calls": 2,
        "model": "m",
        "estimated_cost_usd": Decimal("1.500000001"),
    }
    assert said["outcome"] == {"status": "success", "final_message": "bye", "final_state": {"a": 1}}
    assert said["user"] == {"user_id": "u"}
    tags = said["metadata"]["custom_tags"]
    assert (tags["pattern"], tags["turns"], tags["errors"], tags["name"]) == ("hybrid", 3, 1, "n")


def test_no_price_is_not_no_cost() -> None:
    """Where nothing that was used has a price there is no cost; where nothing was used it is 0."""
    unpriced = ended(spent=Spent(turns=1, input_tokens=5, unpriced_turns=1))
    assert "estimated_cost_usd" not in json.loads(completion_event(unpriced, completed()))["usage"]
    assert json.loads(completion_event(ended(spent=Spent()), completed()))["usage"]["estimated_cost_usd"] == 0


def test_a_limit_names_itself() -> None:
    """A timeout with the limit as its code; what was said last is kept."""
    row = ended(described=Described(final_message="so far"))
    said = json.loads(completion_event(row, limited("max_turns")))["outcome"]
    assert said == {"status": "timeout", "error_code": "max_turns", "final_message": "so far"}


def test_the_bare_completion_says_the_same_of_the_same_event() -> None:
    """Its id, outcome and usage: what no rule of the server refuses."""
    whole, bare = (json.loads(make(ended(), completed())) for make in (completion_event, bare_event))
    assert (bare["event_id"], bare["usage"]) == (whole["event_id"], whole["usage"])
    assert bare["outcome"]["status"] == whole["outcome"]["status"]


def test_an_amendment_says_all_anew() -> None:
    """What was given, and the rest as it was; totals that no longer add up are left away."""
    row = ended(described=Described(final_message="bye"))
    said = json.loads(amendment_event(row, Amending(outcome="error", error_code="e", output_tokens=9), "evt_2", 70_000))
    assert (said["event_type"], said["event_id"], said["amends"]) == ("session.amended", "evt_2", "evt_1")
    assert said["outcome"] == {"status": "error", "error_code": "e", "final_message": "bye"}
    assert (said["usage"]["input_tokens"], said["usage"]["output_tokens"]) == (10, 9)
    assert "total_tokens" not in said["usage"]
    only = json.loads(amendment_event(row, Amending(cost_usd=Decimal("0.1")), "evt_2", 70_000), parse_float=Decimal)
    assert (only["usage"]["estimated_cost_usd"], only["usage"]["total_tokens"]) == (Decimal("0.1"), 14)
