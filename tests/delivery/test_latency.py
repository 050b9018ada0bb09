from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adjourn.delivery.latency import Latency

VALUES = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200)


@given(VALUES, st.floats(0.01, 1))
def test_a_quantile_is_right_to_within_a_bucket(values: list[float], q: float) -> None:
    """The quantile is at or just above the value of that rank, by 5 % at most."""
    latency = Latency()
    for value in values:
        latency.add(value)
    rank = next(n for n in range(1, len(values) + 1) if n >= q * len(values) - 1e-9)
    exact = sorted(values)[rank - 1]
    assert exact * 0.9999 <= latency.quantile_ms(q) <= exact * 1.0501


def test_counts_and_mean() -> None:
    """Several at once count as many, zero counts too, and nothing yet is 0."""
    latency = Latency()
    assert (latency.mean_ms(), latency.quantile_ms(0.99)) == (0.0, 0.0)
    latency.add(10.0, 3)
    latency.add(0.0)
    assert latency.count == 4
    assert 7.4 < latency.mean_ms() < 7.6
    assert latency.quantile_ms(0.1) < 0.002


@given(st.lists(st.floats(0.01, 1e6), max_size=50), st.floats(0.01, 1e6))
def test_a_bound_counts_what_surely_keeps_it(values: list[float], bound: float) -> None:
    """None that is slower is counted at a bound, and all that are 5 % faster are; merging adds up."""
    parts = [Latency(), Latency()]
    for n, value in enumerate(values):
        parts[n % 2].add(value)
    whole = Latency.merged(parts)
    (found,) = whole.at_most([bound])
    surely = sum(value * 1.0501 <= bound for value in values)
    assert surely <= found <= sum(value <= bound * 1.0001 for value in values)
    assert whole.count == len(values)
