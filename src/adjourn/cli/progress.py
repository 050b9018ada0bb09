"""Several counts towards one total: bars on a terminal, a plain line every second elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

PLAIN_EVERY_S = 1.0

Show = Callable[[Sequence[int]], None]
"""Takes the counts of now, in the order of the names."""


@contextmanager
def progress(total: int, names: Sequence[str]) -> Generator[Show]:
    if not sys.stdout.isatty():
        yield _plain(total, names)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bars:
        tasks = [bars.add_task(name, total=total) for name in names]

        def show(counts: Sequence[int]) -> None:
            for task, count in zip(tasks, counts, strict=True):
                bars.update(task, completed=count)

        yield show


def _plain(total: int, names: Sequence[str]) -> Show:
    """At once, then every second while something changes, and whenever all have arrived."""
    last: list[int] = []
    next_s = 0.0

    def show(counts: Sequence[int]) -> None:
        nonlocal last, next_s
        done = all(count >= total for count in counts)
        if list(counts) == last or (time.monotonic() < next_s and not done):
            return
        last, next_s = list(counts), time.monotonic() + PLAIN_EVERY_S
        print(
            " · ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True)),
            f"of {total:,}",
            flush=True,
        )

    return show
