"""A server that does nothing: how much memory it holds, and how soon it is ready."""

from __future__ import annotations

import time

from bench.serving import serving
from bench.table import Row, median

RUNS = 5


def idle() -> list[Row]:
    memory: list[float] = []
    ready: list[float] = []
    for _ in range(RUNS):
        with serving() as server:
            ready.append(server.ready_s)
            time.sleep(1.0)
            memory.append(server.rss_mb())
    return [
        Row("idle server, RSS", f"{median(memory):.0f} MB", "", "≤ 120 MB", median(memory) <= 120),
        Row("start to ready, new database", f"{median(ready):.2f} s", "", "≤ 1.5 s", median(ready) <= 1.5),
    ]
