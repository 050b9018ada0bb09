"""Why a session takes no turn: each refusal is a fact and a remedy, and the first that holds is told."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sessions.hosted import say, session

from adjourn.errors import AdjournError, LimitReached, NotFound, SessionEnded, StatusRefused, TurnRunning
from adjourn.runner import Agent, RunnerConfig
from adjourn.sessions.refusals import agent_of, no_price, not_found, refused
from adjourn.sessions.session import Described, Limits, SessionKey, Spent

TWO = Described(config=RunnerConfig(agents=[Agent(name="ann"), Agent(name="bob")]))
SPENT = Described(limits=Limits(max_turns=2))


@pytest.mark.parametrize(
    ("fields", "agent", "kind", "told"),
    [
        ({"status": "completed", "ended_ms": 1}, "", SessionEnded, "is completed and takes no more"),
        ({"status": "error", "ended_ms": 1, "error_code": "abandoned"}, "", SessionEnded, r"is error \(abandoned\)"),
        ({"status": "initializing"}, "", StatusRefused, "wait until it is active"),
        ({"turn_id": "turn_1", "node": "node/me"}, "", TurnRunning, "turn turn_1 runs on this node"),
        ({"turn_id": "turn_1", "node": "node/other"}, "", TurnRunning, "turn turn_1 runs on node node/other"),
        ({"queued": 3}, "", TurnRunning, "3 messages wait"),
        ({"pattern": "single_container", "node": "node/other"}, "", StatusRefused, "lives on node node/other"),
        ({"described": TWO}, "eve", NotFound, "its agents are ann, bob"),
        ({"described": TWO}, "", NotFound, "name one: ann, bob"),
        ({}, "eve", NotFound, "it has no named agents"),
        ({"described": SPENT, "spent": Spent(turns=2)}, "", LimitReached, r"all of limits\.max_turns"),
    ],
)
def test_who_is_refused_is_told_why(fields: dict[str, Any], agent: str, kind: type[AdjournError], told: str) -> None:
    """By the session's row alone, so that every node says the same."""
    error = refused(session(**fields), say(agent=agent), "node/me")
    assert type(error) is kind
    with pytest.raises(kind, match=told):
        raise error


@pytest.mark.parametrize("status", ["active", "idle"])
def test_who_is_not_refused(status: str) -> None:
    """A session that rests takes a turn here, wherever it was last, unless its runner was opened for good there."""
    for fields in ({}, {"pattern": "long_running", "node": "node/other"}, {"pattern": "single_container"}):
        assert refused(session(status=status, **fields), say(), "node/me") is None


def test_an_agent_that_is_the_only_one_need_not_be_named() -> None:
    """With several, the message says whom it is for."""
    one = Described(config=RunnerConfig(agents=[Agent(name="ann")]))
    assert agent_of(session(described=one), say()) == "ann"
    assert agent_of(session(described=TWO), say(agent="bob")) == "bob"
    assert agent_of(session(), say()) == ""


def test_what_has_no_price_is_named() -> None:
    """A budget cannot be kept by who does not know what is spent: the model that has no price is told."""
    assert "it names no model" in no_price(session()).message
    assert "model big has no price" in no_price(session(model="big")).message


def test_an_id_that_is_not_there_is_cut_short() -> None:
    """An answer never repeats more of what was asked than helps."""
    assert len(not_found(SessionKey("default", "x" * 10_000)).message) < 250
