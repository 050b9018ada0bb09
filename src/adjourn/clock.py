"""Time as a value that is passed in: wall milliseconds for records, monotonic seconds for judgements."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC. May step backwards: write it down, never wait on it."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards, for timeouts and windows."""
        ...


class SystemClock:
    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to move; for tests."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._wall_ms = wall_ms
        self._monotonic = 1_000.0

    def wall_ms(self) -> int:
        return self._wall_ms

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._wall_ms += round(seconds * 1000)
        self._monotonic += seconds

    def step_wall(self, seconds: float) -> None:
        """Move only the wall clock, as a time server might."""
        self._wall_ms += round(seconds * 1000)


class SteadyClock:
    """Wall time without steps, by the monotonic clock: where the wall jumps, this catches up by a twentieth of the time
    that passes. So what was written down before the jump is not suddenly old, and the hour is right again in a day."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = (float(clock.wall_ms()), clock.monotonic())

    def wall_ms(self) -> int:
        then_ms, then_s = self._last  # one value, since lanes ask too, in their threads
        now_s = self._clock.monotonic()
        passed_ms = (now_s - then_s) * 1000
        behind_ms = self._clock.wall_ms() - then_ms - passed_ms
        most_ms = passed_ms / 20
        now_ms = then_ms + passed_ms + max(-most_ms, min(most_ms, behind_ms))
        self._last = (now_ms, now_s)
        return int(now_ms)

    def monotonic(self) -> float:
        return self._clock.monotonic()


@lru_cache(maxsize=256)  # the same moment is told of several times
def rfc3339(ms: int) -> str:
    """`1700000000123` → `2023-11-14T22:13:20.123Z`."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"
