from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.clock import ManualClock, SteadyClock

DAY_S = 86_400.0


@given(st.lists(st.tuples(st.floats(0, 10_000), st.floats(-DAY_S, DAY_S)), max_size=30))
def test_a_steady_clock_neither_jumps_nor_goes_back(moves: list[tuple[float, float]]) -> None:
    """However the wall steps, and however often somebody looks: of the time that has passed it shows a twentieth more
    or less at most."""
    clock = ManualClock()
    steady = SteadyClock(clock)
    for passed_s, step_s in moves:
        before_ms = steady.wall_ms()
        clock.step_wall(step_s)
        clock.advance(passed_s)
        moved_ms = steady.wall_ms() - before_ms
        assert passed_s * 950 - 2 <= moved_ms <= passed_s * 1050 + 2


@pytest.mark.parametrize("step_s", [3_600.0, -3_600.0])
def test_a_steady_clock_catches_up(step_s: float) -> None:
    """An hour's step is made good within a day, and then it shows the wall's time again."""
    clock = ManualClock()
    steady = SteadyClock(clock)
    clock.step_wall(step_s)
    assert abs(steady.wall_ms() - clock.wall_ms()) == 3_600_000
    for _ in range(24):
        clock.advance(3_600)
        steady.wall_ms()
    assert abs(steady.wall_ms() - clock.wall_ms()) <= 1
