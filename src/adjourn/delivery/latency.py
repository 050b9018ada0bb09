"""A histogram of milliseconds in buckets 5 % apart: small, mergeable, and honest to within one bucket."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Self

_GROWTH = math.log(1.05)


class Latency:
    def __init__(self) -> None:
        self.count = 0
        self.total_ms = 0.0
        self._buckets: dict[int, int] = {}

    @classmethod
    def merged(cls, parts: Iterable[Latency]) -> Self:
        whole = cls()
        for part in parts:
            whole.count += part.count
            whole.total_ms += part.total_ms
            for bucket, count in part._buckets.items():
                whole._buckets[bucket] = whole._buckets.get(bucket, 0) + count
        return whole

    def add(self, ms: float, count: int = 1) -> None:
        ms = max(ms, 0.001)
        bucket = math.ceil(math.log(ms) / _GROWTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += count
        self.total_ms += ms * count

    def mean_ms(self) -> float:
        return self.total_ms / self.count if self.count else 0.0

    def quantile_ms(self, q: float) -> float:
        """The upper edge of the bucket in which the q-th value lies; 0 while there is none."""
        left = q * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return math.exp(bucket * _GROWTH)
        return 0.0

    def at_most(self, bounds_ms: Sequence[float]) -> list[int]:
        """How many values are surely no more than each bound: those whose whole bucket is below it."""
        return [
            sum([count for bucket, count in self._buckets.items() if math.exp(bucket * _GROWTH) <= bound_ms])
            for bound_ms in bounds_ms
        ]
