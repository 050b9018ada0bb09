"""Where a live reader is, and what it gets of a stretch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.delivery.feed import Gap, Stretch, check_position, parse_position, position_text
from adjourn.errors import PositionGone
from adjourn.events import StoredEvent
from adjourn.log import Lost, Slice


def event(offset: int, tenant: str = "acme") -> StoredEvent:
    return StoredEvent(0, offset, tenant, b"{}", 0, None, "")


@given(st.lists(st.integers(0, 10**18 - 1), min_size=1, max_size=64))
def test_a_position_comes_back_as_it_was(offsets: list[int]) -> None:
    """As text and back; and what a log has given, it takes."""
    position = tuple(offsets)
    assert parse_position(position_text(position)) == position
    check_position(position, position)


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "a", "1 2", "1.5", "1" * 19, "-".join(["1"] * 65), "1\n", "¹"])
def test_other_text_is_no_position(text: str) -> None:
    """Whatever else is sent is not taken for one."""
    assert parse_position(text) is None


@pytest.mark.parametrize("foreign", [(4, 6), (5,), (5, 5, 0), (0, 6)])
def test_a_position_beyond_the_log_is_another_log_s(foreign: tuple[int, ...]) -> None:
    """More partitions, fewer, or an offset that was never given."""
    with pytest.raises(PositionGone, match="from=start"):
        check_position(foreign, (5, 5))


@given(st.data())
def test_read_in_steps_nothing_is_missing_or_doubled(data: st.DataObject) -> None:
    """A stretch with deleted, damaged and others' offsets, read by steps of any size from any place: each offset of
    one's own is seen once, in order, and each that cannot be read lies in a gap that is told once."""
    kinds = data.draw(st.lists(st.sampled_from("mol"), min_size=1, max_size=60))
    start, deleted = 100, data.draw(st.integers(0, 5))
    begin = start + deleted
    events = [event(begin + i, "acme" if k == "m" else "other") for i, k in enumerate(kinds) if k != "l"]
    lost = [Lost(0, begin + i, 1, "damaged") for i, k in enumerate(kinds) if k == "l"]
    stretch = Stretch(0, start, Slice(events, begin + len(kinds), lost))
    position = start
    seen: list[int] = []
    missing: list[int] = []
    while position < stretch.next_offset:
        coming, is_all = stretch.coming("acme", position, data.draw(st.integers(1, 7)))
        assert coming or is_all
        for one in coming:
            if isinstance(one, Gap):
                missing += range(max(one.first_offset, position), one.next_offset)
                position = one.next_offset
            else:
                seen.append(one.offset)
                position = one.offset + 1
        position = stretch.next_offset if is_all else position
    assert seen == [begin + i for i, k in enumerate(kinds) if k == "m"]
    assert missing == [*range(start, begin), *(begin + i for i, k in enumerate(kinds) if k == "l")]
