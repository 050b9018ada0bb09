"""What all hosted sessions of a tenant add up to: those that live, that have ended, and that were deleted."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from adjourn.database import Reader
from adjourn.sessions import histogram
from adjourn.sessions.session import Spent
from adjourn.sessions.tally import OTHER, Dimension, Tally, Total, add_difference, merge, placed
from adjourn.sessions.totals import leftovers, totals, uncounted

SHOWN = 100
"""Values of one dimension that are told apart in an answer, unless it is asked for more."""


class Durations(msgspec.Struct, frozen=True):
    """Of ended sessions, within 1 %; None where none has ended."""

    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None


class Figures(msgspec.Struct, frozen=True):
    """`sessions`: all that there ever were; `live` of them have not ended."""

    sessions: int
    live: int
    spent: Spent
    durations: Durations


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Each mapping by pattern, status, user and model adds up to `total`; that by tag does not, since a session has
    any number of tags. A session without a user or a model is under "", and what has no place of its own under
    `OTHER`: the largest by number of sessions have one."""

    total: Figures
    by_pattern: Mapping[str, Figures]
    by_status: Mapping[str, Figures]
    by_user: Mapping[str, Figures]
    by_model: Mapping[str, Figures]
    by_tag: Mapping[str, Figures]


def stats(reader: Reader, tenant: str, *, shown: int = SHOWN) -> Stats:
    """Exact as of now. It reads the totals, and the sessions that have changed since they were counted."""
    found = totals(reader, tenant)
    counts: dict[Dimension, int] = {}
    for name, value in found:
        counts[name] = counts.get(name, 0) + (value != OTHER)
    changes: Tally = {}
    for one in uncounted(reader, tenant):
        add_difference(changes, one.before, one.now)
    for _, before, now in leftovers(reader, tenant):
        add_difference(changes, before, now)
    merge(found, placed(changes, found, counts))
    return Stats(
        total=_figures(found.get(("all", ""), Total())),
        by_pattern=_by(found, "pattern", shown),
        by_status=_by(found, "status", shown),
        by_user=_by(found, "user", shown),
        by_model=_by(found, "model", shown),
        by_tag=_by(found, "tag", shown),
    )


def _by(found: Tally, dimension: Dimension, shown: int) -> dict[str, Figures]:
    """The largest first; all others together, last."""
    mine = [(value, total) for (name, value), total in found.items() if name == dimension and total]
    mine.sort(key=lambda one: (one[0] == OTHER, -one[1].numbers[0], one[0]))
    kept, others = mine[:shown], Total()
    for _, total in mine[shown:]:
        others.add(total.numbers, total.durations)
    if others:
        if kept and kept[-1][0] == OTHER:
            own = kept.pop()[1]
            others.add(own.numbers, own.durations)
        kept.append((OTHER, others))
    return {value: _figures(total) for value, total in kept}


def _figures(total: Total) -> Figures:
    sessions, live, *spent = total.numbers
    found = histogram.quantiles(total.durations, (0.5, 0.95, 0.99))
    durations = Durations(*found) if found else Durations(None, None, None)
    return Figures(sessions, live, Spent(**dict(zip(Spent.__struct_fields__, spent, strict=True))), durations)
