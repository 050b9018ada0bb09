"""Live readers of the log, each at its own pace. What they read they share, so that a thousand of them at the head of
the log cost one read; a slow one holds nothing but its position."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import datetime

import msgspec

from adjourn.database import Database
from adjourn.delivery.feed import (
    Bounds,
    Gap,
    Position,
    Stretch,
    check_position,
    parse_position,
    position_text,
    read_bounds,
    read_since,
)
from adjourn.delivery.route import Shapes
from adjourn.errors import BodyInvalid, ShapingFailed
from adjourn.events import StoredEvent
from adjourn.log import Log

READ_EVENTS = 256
SHARED_BYTES = 16 * 1024 * 1024
"""Of stretches that are kept for the next reader of them."""
PORTION_BYTES = 32 * 1024
LOOKED_AT_ONCE = 100
"""Events whose filter is worked out before the event loop gets its turn."""


class Item(msgspec.Struct, frozen=True):
    """What comes next for a reader, and the position behind it."""

    what: StoredEvent | Gap
    position: str


class Source:
    """The log, as all live readers of one process share it. `heads` are as of the last `look`."""

    def __init__(self, database: Database, log: Log) -> None:
        self.heads: Position = ()
        self._database = database
        self._log = log
        self._kept: OrderedDict[tuple[int, int], Stretch] = OrderedDict()
        self._reading: dict[tuple[int, int], asyncio.Task[Stretch]] = {}

    async def look(self) -> bool:
        """See how far the log goes now; whether it has grown. Raises Unavailable."""
        before = self.heads
        self.heads = (await self._database.read(read_bounds)).heads
        return self.heads != before

    async def begin(self, where: str) -> tuple[Position, int]:
        """`start`, `now`, a position or an RFC 3339 time → the position, and the time before which nothing is wanted.
        Raises BodyInvalid, PositionGone, Unavailable."""
        bounds: Bounds = await self._database.read(read_bounds)
        self.heads = self.heads or bounds.heads
        if where in ("start", "now"):
            return (bounds.tails if where == "start" else bounds.heads), 0
        position = parse_position(where)
        if position is not None:
            check_position(position, bounds.heads)
            return position, 0
        since_ms = _time_ms(where)
        return await self._database.read(read_since, since_ms), since_ms

    async def stretch(self, partition: int, offset: int) -> Stretch:
        """The one that holds this offset, read once for all who ask. Raises Unavailable."""
        for key, kept in self._kept.items():
            if kept.holds(partition, offset):
                self._kept.move_to_end(key)
                return kept
        key = (partition, offset)
        reading = self._reading.get(key)
        if reading is None:
            reading = asyncio.create_task(self._read(partition, offset))
            self._reading[key] = reading
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        return await asyncio.shield(reading)  # one reader that leaves must not take it from the others

    async def _read(self, partition: int, offset: int) -> Stretch:
        found = await self._log.read(partition, offset, count=READ_EVENTS)
        stretch = Stretch(partition, offset, found)
        if stretch.next_offset > offset:
            self._kept[(partition, offset)] = stretch
            while len(self._kept) > 1 and sum(kept.bytes for kept in self._kept.values()) > SHARED_BYTES:
                self._kept.popitem(last=False)
        return stretch

    def forget(self) -> None:
        """Nobody reads any more."""
        self._kept.clear()


class Feed:
    """One reader: the events of one tenant (None: of all) that pass a filter, in the order of each partition."""

    def __init__(
        self,
        source: Source,
        position: Position,
        *,
        tenant: str | None,
        wanted: Shapes | None = None,
        since_ms: int = 0,
    ) -> None:
        self._source = source
        self._position = list(position)
        self._tenant = tenant
        self._wanted = wanted
        self._since_ms = since_ms
        self._turn = 0

    @property
    def position(self) -> str:
        return position_text(self._position)

    async def next(self) -> list[Item] | None:
        """Some more; an empty list where none of what was looked at is wanted. None: there is no more now (until the
        source has looked). Partitions take turns. Raises Unavailable."""
        heads = self._source.heads
        for step in range(len(self._position)):
            partition = (self._turn + step) % len(self._position)
            if self._position[partition] < heads[partition]:
                self._turn = partition + 1
                return await self._portion(await self._source.stretch(partition, self._position[partition]))
        return None

    async def _portion(self, stretch: Stretch) -> list[Item]:
        """From the position on, no more than is soon worked out and sent. A filter may take long over an event: others
        have their turn between two."""
        items: list[Item] = []
        size = 0
        coming, is_all = stretch.coming(self._tenant, self._position[stretch.partition], LOOKED_AT_ONCE)
        for one in coming:
            if size >= PORTION_BYTES:
                return items
            self._position[stretch.partition] = one.next_offset if isinstance(one, Gap) else one.offset + 1
            if isinstance(one, Gap) or self._wants(one):
                items.append(Item(one, self.position))
                size += 0 if isinstance(one, Gap) else len(one.body)
            if self._wanted is not None:
                await asyncio.sleep(0)
        if is_all:
            self._position[stretch.partition] = stretch.next_offset
        return items

    def _wants(self, event: StoredEvent) -> bool:
        if event.received_ms < self._since_ms:
            return False
        if self._wanted is None:
            return True
        try:
            return self._wanted.shape(event) is not None
        except ShapingFailed:  # of a filter on an event that it does not fit: it is not true of it
            return False


def _time_ms(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise BodyInvalid(
            f"{text[:60]!r} is no place in the log; give start, now, the id of a message of a stream, or a time as "
            "2026-11-21T05:16:18Z",
            path="from",
        )
    return int(time.timestamp() * 1000)
