"""What a benchmark gives back, and how it is printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One figure beside its baseline from the same run. `ok` is None where there is no target."""

    what: str
    ours: str
    baseline: str
    target: str
    ok: bool | None


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


def markdown(rows: Sequence[Row]) -> str:
    lines = ["| what | Adjourn | beside it, same run | target | |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        mark = "" if row.ok is None else "reached" if row.ok else "**missed**"
        lines.append(f"| {row.what} | {row.ours} | {row.baseline} | {row.target} | {mark} |")
    return "\n".join(lines)
