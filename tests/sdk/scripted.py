"""A real HTTP server on a loopback port that gives the answers of a script, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import zstandard

DROP = b"drop"
"""Read the request, then cut the connection without a word."""
HANG = b"hang"
"""Read the request, then say nothing."""


def answer(status: int, body: bytes | object, *headers: str, kind: str = "application/json") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(content)}", f"content-type: {kind}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def problem(status: int, code: str, detail: str, *headers: str, **more: object) -> bytes:
    body = {"type": f"https://adjourn.dev/errors/{code}", "title": code, "status": status, "detail": detail}
    return answer(status, {**body, "code": code, **more}, *headers, kind="application/problem+json")


def html(status: int, title: str, *headers: str) -> bytes:
    page = f"<html><head><title>{title}</title></head><body>{title}</body></html>"
    return answer(status, page.encode(), *headers, kind="text/html; charset=utf-8")


def sent(*statuses: str) -> bytes:
    counts = {name: statuses.count(name) for name in ("accepted", "duplicate", "conflict", "invalid")}
    results = [{"status": status, "event_id": f"evt_{n}"} for n, status in enumerate(statuses)]
    return answer(202, {**counts, "results": results})


@dataclass
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def text(self) -> bytes:
        """The body, decompressed."""
        zstd = self.headers.get("content-encoding") == "zstd"
        return zstandard.ZstdDecompressor().decompress(self.body) if zstd else self.body


@dataclass
class Scripted:
    """The last answer is given again and again."""

    script: list[bytes]
    url: str = ""
    asked: list[Asked] = field(default_factory=list[Asked])
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while asked := await self._read(reader):
                self.asked.append(asked)
                reply = self.script[min(len(self.asked), len(self.script)) - 1]
                if reply == HANG:
                    await reader.read()  # until the client gives up
                if reply in (DROP, HANG):
                    return
                writer.write(reply)
                await writer.drain()
                if b"\r\ncut-off:" in reply:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Asked | None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, target, _ = first.split(" ")
        return Asked(method, target, headers, body, asyncio.get_running_loop().time())


@contextmanager
def scripted(*script: bytes) -> Iterator[Scripted]:
    server = Scripted(list(script))
    loop = asyncio.new_event_loop()
    started = threading.Event()
    stop = asyncio.Event()

    async def main() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        listening.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
