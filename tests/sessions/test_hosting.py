"""The four patterns, as data."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from tests.documented import documented_rows

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


def test_the_guide_says_what_they_are() -> None:
    """The table of docs/howto/host-sessions.md is this data, in words."""
    runner = {
        ("turn", False): ("for its turn", "for each turn"),
        ("turn", True): ("for its first turn, and stays",),
        ("create", True): ("at once, and stays",),
    }
    page = documented_rows(Path(__file__).parents[2] / "docs" / "howto" / "host-sessions.md", section="Which pattern")
    assert [name for name in page if name in PATTERNS] == list(PATTERNS)
    for name, hosting in PATTERNS.items():
        _, done, failed, died, opened, several, starts, kept = page[name]
        assert (done, failed, died) == (hosting.after_turn, hosting.after_failed_turn, hosting.after_death), name
        assert opened in runner[hosting.opens, hosting.stays_open], name
        assert (several == "yes", starts == "yes") == (hosting.several_agents, hosting.starts_turns), name
        assert kept == f"`{hosting.retention}`", name
