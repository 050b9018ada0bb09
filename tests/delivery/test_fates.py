from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.delivery.fates import NAMES, fate_at, joined, packed

FATES = st.text(alphabet="".join(NAMES), min_size=1, max_size=300)


@given(FATES)
def test_every_fate_is_read_back(fates: str) -> None:
    """What was packed is found again at each index, and nothing behind the last."""
    runs = packed(fates)
    assert [fate_at(runs, index) for index in range(len(fates))] == list(fates)
    with pytest.raises(IndexError):
        fate_at(runs, len(fates))


@given(FATES, FATES)
def test_two_stretches_join_into_one(first: str, second: str) -> None:
    """Joining what is packed is packing what is joined."""
    assert joined(packed(first), packed(second)) == packed(first + second)


def test_a_batch_that_was_taken_whole_costs_a_few_bytes() -> None:
    """Two thousand delivered events are five bytes."""
    assert packed("d" * 2000) == b"d2000"
