"""Ids: sortable by time, and the same again where a repetition has to be known."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from adjourn.ids import derived_event_id, new_id

WALL_MS = st.integers(0, 2**45)
ENTROPY = st.binary(min_size=8, max_size=8)


@given(WALL_MS, ENTROPY, WALL_MS, ENTROPY)
def test_ids_sort_as_their_times(one_ms: int, one: bytes, other_ms: int, other: bytes) -> None:
    """Whatever is random in them."""
    if one_ms < other_ms:
        assert new_id("evt", one_ms, one) < new_id("evt", other_ms, other)


@given(WALL_MS, ENTROPY)
def test_an_id_is_its_prefix_and_22_characters(wall_ms: int, entropy: bytes) -> None:
    """Of an alphabet without i, l, o and u, which people read wrongly."""
    assert re.fullmatch(r"sess_[0-9a-hjkmnp-tv-z]{22}", new_id("sess", wall_ms, entropy))


def test_ids_of_one_instant_differ() -> None:
    """60 bits are drawn for each."""
    assert len({new_id("msg", 1_700_000_000_000) for _ in range(10_000)}) == 10_000


@given(
    st.tuples(st.text(max_size=5), st.text(max_size=5), st.integers(1, 99)),
    st.tuples(st.text(max_size=5), st.text(max_size=5), st.integers(1, 99)),
)
def test_a_derived_id_belongs_to_one_attempt_of_one_session(
    one: tuple[str, str, int], other: tuple[str, str, int]
) -> None:
    """The same again for the same, and another for any other, wherever tenant and session are cut."""
    assert (derived_event_id(*one) == derived_event_id(*other)) == (one == other)


def test_a_derived_id_never_changes() -> None:
    """What was captured by an older version, and is sent again by a newer one, is known by it."""
    assert derived_event_id("acme", "sess_1", 1) == "evt_m1a0k52ecd7k7jm0ed2gfx5k"
