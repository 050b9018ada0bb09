"""What the machine itself costs: one fdatasync, and a bare loop of the work that an ingest cannot avoid."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import zstandard

from adjourn.completion.validate import Context, prepare
from adjourn.events import decode_completion
from adjourn.prices import PriceTable


def fdatasync_ms(count: int = 400) -> list[float]:
    """Latencies of writing 8 KB and syncing it, in the folder that the benchmarks use."""
    path = Path("bench-sync.tmp")
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    latencies: list[float] = []
    try:
        for _ in range(count):
            os.write(descriptor, b"x" * 8192)
            started = time.perf_counter()
            os.fdatasync(descriptor)
            latencies.append((time.perf_counter() - started) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    return latencies


def typed(batch: Sequence[bytes]) -> None:
    """Decoding into the event's types and bounds."""
    for body in batch:
        decode_completion(body)


def judged(prices: PriceTable) -> Callable[[Sequence[bytes]], object]:
    """All that docs/reference/events.md asks of an event: its rules, its price, its hashes."""
    prices.load()
    secret = os.urandom(32)

    def judge(batch: Sequence[bytes]) -> object:
        now_ms = time.time_ns() // 1_000_000
        return prepare(batch, Context(tenant="default", now_ms=now_ms, secret=secret, prices=prices))

    return judge


def bare_ingest(batches: Sequence[Sequence[bytes]], validate: Callable[[Sequence[bytes]], object]) -> float:
    """Events per second of: validation, zstd, append, fdatasync, batch by batch; one thread, nothing else."""
    compressor = zstandard.ZstdCompressor(level=1)
    path = Path("bench-floor.tmp")
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    started = time.perf_counter()
    try:
        for batch in batches:
            validate(batch)
            os.write(descriptor, compressor.compress(b"\n".join(batch)))
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink()
    return sum(len(batch) for batch in batches) / (time.perf_counter() - started)
