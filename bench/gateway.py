"""What the gateway adds: the same client at the same loopback model server, directly and through it, by turns."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from bench import client
from bench.table import Row, median, quantile

CALLS = 1000
ROUNDS = 5
STREAMS = 5
_SENT = re.compile(rb"<(\d+)>")


def added() -> list[Row]:
    with _model() as model, _gateway(f"http://127.0.0.1:{model}") as through:
        uvloop.run(client.closed_loop(through, _requests(200), 1))  # to warm up
        calls = [[_p50_ms(port) for port in (model, through)] for _ in range(ROUNDS)]
        busy = [[_rate(port) for port in (model, through)] for _ in range(ROUNDS)]
        streams = [[uvloop.run(_chunks_ms(port)) for port in (model, through)] for _ in range(STREAMS)]
    direct, ours = (median(column) for column in zip(*calls, strict=True))
    more = median([b - a for a, b in calls])
    direct_rate, our_rate = (median(column) for column in zip(*busy, strict=True))
    direct_chunk, our_chunk = (median([quantile(run[i], 0.5) for run in streams]) for i in (0, 1))
    direct_p99, our_p99 = (median([quantile(run[i], 0.99) for run in streams]) for i in (0, 1))
    more_chunk = our_chunk - direct_chunk
    return [
        Row(
            "gateway: a non-streaming call, one after another, p50",
            f"{ours:.2f} ms: {more:.2f} ms more",
            f"directly {direct:.2f} ms",
            "adds ≤ 1 ms",
            more <= 1,
        ),
        Row(
            "gateway: a streamed chunk, from the server's write to the client's read, p50",
            f"{our_chunk:.3f} ms: {more_chunk:.3f} ms more; p99 {our_p99:.2f} ms",
            f"directly {direct_chunk:.3f} ms; p99 {direct_p99:.2f} ms",
            "adds ≤ 0.2 ms",
            more_chunk <= 0.2,
        ),
        Row(
            "gateway: non-streaming calls over 16 connections",
            f"{our_rate:,.0f} calls/s",
            f"directly {direct_rate:,.0f}/s",
            "said",
            None,
        ),
    ]


def _requests(count: int) -> list[bytes]:
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello! " * 200}]}).encode()
    return [client.request("/v1/chat/completions", body, key="sk-bench", content_type="application/json")] * count


def _p50_ms(port: int) -> float:
    _, latencies, statuses = uvloop.run(client.closed_loop(port, _requests(CALLS), 1))
    if set(statuses) != {200}:
        raise RuntimeError(f"not every answer was 200: {set(statuses)}")
    return quantile(latencies, 0.5) * 1000


def _rate(port: int) -> float:
    seconds, _, statuses = uvloop.run(client.closed_loop(port, _requests(2 * CALLS), 16))
    return statuses.count(200) / seconds


async def _chunks_ms(port: int) -> list[float]:
    """From each event's write to its read, both on the same clock of this machine."""
    body = json.dumps({"model": "gpt-4o", "messages": [], "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(client.request("/v1/chat/completions", body, key="sk-bench", content_type="application/json"))
    took: list[float] = []
    rest = b""
    while b"[DONE]" not in rest:
        rest = rest[-6:] + (data := await reader.read(65536))
        now = time.perf_counter_ns()
        took.extend((now - int(sent)) / 1e6 for sent in _SENT.findall(data))
        if not data:
            raise RuntimeError("the stream broke off")
    writer.close()
    return took


@contextmanager
def _model() -> Generator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-m", "bench.model", str(port)])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _gateway(upstream: str) -> Generator[int]:
    with tempfile.TemporaryDirectory(prefix="adjourn-bench-", dir=Path.cwd()) as folder:
        command = [sys.executable, "-m", "adjourn", "gateway", "--upstream", upstream, "--port", "0"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            port = urlsplit(process.stdout.readline().split()[-1]).port
            if port is None:
                raise RuntimeError("the gateway did not start")
            yield port
        finally:
            process.terminate()
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()
