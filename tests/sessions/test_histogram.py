"""Durations in buckets."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from adjourn.sessions.histogram import add, bucket_of, pack, quantiles, unpack, value_of

YEAR_MS = 366 * 24 * 3_600_000
DURATIONS = st.integers(0, 100) | st.integers(0, 100 * YEAR_MS)


@given(DURATIONS)
def test_what_comes_out_is_within_two_per_cent(ms: int) -> None:
    """Of what was put in, from zero to a century; under 50 ms it is the same."""
    found = value_of(bucket_of(ms))
    assert abs(found - ms) <= (0.02 * ms if ms > 50 else 0)


@given(st.lists(DURATIONS, min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_that_of_the_values(values: list[int], share: float) -> None:
    """The least that at least that share do not exceed, within two per cent."""
    buckets: dict[int, int] = {}
    for value in values:
        add(buckets, {bucket_of(value): 1})
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = quantiles(buckets, [share])
    assert found is not None
    assert abs(found[0] - exact) <= max(0.02 * exact, 0.5)


@given(st.lists(DURATIONS), st.lists(DURATIONS))
def test_what_is_taken_away_leaves_nothing(kept: list[int], gone: list[int]) -> None:
    """In whatever order, and packed and unpacked in between."""
    buckets: dict[int, int] = {}
    for value in kept + gone:
        add(buckets, {bucket_of(value): 1})
    for value in gone:
        add(buckets, {bucket_of(value): -1})
        buckets = unpack(pack(buckets))
    only: dict[int, int] = {}
    for value in kept:
        add(only, {bucket_of(value): 1})
    assert buckets == only
    assert unpack(pack(buckets)) == buckets


def test_nothing_has_no_quantiles() -> None:
    """Rather than a duration of zero."""
    assert quantiles({}, [0.5]) is None


def test_it_stays_small() -> None:
    """A hundred thousand different durations up to a year fit into a few kilobytes."""
    buckets: dict[int, int] = {}
    for step in range(100_000):
        add(buckets, {bucket_of(round(1.00024**step)): 10**6})
    assert value_of(max(buckets)) > YEAR_MS / 2
    assert len(pack(buckets)) < 15_000
