"""A load generator that costs little: raw sockets, requests made beforehand, one process, beside the server."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import cast


def request(path: str, body: bytes, *, key: str, content_type: str = "application/x-ndjson") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time; `answered(status)` when a whole answer is there."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        mark = head.find(b"content-length: ")
        length = int(head[mark + 16 : (head + b"\r").find(b"\r", mark)])
        if len(self._buffer) >= end + 4 + length and self._waiting is not None and not self._waiting.done():
            status = int(head[9:12])
            self._buffer = b""
            self._waiting.set_result(status)

    async def ask(self, data: bytes) -> int:
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@contextmanager
def _undisturbed() -> Generator[None]:
    """A collection here would pause the clock's side of the measurement, tens of milliseconds at a time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def connect(port: int) -> Connection:
    _, protocol = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return protocol


async def closed_loop(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[float], list[int]]:
    """Every connection sends its next request when the last was answered. (seconds, latencies in s, statuses)."""
    queue = iter(requests)
    latencies: list[float] = []
    statuses: list[int] = []

    async def work() -> None:
        connection = await connect(port)
        for data in queue:
            started = time.perf_counter()
            statuses.append(await connection.ask(data))
            latencies.append(time.perf_counter() - started)
        connection.close()

    with _undisturbed():
        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(connections)))
        return time.perf_counter() - started, latencies, statuses


async def open_loop(port: int, requests: Sequence[bytes], rate: float, connections: int) -> list[float]:
    """Requests at their own times, whatever the server does; latencies count from when each was due."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(await connect(port))
    latencies: list[float] = []
    clock: Callable[[], float] = time.perf_counter
    started = 0.0

    async def one(index: int, data: bytes) -> None:
        connection = await free.get()
        await connection.ask(data)
        latencies.append(clock() - (started + index / rate))
        free.put_nowait(connection)

    tasks: list[asyncio.Task[None]] = []
    with _undisturbed():
        started = clock()
        for index, data in enumerate(requests):
            delay = started + index / rate - clock()
            if delay > 0:
                await asyncio.sleep(delay)
            tasks.append(asyncio.create_task(one(index, data)))
        await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait().close()
    return latencies
