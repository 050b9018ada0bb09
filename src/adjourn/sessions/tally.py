"""What sessions add up to, as a whole and by pattern, status, user, model and tag. Pure.

A session is counted again and again while it lives: what it was counted as is kept with it, and the difference is what
changes the totals. So they are exact at any time, whatever may change in a session and in whatever order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from adjourn.sessions import histogram
from adjourn.sessions.histogram import Buckets
from adjourn.sessions.session import Spent

Dimension = Literal["all", "pattern", "status", "user", "model", "tag"]

VALUES_MAX = 1_000
"""Values of one dimension and tenant with totals of their own; all others have theirs together."""
OTHER = "(other)"

MEASURES = ("sessions", "live", *Spent.__struct_fields__)


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """What a session counts as. `duration_ms`: -1 while it lives."""

    pattern: str
    status: str
    user: str
    model: str
    tags: tuple[str, ...]
    duration_ms: int
    spent: tuple[int, ...]

    def keys(self) -> Iterator[tuple[Dimension, str]]:
        yield "all", ""
        yield "pattern", self.pattern
        yield "status", self.status
        yield "user", self.user
        yield "model", self.model
        for tag in self.tags:
            yield "tag", tag


class Total(msgspec.Struct):
    """`numbers`: one for each of `MEASURES`."""

    numbers: list[int] = msgspec.field(default_factory=lambda: [0] * len(MEASURES))
    durations: Buckets = msgspec.field(default_factory=dict[int, int])

    def add(self, numbers: Sequence[int], durations: Mapping[int, int]) -> None:
        self.numbers = [mine + more for mine, more in zip(self.numbers, numbers, strict=True)]
        if durations:
            histogram.add(self.durations, durations)

    def __bool__(self) -> bool:
        return any(self.numbers) or bool(self.durations)


Tally = dict[tuple[Dimension, str], Total]


def add_difference(into: Tally, before: Counted | None, now: Counted) -> None:
    """What a session adds to each total that it is part of, or was."""
    if before is not None:
        _add(into, before, -1)
    _add(into, now, 1)


def merge(into: Tally, more: Tally) -> None:
    for key, total in more.items():
        into.setdefault(key, Total()).add(total.numbers, total.durations)


def _add(into: Tally, counted: Counted, sign: Literal[1, -1]) -> None:
    lives = counted.duration_ms < 0
    numbers = [sign, sign * lives, *(sign * number for number in counted.spent)]
    durations: Buckets = {} if lives else {histogram.bucket_of(counted.duration_ms): sign}
    for key in counted.keys():  # noqa: SIM118  # no mapping: its own method
        total = into.get(key)
        if total is None:
            into[key] = Total(numbers, durations.copy())
        else:
            total.add(numbers, durations)


def placed(tally: Tally, known: Iterable[tuple[Dimension, str]], counts: dict[Dimension, int]) -> Tally:
    """With what has no total of its own, and finds no room for one, together. `known`: of its keys, those that have
    one; `counts`: how many there are by dimension. A value that has one keeps it, and where there is no room none
    comes later: so a session is taken away from where it was added."""
    having, room = set(known), {name: VALUES_MAX - count for name, count in counts.items()}
    found: Tally = {}
    for key in sorted(tally):
        name, value = key
        place = key
        if key not in having and value != OTHER:
            left = room.get(name, VALUES_MAX)
            room[name] = left - 1
            place = key if left > 0 else (name, OTHER)
        merge(found, {place: tally[key]})
    return found
