"""A histogram of durations in buckets that grow by 2 %: small, exact to add and to take away, and never more than 1 %
(of a value under 50 ms: nothing) from what was put in. After DDSketch (Masson, Rim and Lee, 2019, §2). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from adjourn.typed import decoder

ACCURACY = 0.01
_GROWTH = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GROWTH = math.log(_GROWTH)

_encode = msgspec.json.Encoder().encode

Buckets = dict[int, int]
"""How many values are in each: bucket 0 holds zero, bucket i those up to _GROWTH ** (i - 1) ms."""


def bucket_of(ms: int) -> int:
    return 1 + math.ceil(math.log(ms) / _LOG_GROWTH) if ms > 0 else 0


def value_of(bucket: int) -> int:
    """The value that is nearest, relatively, to all that the bucket may hold."""
    return round(2 * _GROWTH ** (bucket - 1) / (1 + _GROWTH)) if bucket else 0


def add(into: Buckets, more: Mapping[int, int]) -> None:
    """What is taken away has negative counts."""
    for bucket, count in more.items():
        left = into.get(bucket, 0) + count
        if left:
            into[bucket] = left
        else:
            into.pop(bucket, None)


def quantiles(buckets: Mapping[int, int], wanted: Sequence[float]) -> list[int] | None:
    """The least value that at least that share of all values does not exceed, for each; in ascending order. None of
    nothing."""
    total = sum(buckets.values())
    if total <= 0:
        return None
    ordered = sorted(buckets)
    found: list[int] = []
    place, passed = 0, buckets[ordered[0]]
    for share in wanted:
        rank = max(1, math.ceil(share * total))
        while passed < rank and place + 1 < len(ordered):
            place += 1
            passed += buckets[ordered[place]]
        found.append(value_of(ordered[place]))
    return found


def pack(buckets: Mapping[int, int]) -> bytes:
    """As bucket, count, bucket, count …, in order; a bucket as its distance from the one before."""
    packed: list[int] = []
    last = 0
    for bucket in sorted(buckets):
        packed += (bucket - last, buckets[bucket])
        last = bucket
    return _encode(packed)


def unpack(packed: bytes) -> Buckets:
    numbers = decoder(list[int]).decode(packed)
    buckets: Buckets = {}
    bucket = 0
    for step, count in zip(numbers[::2], numbers[1::2], strict=True):
        bucket += step
        buckets[bucket] = count
    return buckets
