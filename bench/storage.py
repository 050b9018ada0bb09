"""Sizes and growth: bytes an event on the wire and in the log, and what an append costs when the log is long."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from pathlib import Path

import zstandard

from adjourn.clock import SystemClock
from adjourn.database import Appended, Tx
from adjourn.databases.choose import database_for
from adjourn.events import Record
from adjourn.logs.append import SqlAppender
from adjourn.node import Node
from adjourn.settings import Settings
from bench import sample
from bench.table import Row, median

BATCH = 500
LONG = 10_000_000
SHORT = 10_000
MEASURED = 200


def sizes() -> list[Row]:
    events = sample.events(100_000)
    compressor = zstandard.ZstdCompressor(level=3)
    bodies = [b"\n".join(events[i : i + BATCH]) for i in range(0, len(events), BATCH)]
    wire = sum(len(compressor.compress(body)) for body in bodies) / len(events)
    plain = sum(map(len, bodies)) / len(events)
    stored = asyncio.run(_stored(events))
    return [
        Row(
            "bytes an event on the wire, NDJSON of 500, zstd", f"{wire:.0f}", f"plain {plain:.0f}", "≤ 125", wire <= 125
        ),
        Row(
            "bytes an event in the log, everything counted",
            f"{stored:.0f}",
            f"plain {plain:.0f}",
            "≤ 160",
            stored <= 160,
        ),
    ]


async def _stored(events: list[bytes]) -> float:
    """The whole database file after the log was written, less what an empty one takes."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
        async with Node(Settings(data_dir=folder)) as node:
            path = Path(folder) / "adjourn.db"
            empty = _file_bytes(path)
            for i in range(0, len(events), BATCH):
                await node.ingest.take("default", events[i : i + BATCH], source="bench")
        return (_file_bytes(path) - empty) / len(events)


def _file_bytes(path: Path) -> int:
    return sum(os.path.getsize(p) for p in (path, Path(f"{path}-wal")) if p.exists())


def growth() -> list[Row]:
    """The cost of one append of 500 when 10,000 events are in the log, and when 10,000,000 are."""
    short, long_ = asyncio.run(_growth())
    return [
        Row(
            f"append of 500 with {LONG:,} events in the log",
            f"{long_ * 1e3:.2f} ms = {long_ / short:.2f} ×",
            f"{short * 1e3:.2f} ms with {SHORT:,}",
            "≤ 1.2 ×",
            long_ / short <= 1.2,
        )
    ]


async def _growth() -> tuple[float, float]:
    """Both logs are open at once and take turns, so that the machine's mood hits both alike."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
        short, long_ = [_Log(Path(folder) / f"{name}.db") for name in ("short", "long")]
        for log, size in ((short, SHORT), (long_, LONG)):
            await log.database.open(log.appender)
            await log.fill(size)
        figures: list[tuple[float, float]] = []
        for _ in range(MEASURED):
            figures.append((await log_time(short), await log_time(long_)))
        for log in (short, long_):
            await log.database.close()
    return median([a for a, _ in figures]), median([b for _, b in figures])


async def log_time(log: _Log) -> float:
    records = log.records(BATCH)
    started = time.perf_counter()
    await log.database.write(append, records, weight=BATCH)
    return time.perf_counter() - started


def append(tx: Tx, records: list[Record]) -> Appended:
    return tx.append(records)


class _Log:
    def __init__(self, path: Path) -> None:
        self.database = database_for(f"sqlite:///{path}")
        self.appender = SqlAppender(
            judge=lambda record, holder: "duplicate",
            keep=lambda tx, conflicts: None,
            window_s=300,
            window_memory_bytes=64_000_000,
            clock=SystemClock(),
            on_commit=lambda: None,
        )
        self._body = sample.events(1)[0]
        self._next = 0

    def records(self, count: int) -> list[Record]:
        first, self._next = self._next, self._next + count
        now_ms = time.time_ns() // 1_000_000
        out: list[Record] = []
        for number in range(first, first + count):
            digest = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest()
            out.append(
                Record("default", "s", "e", self._body[:300] + digest.hex().encode(), digest[:8], digest[8:], now_ms)
            )
        return out

    async def fill(self, size: int) -> None:
        for _ in range(0, size, 40_000):
            parts = [self.records(min(4_000, size)) for _ in range(min(10, max(1, size // 4_000)))]
            await asyncio.gather(*(self.database.write(append, part, weight=len(part)) for part in parts))
