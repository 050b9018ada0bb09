"""The four patterns, as data."""

from __future__ import annotations

from typing import get_args

from adjourn.sessions.hosting import PATTERNS, Pattern
from adjourn.sessions.lifecycle import ENDED, NEXT


def test_each_pattern_has_its_row() -> None:
    """There are four, and the type that callers are checked by has no other."""
    assert list(PATTERNS) == list(get_args(Pattern))


def test_where_a_turn_or_a_death_leaves_a_session_is_a_way_of_the_table() -> None:
    """A turn is run by an active session: each pattern's next status is the same, or one step from there."""
    for name, hosting in PATTERNS.items():
        for after in (hosting.after_turn, hosting.after_failed_turn, hosting.after_death):
            assert after == "active" or after in NEXT["active"], name


def test_what_the_patterns_promise() -> None:
    """Ephemeral ends with its first turn; long-running stays active; hybrid idles; only single_container has several
    agents, and cannot outlive its process; only long-running starts turns by itself."""
    ephemeral, long_running, hybrid, container = PATTERNS.values()
    assert {ephemeral.after_turn, ephemeral.after_failed_turn} <= ENDED
    assert (long_running.after_turn, long_running.after_death) == ("active", "active")
    assert (hybrid.after_turn, hybrid.after_death) == ("idle", "idle")
    assert (container.after_turn, container.after_death, container.opens) == ("active", "error", "create")
    assert [hosting.several_agents for hosting in PATTERNS.values()] == [False, False, False, True]
    assert [hosting.starts_turns for hosting in PATTERNS.values()] == [False, True, False, False]
    assert [hosting.retention == "ephemeral_retention_ms" for hosting in PATTERNS.values()] == [
        True,
        False,
        False,
        False,
    ]


def test_a_runner_that_is_opened_first_stays_open() -> None:
    """What is opened when a session is created is there for every turn of it."""
    assert all(hosting.stays_open for hosting in PATTERNS.values() if hosting.opens == "create")
