"""The dedupe window against a plain dict: never blind inside the window, never long-sighted much beyond it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjourn.clock import ManualClock
from adjourn.logs import window as windows
from adjourn.logs.window import Window

WINDOW_S = 300.0
AT_MOST_S = WINDOW_S * (1 + 3 / 8)


def name(number: int) -> bytes:
    return random.Random(number).randbytes(8)


steps = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "abort", "look", "lag"]),
        st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True),
        st.sampled_from([0.0, 0.1, 5.0, 37.4, 37.6, 80.0, 200.0, 299.0, 301.0, 5000.0]),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(steps=steps, recent_max=st.sampled_from([1, 3, 7, 65_536]), memory=st.sampled_from([0, 10**9]))
def test_it_agrees_with_a_dict(steps: list[tuple[str, list[int], float]], recent_max: int, memory: int) -> None:
    """Whatever is committed is found with its offset for the whole window and gone after 11/8 of it; what was given up
    is never found; whether it lies in memory or in files makes no difference."""
    clock = ManualClock()
    window = Window(WINDOW_S, memory, clock)
    model: dict[int, tuple[int, float]] = {}
    head = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "RECENT_MAX", recent_max)
        patch.setattr(windows, "RECENT_ENTRY_BYTES", 0)
        for kind, numbers, pause_s in steps:
            now = clock.monotonic()
            found = {numbers[i]: offset for i, offset in window.find([name(n) for n in numbers])}
            for number in numbers:
                offset, at = model.get(number, (-1, -1e9))
                if now - at <= WINDOW_S:
                    assert found.get(number) == offset, f"{number} is {now - at} s old"
                elif now - at > AT_MOST_S:
                    assert number not in found, f"{number} is {now - at} s old"
            new = [n for n in numbers if n not in found]
            if kind in ("append", "abort") and new:
                window.stage([name(n) for n in new], head)
                if kind == "append":
                    window.commit()
                    model.update({n: (head + i, now) for i, n in enumerate(new)})
                    head += len(new)
                    assert window.synced == head
                else:
                    window.discard()
                    window.commit()
            elif kind == "lag" and new:
                window.extend([name(n) for n in new], head)
                model.update({n: (head + i, now) for i, n in enumerate(new)})
                head += len(new)
            clock.advance(pause_s)


@pytest.mark.parametrize("memory_bytes", [12_000_000, 10**9])
def test_a_million_entries_stay_within_memory(memory_bytes: int) -> None:
    """A million entries are all found; beyond the limit they lie in files, and what is in memory stays bounded by the
    limit and the recent part; the figures say so."""
    clock = ManualClock()
    window = Window(WINDOW_S, memory_bytes, clock)
    data = random.Random(5).randbytes(8 * 1_000_000)
    names = [data[i : i + 8] for i in range(0, len(data), 8)]
    bound = memory_bytes + windows.RECENT_MAX * windows.RECENT_ENTRY_BYTES
    for start in range(0, 1_000_000, 20_000):
        window.extend(names[start : start + 20_000], start)
        clock.advance(1.0)
        assert window.stats().memory_bytes <= bound
    rng = random.Random(6)
    places = rng.sample(range(1_000_000), 3_000)
    assert sorted(window.find([names[p] for p in places])) == list(enumerate(places))
    assert window.find([rng.randbytes(8) for _ in range(3_000)]) == []
    stats = window.stats()
    assert stats.entries == 1_000_000
    assert (stats.spilled_bytes > 0) == (memory_bytes < 10**8)
    assert stats.effective_s == 50.0
    clock.advance(AT_MOST_S + 1)
    assert window.find([names[p] for p in places]) == []
    stats = window.stats()
    assert (stats.entries, stats.memory_bytes, stats.spilled_bytes) == (0, 0, 0)
    assert stats.effective_s == WINDOW_S, "a window that was quiet has not become shorter"


def test_few_arrays_are_searched() -> None:
    """Arrays of like size are merged, so that a million entries lie in a handful."""
    window = Window(WINDOW_S, 10**9, ManualClock())
    data = random.Random(8).randbytes(8 * 1_000_000)
    for start in range(0, 1_000_000, 10_000):
        window.extend([data[i * 8 : i * 8 + 8] for i in range(start, start + 10_000)], start)
    assert len(window._runs) <= 6
