"""Reading the log live: where a reader is, and what it gets of a stretch of the log. Pure, but for two queries.

A reader has no durable cursor: it keeps its own position, the next offset of every partition, as `12-40`. Whoever gives
a position back goes on exactly behind it, at any node and after any restart.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

import msgspec

from adjourn.database import Reader
from adjourn.errors import PositionGone
from adjourn.events import StoredEvent
from adjourn.log import Slice

Position = tuple[int, ...]

_POSITION = re.compile(r"[0-9]{1,18}(-[0-9]{1,18}){0,63}")
_offset = attrgetter("offset")
DELETED = "they were deleted by retention before they were read"


class Gap(msgspec.Struct, frozen=True):
    """Offsets that cannot be read any more. They are the whole log's: how many events of one tenant it had, or whether
    any, is not known."""

    partition: int
    first_offset: int
    count: int
    reason: str

    @property
    def offset(self) -> int:
        return self.first_offset

    @property
    def next_offset(self) -> int:
        return self.first_offset + self.count


class Bounds(msgspec.Struct, frozen=True):
    """Of each partition: the first offset that is kept, and the next that will be given."""

    tails: Position
    heads: Position


class Stretch:
    """A stretch of one partition, shared by all who read there; each sees only its own tenant's events."""

    def __init__(self, partition: int, start: int, found: Slice) -> None:
        self.partition = partition
        self.start = start
        self.next_offset = found.next_offset
        self.gaps = _gaps(partition, start, found)
        self.bytes = sum([len(event.body) + 200 for event in found.events])
        self._events = found.events
        self._by_tenant: dict[str, list[StoredEvent]] | None = None

    def holds(self, partition: int, offset: int) -> bool:
        return self.partition == partition and self.start <= offset < self.next_offset

    def coming(self, tenant: str | None, offset: int, most: int) -> tuple[list[StoredEvent | Gap], bool]:
        """What there is from `offset` on, in order, about as many as `most`; and whether it is all. `tenant` None: of
        all tenants."""
        events = self._events if tenant is None else self._of_tenant(tenant)
        first = bisect_left(events, offset, key=_offset)
        coming: list[StoredEvent | Gap] = [*events[first : first + most]]
        is_all = first + most >= len(events)
        gaps = [gap for gap in self.gaps if gap.next_offset > offset]
        if gaps:
            gaps = gaps if is_all else [gap for gap in gaps if gap.offset < coming[-1].offset]
            coming = sorted([*coming, *gaps], key=_offset)
        return coming, is_all

    def _of_tenant(self, tenant: str) -> Sequence[StoredEvent]:
        if self._by_tenant is None:
            self._by_tenant = {}
            for event in self._events:
                self._by_tenant.setdefault(event.tenant, []).append(event)
        return self._by_tenant.get(tenant, ())


def position_text(position: Sequence[int]) -> str:
    return "-".join(map(str, position))


def parse_position(text: str) -> Position | None:
    """None: it is not one."""
    return tuple(map(int, text.split("-"))) if _POSITION.fullmatch(text) else None


def check_position(position: Position, heads: Position) -> None:
    """Raises PositionGone where this log cannot have given it."""
    if len(position) != len(heads) or any(mine > head for mine, head in zip(position, heads, strict=True)):
        raise PositionGone(
            f"position {position_text(position)} is not of this log, which was restored or moved since; begin again "
            "with from=start, or with from=now or a time, and expect events that were seen before"
        )


def read_bounds(reader: Reader) -> Bounds:
    rows = reader.rows("SELECT tail_offset, next_offset FROM log_heads ORDER BY partition")
    return Bounds(tuple(int(tail or 0) for tail, _ in rows), tuple(int(head or 0) for _, head in rows))


def read_since(reader: Reader, since_ms: int) -> Position:
    """The first block of each partition that has an event of that time or later; the head where none has."""
    rows = reader.rows(
        "SELECT partition, min(first_offset) FROM log_blocks WHERE max_ts >= ? GROUP BY partition", (since_ms,)
    )
    first = {int(partition or 0): int(offset or 0) for partition, offset in rows}
    return tuple(first.get(partition, head) for partition, head in enumerate(read_bounds(reader).heads))


def _gaps(partition: int, start: int, found: Slice) -> list[Gap]:
    lost = [Gap(partition, one.first_offset, one.count, one.reason) for one in found.lost]
    firsts = [one.offset for one in (*found.events[:1], *lost[:1])]
    begins = min(firsts, default=found.next_offset)
    return [Gap(partition, start, begins - start, DELETED), *lost] if begins > start else lost
