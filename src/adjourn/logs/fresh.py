"""What this process has just appended, kept for those who follow the log: they need not each read it back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from adjourn.events import Record, StoredEvent

BYTES_MAX = 1_000_000
"""Of bodies, in each partition."""


class _Chunk:
    """One append. Its events are made when somebody asks, once for all who follow."""

    __slots__ = ("_events", "_partition", "_records", "first", "next", "size")

    def __init__(self, partition: int, first: int, records: Sequence[Record]) -> None:
        self.first = first
        self.next = first + len(records)
        self.size = sum([len(record.body) for record in records])
        self._partition = partition
        self._records = records
        self._events: list[StoredEvent] | None = None

    def events(self) -> list[StoredEvent]:
        if self._events is None:
            p, first = self._partition, self.first
            self._events = [
                StoredEvent(p, first + i, r.tenant, r.body, r.received_ms, r.cost_nanousd, r.price_ref)
                for i, r in enumerate(self._records)
            ]
            self._records = ()
        return self._events


class Fresh:
    """One run of adjacent offsets a partition. Written by the lanes' threads, read by any."""

    def __init__(self) -> None:
        self._chunks: dict[int, deque[_Chunk]] = {}
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()

    def add(self, partition: int, first: int, records: Sequence[Record]) -> None:
        """What was committed at `first`. Where another process has appended in between, a new run begins."""
        chunk = _Chunk(partition, first, records)
        with self._lock:
            chunks = self._chunks.setdefault(partition, deque())
            size = self._sizes.get(partition, 0)
            if chunks and chunks[-1].next != first:
                chunks.clear()
                size = 0
            chunks.append(chunk)
            size += chunk.size
            while chunks and size > BYTES_MAX:
                size -= chunks.popleft().size
            self._sizes[partition] = size

    def since(self, partition: int, offset: int) -> list[StoredEvent]:
        """The events from `offset` on, if the run holds them; none if it is not known what is there."""
        with self._lock:
            chunks = self._chunks.get(partition)
            if not chunks or not chunks[0].first <= offset < chunks[-1].next:
                return []
            found: deque[_Chunk] = deque()
            for chunk in reversed(chunks):  # whoever follows is near the end
                if chunk.next <= offset:
                    break
                found.appendleft(chunk)
            events = [event for chunk in found for event in chunk.events()]
            return events[offset - found[0].first :]

    def clear(self) -> None:
        with self._lock:
            self._chunks.clear()
            self._sizes.clear()
