"""How the events of a batch are sent by single requests, several at once: in lanes, each session in one of them.

A lane sends one request after the other, so that the events of a session stay in order. What a request with several
events was refused for is found by halving. What was taken before an outage is remembered, so that a receiver that takes
ten events a minute is sent the next ten, and not the same ones for ever.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from adjourn.destination import BEHIND, Batch, Refusal
from adjourn.destinations.outbound_answers import Verdict
from adjourn.errors import DestinationOutage
from adjourn.events import StoredEvent

REMEMBERED_BATCHES = 64


class Item(msgspec.Struct, frozen=True, gc=False):
    """One event on its way. `session` tells sessions apart, those of different tenants too."""

    index: int
    session: str
    id: str
    body: bytes


Post = Callable[[Sequence[Item]], Awaitable[Verdict]]
"""Send one request. A refusal is of all its events, or of one that is not known; its index does not matter."""


def items_of(batch: Batch, item_of: Callable[[int, StoredEvent], Item]) -> tuple[list[Item], list[Refusal]]:
    """The events of a batch as `item_of` makes them, and refusals of those that it cannot read."""
    items: list[Item] = []
    refusals: list[Refusal] = []
    for index, event in enumerate(batch.events):
        try:
            items.append(item_of(index, event))
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            reason = f"the event cannot be read: {error}; correct it and send it again"
            refusals.append(Refusal(index=index, code="event_invalid", reason=reason))
    return items, refusals


class Lanes:
    def __init__(self, *, concurrency: int, request_events_max: int, request_bytes_max: int = 1_000_000) -> None:
        self._concurrency = concurrency
        self._events_max = request_events_max
        self._bytes_max = request_bytes_max
        self._taken: OrderedDict[str, set[str]] = OrderedDict()  # by batch that an outage cut short

    async def send(self, batch_id: str, items: Sequence[Item], post: Post) -> list[Refusal]:
        """Raises DestinationOutage; what was taken by then is not sent again with a batch of the same id."""
        taken = self._taken.get(batch_id, set())
        left = [item for item in items if item.id not in taken] if taken else items
        sending = _Sending(post, failures_max=3 + self._events_max.bit_length())
        lanes = list(self._lanes(left))
        if len(lanes) == 1:
            await sending.lane(lanes[0])
        elif lanes:
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(sending.lane(lane))
        try:
            refusals = sending.refusals()
        except DestinationOutage:
            self._remember(batch_id, taken | sending.taken)
            raise
        self._taken.pop(batch_id, None)
        return refusals

    def _lanes(self, items: Sequence[Item]) -> Iterator[list[list[Item]]]:
        """Each lane: its requests. Fewer lanes where full requests need fewer."""
        count = min(self._concurrency, -(-len(items) // self._events_max))
        lanes: list[list[Item]] = [[] for _ in range(count)]
        of_session: dict[str, list[Item]] = {}
        for item in items:
            lane = of_session.get(item.session)
            if lane is None:
                lane = of_session[item.session] = min(lanes, key=len) if count > 1 else lanes[0]
            lane.append(item)
        return (list(self._requests(lane)) for lane in lanes if lane)

    def _requests(self, lane: Sequence[Item]) -> Iterator[list[Item]]:
        request: list[Item] = []
        size = 0
        for item in lane:
            if request and (len(request) == self._events_max or size + len(item.body) > self._bytes_max):
                yield request
                request, size = [], 0
            request.append(item)
            size += len(item.body)
        if request:
            yield request

    def _remember(self, batch_id: str, taken: set[str]) -> None:
        if taken:
            self._taken[batch_id] = taken
            self._taken.move_to_end(batch_id)
            while len(self._taken) > REMEMBERED_BATCHES:
                self._taken.popitem(last=False)


class _Sending:
    """One batch being sent. An outage stops every lane before its next request; those under way are waited for."""

    def __init__(self, post: Post, failures_max: int) -> None:
        self.taken: set[str] = set()
        self._post = post
        self._failures_max = failures_max
        self._failures_in_a_row = 0
        self._failed: dict[int, Refusal] = {}
        self._refused: dict[int, Refusal] = {}
        self._behind: list[int] = []
        self._held: set[str] = set()  # sessions of which an event failed: their later ones must not overtake it
        self._outages: list[DestinationOutage] = []

    async def lane(self, requests: Sequence[Sequence[Item]]) -> None:
        for request in requests:
            await self._send(request)

    async def _send(self, items: Sequence[Item]) -> None:
        if self._held:
            self._behind += [item.index for item in items if item.session in self._held]
            items = [item for item in items if item.session not in self._held]
        if not items or self._outages:
            return
        try:
            verdict = await self._post(items)
        except DestinationOutage as outage:
            verdict = outage
        if verdict is None:
            self.taken.update(item.id for item in items)
            self._failures_in_a_row = 0
        elif isinstance(verdict, DestinationOutage):
            self._outages.append(verdict)
        else:
            self._count(verdict)
            await self._isolate(items, verdict)

    def _count(self, refusal: Refusal) -> None:
        """Enough failures with nothing taken in between are no event's: the receiver is broken."""
        if refusal.permanent:
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row > self._failures_max:
            self._outages.append(DestinationOutage(refusal.reason, answered=True))

    async def _isolate(self, items: Sequence[Item], refusal: Refusal) -> None:
        if len(items) > 1:
            middle = len(items) // 2
            await self._send(items[:middle])
            await self._send(items[middle:])
        elif refusal.permanent:
            self._refused[items[0].index] = _at(items[0].index, refusal)
        else:
            self._failed[items[0].index] = _at(items[0].index, refusal)
            self._held.add(items[0].session)

    def refusals(self) -> list[Refusal]:
        """By rising index. Raises DestinationOutage."""
        if self._outages:
            raise _gravest(self._outages)
        if self._failed and not self.taken:
            raise DestinationOutage(next(iter(self._failed.values())).reason, answered=True)
        reason = "an earlier event of its session has failed and comes first; nothing is to be done for this one"
        behind = {index: Refusal(index=index, code=BEHIND, reason=reason, permanent=False) for index in self._behind}
        return [refusal for _, refusal in sorted({**self._refused, **self._failed, **behind}.items())]


def _gravest(outages: Sequence[DestinationOutage]) -> DestinationOutage:
    return max(outages, key=lambda outage: (outage.gone, not outage.answered, outage.retry_after_ms or 0))


def _at(index: int, refusal: Refusal) -> Refusal:
    return Refusal(index=index, code=refusal.code, reason=refusal.reason, permanent=refusal.permanent)
