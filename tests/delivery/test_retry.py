from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adjourn.delivery.retry import backoff_ms

DRAWS = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 10_000), st.integers(1, 100_000), st.integers(1, 100_000), DRAWS)
def test_the_wait_is_within_its_ceiling(attempt: int, first_ms: int, max_ms: int, draw: float) -> None:
    """At least a millisecond, at most the doubled delay and the maximum, whatever the attempt."""
    wait = backoff_ms(attempt, first_ms=first_ms, max_ms=max_ms, draw=draw)
    assert 1 <= wait <= max(1, min(max_ms, first_ms * 2 ** min(attempt - 1, 30)))


@given(st.integers(1, 40), DRAWS)
def test_the_ceiling_doubles_up_to_the_maximum(attempt: int, draw: float) -> None:
    """The same draw waits no shorter at a later attempt."""
    now, later = (backoff_ms(n, first_ms=100, max_ms=60_000, draw=draw) for n in (attempt, attempt + 1))
    assert now <= later


def test_a_destination_that_says_how_long_is_given_at_least_that() -> None:
    """retry_after_ms is a floor, also past the maximum, and no ceiling."""
    assert backoff_ms(1, first_ms=10, max_ms=50, draw=0.5, retry_after_ms=4_000) == 4_000
    assert backoff_ms(9, first_ms=1_000, max_ms=60_000, draw=0.99, retry_after_ms=5) > 5
