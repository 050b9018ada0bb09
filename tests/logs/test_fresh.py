"""What was just appended: one run of adjacent events, bounded in bytes."""

from __future__ import annotations

import random

from adjourn.events import Record, StoredEvent
from adjourn.logs.fresh import BYTES_MAX, Fresh


def records(first: int, count: int, size: int = 10) -> list[Record]:
    return [
        Record("org", "s", f"e{first + n}", b"x" * size, b"", b"", 1_000 + first + n, n, "sent") for n in range(count)
    ]


def stored(first: int, count: int, size: int = 10, partition: int = 0) -> list[StoredEvent]:
    return [StoredEvent(partition, first + n, "org", b"x" * size, 1_000 + first + n, n, "sent") for n in range(count)]


def test_a_run_is_had_from_any_offset(rng: random.Random) -> None:
    """From any offset of the run, all that follows; nothing for offsets before it, behind it, or elsewhere."""
    fresh, head, expected = Fresh(), 100, list[StoredEvent]()
    for _ in range(50):
        count = rng.randrange(1, 5)
        fresh.add(1, head, records(head, count))
        expected += stored(head, count, partition=1)
        head += count
        for offset in range(100, head):
            assert fresh.since(1, offset) == expected[offset - 100 :]
    assert fresh.since(1, 99) == fresh.since(1, head) == fresh.since(0, 100) == []


def test_a_gap_begins_a_new_run() -> None:
    """What another process appended in between is not known: only what follows it is at hand."""
    fresh = Fresh()
    fresh.add(0, 0, records(0, 5))
    fresh.add(0, 7, records(7, 2))
    assert fresh.since(0, 3) == []
    assert fresh.since(0, 7) == stored(7, 2)


def test_a_run_is_bounded() -> None:
    """The oldest go when there are too many bytes; an append larger than the bound leaves nothing."""
    fresh, size = Fresh(), BYTES_MAX // 10
    for head in range(25):
        fresh.add(0, head, records(head, 1, size))
    assert fresh.since(0, 14) == []
    assert fresh.since(0, 15) == stored(15, 1, size) + [
        event for head in range(16, 25) for event in stored(head, 1, size)
    ]
    fresh.add(0, 25, records(25, 11, size))
    assert fresh.since(0, 25) == []
    fresh.add(0, 36, records(36, 1))
    assert fresh.since(0, 36) == stored(36, 1)


def test_clear_forgets_all() -> None:
    """After retention nothing is at hand until the next append."""
    fresh = Fresh()
    fresh.add(0, 0, records(0, 5))
    fresh.clear()
    assert fresh.since(0, 0) == []
    fresh.add(0, 5, records(5, 1))
    assert fresh.since(0, 5) == stored(5, 1)
