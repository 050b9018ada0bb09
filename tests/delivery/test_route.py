from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.delivery.route import pieces, route, sampled, wants_of
from adjourn.errors import ShapingFailed
from adjourn.events import COMPLETION_TYPES, EVENT_TYPES, StoredEvent
from adjourn.log import Lost, Slice
from adjourn.testing.exercise_destination import change_of_status


def stored(offset: int, session: str = "") -> StoredEvent:
    body = json.dumps({"event_id": f"evt_{offset}", "session": {"session_id": session or f"s{offset}"}}).encode()
    return StoredEvent(0, offset, "acme", body, 1, None, "")


class Drops:
    """A filter that drops odd offsets, a transform that marks the rest, and a failure at 4."""

    def shape(self, event: StoredEvent) -> StoredEvent | None:
        if event.offset == 4:
            raise ShapingFailed("no such field")
        return None if event.offset % 2 else msgspec.structs.replace(event, price_ref="shaped")


def test_everything_is_wanted_at_a_rate_of_one() -> None:
    """Without filter, sampling or anything parked nothing is left out, and nothing is decoded."""
    events = [stored(0), StoredEvent(0, 1, "acme", b"not JSON", 1, None, "")]
    routed = route(events, shapes=None, sampling_rate=1.0, waiting=set())
    assert (routed.wanted, routed.shaped, routed.fates) == (events, events, ["d", "d"])


def test_every_event_has_one_fate() -> None:
    """Filtered, failed, behind a parked one of its own session and tenant, or sent as its transform made it."""
    events = [stored(n, f"s{n}") for n in range(9)]
    waiting = {("acme", "s6"), ("other", "s2"), ("acme", "s3")}
    routed = route(events, shapes=Drops(), sampling_rate=1.0, waiting=waiting)
    assert "".join(routed.fates) == "dfdfxfpfd"
    assert [event.offset for event in routed.wanted] == [0, 2, 8]
    assert {event.price_ref for event in routed.wanted} == {""}
    assert {event.price_ref for event in routed.shaped} == {"shaped"}
    assert [(event.offset, why) for event, why in routed.failed] == [(4, "no such field")]
    assert [event.offset for event in routed.behind] == [6]


@given(st.floats(0, 1), st.floats(0, 1), st.text(min_size=1))
def test_a_higher_rate_keeps_what_a_lower_one_keeps(one: float, other: float, session: str) -> None:
    """A session that is in a sample is in every larger one; rate 0 keeps nothing and rate 1 everything."""
    low, high = sorted((one, other))
    assert sampled(session, low) <= sampled(session, high)
    assert not sampled(session, 0.0)
    assert sampled(session, 1.0)


def test_a_session_is_sampled_whole() -> None:
    """All events of one session are wanted or none is, and both add up."""
    events = [stored(n, f"s{n % 50}") for n in range(500)]
    routed = route(events, shapes=None, sampling_rate=0.4, waiting=set())
    wanted = {event.completion().session.session_id for event in routed.wanted}
    assert len(routed.wanted) == 10 * len(wanted)
    assert routed.fates.count("d") + routed.fates.count("s") == 500
    assert 5 < len(wanted) < 35


@given(st.lists(st.sampled_from(["event", "lost"]), max_size=30), st.integers(1, 7))
def test_pieces_cover_the_stretch_and_each_loss_is_in_one(kinds: list[str], size: int) -> None:
    """The pieces follow each other without a gap, hold every event and every loss once, and none is longer than
    `size`."""
    events = [stored(offset) for offset, kind in enumerate(kinds, 5) if kind == "event"]
    lost = [Lost(0, offset, 1, "damaged") for offset, kind in enumerate(kinds, 5) if kind == "lost"]
    found = Slice(events, 5 + len(kinds), lost)
    cut = pieces(found, 5, size)
    assert [event for piece in cut for event in piece.events] == events
    assert [each for piece in cut for each in piece.lost] == lost
    assert cut[-1].next_offset == found.next_offset
    cursor = 5
    for piece in cut:
        assert len(piece.events) <= size
        assert all(cursor <= event.offset < piece.next_offset for event in piece.events)
        assert len(piece.events) + sum(each.count for each in piece.lost) == piece.next_offset - cursor
        cursor = piece.next_offset


CHANGE = change_of_status(1, reason="said").body
COMPLETED, AMENDED = b'{"session":{"session_id":"a"}}', b'{"event_type":"session.amended","amends":"e"}'
SPELLED = b'{"event_type":"session.\\u0061mended","amends":"e"}'


@pytest.mark.parametrize(
    ("types", "wanted"),
    [
        (COMPLETION_TYPES, [COMPLETED, AMENDED, SPELLED]),
        (["session.amended"], [AMENDED, SPELLED]),
        (["session.completed", "session.status_changed"], [COMPLETED, CHANGE]),
        (EVENT_TYPES, [COMPLETED, AMENDED, SPELLED, CHANGE]),
        (["*"], [COMPLETED, AMENDED, SPELLED, CHANGE]),
    ],
)
def test_a_destination_gets_the_types_that_it_wants(types: Sequence[str], wanted: list[bytes]) -> None:
    """However their type is spelled, and whether it is written at all."""
    wants = wants_of(types)
    bodies = [COMPLETED, AMENDED, SPELLED, CHANGE]
    assert [body for body in bodies if wants is None or wants(body)] == wanted
    assert (wants is None) == (wanted == bodies)  # then nothing is looked at


def test_what_is_of_another_type_is_filtered_first() -> None:
    """Neither filter nor transform sees it, and nothing waits behind it; the rest is routed as ever, each with its
    fate."""
    events = [stored(0), change_of_status(1, session_id="s6"), stored(2, "s6"), change_of_status(4)]
    wants = wants_of(COMPLETION_TYPES)
    plain = route(events, shapes=None, sampling_rate=1.0, waiting=set(), wants=wants)
    assert ("".join(plain.fates), plain.wanted, plain.shaped) == ("dfdf", [events[0], events[2]], plain.wanted)
    shaped = route(events, shapes=Drops(), sampling_rate=1.0, waiting={("acme", "s6"), ("org_a", "s6")}, wants=wants)
    assert ("".join(shaped.fates), shaped.behind, shaped.failed) == ("dfpf", [events[2]], [])
