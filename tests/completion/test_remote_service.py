from __future__ import annotations

from adjourn.completion.remote_service import consecutive


def test_runs_of_consecutive_numbers_are_found() -> None:
    """A request names only the first of its numbers: gaps, which torn lines leave, begin another."""
    assert consecutive([1, 2, 3]) == [(0, 3)]
    assert consecutive([4, 6, 7, 9]) == [(0, 1), (1, 3), (3, 4)]
