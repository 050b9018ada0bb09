"""The table of the lifecycle, and the diagram of it in the docs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from adjourn.sessions.lifecycle import (
    ENDED,
    LIVE,
    NEXT,
    Status,
    completed,
    failed,
    limited,
    path,
    terminated,
)

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "sessions.md"
FENCE = "```mermaid\n"

ALLOWED = {
    ("initializing", "active"),
    ("initializing", "error"),
    ("active", "idle"),
    ("active", "completed"),
    ("active", "error"),
    ("active", "terminated"),
    ("idle", "active"),
    ("idle", "terminated"),
    ("error", "terminated"),
}
"""By hand, from the design, so that a slip in the table is seen."""

PATHS: dict[tuple[Status, Status], list[Status]] = {
    ("initializing", "idle"): ["active", "idle"],
    ("initializing", "completed"): ["active", "completed"],
    ("initializing", "terminated"): ["error"],
    ("idle", "completed"): ["active", "completed"],
    ("idle", "error"): ["active", "error"],
}
"""Those that take more than one step, or end elsewhere."""


def diagram() -> str:
    """The table as the docs show it."""
    lines = ["stateDiagram-v2", "    [*] --> INITIALIZING"]
    lines += [f"    {before.upper()} --> {to.upper()}" for before in NEXT for to in sorted(NEXT[before])]
    lines += [f"    {status.upper()} --> [*]" for status in NEXT if not NEXT[status]]
    return "\n".join(lines) + "\n"


def test_the_table_is_the_design_s() -> None:
    """Every way that is allowed is there, and no other one, for all thirty-six pairs."""
    for pair in itertools.product(NEXT, NEXT):
        before, to = pair
        assert (to in NEXT[before]) == (pair in ALLOWED), pair


@pytest.mark.parametrize(("before", "to"), list(itertools.product(NEXT, NEXT)))
def test_a_path_goes_by_the_table_and_ends_once(before: Status, to: Status) -> None:
    """Each step of a path is one of the table; it passes through no end on its way to another; none leads out of an
    end, but from error to terminated."""
    steps = path(before, to)
    if (before, to) in ALLOWED:
        assert steps == [to]
    else:
        assert steps == PATHS.get((before, to), [])
    for one, other in itertools.pairwise([before, *steps]):
        assert other in NEXT[one]
    assert not [step for step in steps[:-1] if step in ENDED]
    if before in ENDED:
        assert steps == (["terminated"] if (before, to) == ("error", "terminated") else [])


def test_a_session_lives_or_has_ended() -> None:
    """No status is both, or neither; what has ended never lives again."""
    assert set(NEXT) == LIVE | ENDED
    assert not LIVE & ENDED
    assert all(NEXT[status] <= ENDED for status in ENDED)


def test_each_way_to_end_says_its_outcome() -> None:
    """Completed is success, a limit is a timeout that names it, a caller's stop is user_terminated, a failure is an
    error with its code; and each leads to an end that the table has."""
    said = [completed(), limited("max_turns"), terminated(), failed("abandoned", "gone")]
    assert [(each.to, each.outcome, each.error_code, each.final_message) for each in said] == [
        ("completed", "success", "", ""),
        ("terminated", "timeout", "max_turns", ""),
        ("terminated", "user_terminated", "", ""),
        ("error", "error", "abandoned", "gone"),
    ]
    for ending in said:
        assert ending.to in ENDED
        for status in LIVE:
            assert path(status, ending.to), (status, ending)


def test_the_diagram_in_the_docs_is_the_table() -> None:
    """Whoever changes the table changes the page: it says so of itself."""
    text = PAGE.read_text()
    assert FENCE in text
    assert text.partition(FENCE)[2].partition("```")[0] == diagram(), f"{PAGE} must hold:\n{diagram()}"
