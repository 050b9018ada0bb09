"""Lanes: order within a session, isolation of what is refused, and nothing sent twice because of an outage."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.destination import BEHIND, Refusal
from adjourn.destinations.outbound_answers import Verdict
from adjourn.destinations.outbound_lanes import REMEMBERED_BATCHES, Item, Lanes
from adjourn.errors import DestinationOutage

BAD = Refusal(index=0, code="http_422", reason="bad")
BROKEN = Refusal(index=0, code="http_500", reason="broken", permanent=False)


def items_of(sessions: Sequence[str]) -> list[Item]:
    return [Item(index=n, session=session, id=f"id_{n}", body=b"x" * 10) for n, session in enumerate(sessions)]


class Taker:
    """Takes events and answers as its tables say: by event, and (an outage) by the number of the request."""

    def __init__(self, bad: Collection[int] = (), broken: Collection[int] = (), outages: Collection[int] = ()) -> None:
        self.bad, self.broken, self.outages = set(bad), set(broken), set(outages)
        self.requests: list[list[int]] = []
        self.taken: list[Item] = []
        self.now = self.most_at_once = 0

    async def post(self, items: Sequence[Item]) -> Verdict:
        self.requests.append([item.index for item in items])
        number = len(self.requests)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        indexes = {item.index for item in items}
        if number in self.outages:
            raise DestinationOutage("away")
        if indexes & self.bad:
            return BAD
        if indexes & self.broken:
            return BROKEN
        self.taken += items
        return None


def in_order(taken: Sequence[Item]) -> bool:
    of_session: dict[str, list[int]] = defaultdict(list)
    for item in taken:
        of_session[item.session].append(item.index)
    return all(indexes == sorted(set(indexes)) for indexes in of_session.values())


INDEXES = st.sets(st.integers(0, 39), max_size=6)


@given(
    sessions=st.lists(st.sampled_from("abcdefgh"), max_size=40),
    bad=INDEXES,
    broken=INDEXES,
    outages=st.sets(st.integers(1, 30), max_size=6),
    concurrency=st.integers(1, 6),
    events_max=st.integers(1, 12),
)
def test_every_event_is_taken_once_or_refused(
    sessions: list[str], bad: set[int], broken: set[int], outages: set[int], concurrency: int, events_max: int
) -> None:
    """Whatever a receiver answers: order per session holds, each event ends in one place, what was taken is not sent
    again after an outage, what failed holds back its session, and no more is under way than may be."""
    taker = Taker(bad, broken, outages)
    lanes = Lanes(concurrency=concurrency, request_events_max=events_max)
    items = items_of(sessions)

    async def main() -> list[Refusal] | None:
        for _ in range(len(outages) + 1):
            try:
                return await lanes.send("batch", items, taker.post)
            except DestinationOutage as outage:
                if outage.answered:
                    return None
        return None

    refusals = asyncio.run(main())
    assert in_order(taker.taken)
    assert taker.most_at_once <= concurrency
    assert all(len(request) <= events_max for request in taker.requests)
    taken = [item.index for item in taker.taken]
    assert len(taken) == len(set(taken))
    if refusals is None:
        return
    refused = {refusal.index: refusal for refusal in refusals}
    assert [refusal.index for refusal in refusals] == sorted(refused)
    assert sorted([*taken, *refused]) == list(range(len(items)))
    for index, refusal in refused.items():
        if refusal.code == BEHIND:
            ahead = [n for n in range(index) if sessions[n] == sessions[index]]
            assert any(n in refused and refused[n].code == "http_500" for n in ahead)
        else:
            assert (index in bad) or (index in broken)
            assert refusal.permanent is (index in bad)


def test_few_events_go_in_few_requests() -> None:
    """Three events go in one body where five hundred may, not in three."""
    taker = Taker()
    asyncio.run(Lanes(concurrency=8, request_events_max=500).send("b", items_of("abc"), taker.post))
    assert taker.requests == [[0, 1, 2]]


def test_a_body_is_no_larger_than_asked() -> None:
    """Requests are cut by bytes as well as by events; an event that is larger alone goes alone."""
    taker = Taker()
    items = [Item(index=n, session="s", id=str(n), body=b"x" * size) for n, size in enumerate((60, 60, 500, 10, 10))]
    lanes = Lanes(concurrency=1, request_events_max=10, request_bytes_max=100)
    asyncio.run(lanes.send("b", items, taker.post))
    assert taker.requests == [[0], [1], [2], [3, 4]]


def test_one_bad_event_among_hundreds_is_found_by_halving() -> None:
    """It costs about two requests a halving, and all others are taken."""
    taker = Taker(bad={137})
    lanes = Lanes(concurrency=1, request_events_max=512)
    (refusal,) = asyncio.run(lanes.send("b", items_of([f"s{n}" for n in range(512)]), taker.post))
    assert (refusal.index, refusal.code, refusal.permanent) == (137, "http_422", True)
    assert len(taker.taken) == 511
    assert len(taker.requests) <= 19


def test_one_event_that_breaks_the_receiver_is_found_too() -> None:
    """A 500 for a whole body is halved as well, and ends with the one event for which it is answered."""
    taker = Taker(broken={0})
    lanes = Lanes(concurrency=1, request_events_max=512)
    (refusal,) = asyncio.run(lanes.send("b", items_of([f"s{n}" for n in range(512)]), taker.post))
    assert (refusal.index, refusal.code, refusal.permanent) == (0, "http_500", False)


def test_the_gravest_outage_is_told() -> None:
    """Of several outages in one batch, that for good comes first, then the one that asks for the longest wait."""
    said = [
        DestinationOutage("short", retry_after_ms=5),
        DestinationOutage("long", retry_after_ms=9000),
        DestinationOutage("none"),
    ]

    async def post(items: Sequence[Item]) -> Verdict:
        await asyncio.sleep(0)
        raise said[items[0].index]

    lanes = Lanes(concurrency=3, request_events_max=1)
    with pytest.raises(DestinationOutage, match="long"):
        asyncio.run(lanes.send("b", items_of("abc"), post))
    said[2] = DestinationOutage("gone", gone=True)
    with pytest.raises(DestinationOutage, match="gone"):
        asyncio.run(lanes.send("b", items_of("abc"), post))


def test_what_is_remembered_is_bounded_and_ends_with_the_batch() -> None:
    """Memory of batches that were cut is let go when they pass, and the oldest when there are many."""
    lanes = Lanes(concurrency=1, request_events_max=1)

    async def main() -> None:
        for n in range(2 * REMEMBERED_BATCHES):
            with pytest.raises(DestinationOutage):
                await lanes.send(f"batch_{n}", items_of("ab"), Taker(outages={2}).post)
        taker = Taker()
        await lanes.send(f"batch_{2 * REMEMBERED_BATCHES - 1}", items_of("ab"), taker.post)
        assert taker.requests == [[1]]
        await lanes.send(f"batch_{2 * REMEMBERED_BATCHES - 1}", items_of("ab"), taker.post)
        assert taker.requests == [[1], [0], [1]]
        oldest = Taker()
        await lanes.send("batch_0", items_of("ab"), oldest.post)
        assert oldest.requests == [[0], [1]]

    asyncio.run(main())
