"""A webhook receiver that costs little: it answers 200, and keeps how long each event took from `sent_ns` to here.

`python -m bench.receiver PORT DELAY_MS`; GET returns the latencies so far in ms and forgets them.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import ClassVar, cast

import uvloop

SENT = re.compile(rb'"sent_ns":"(\d+)"')
EVENT_IDS = re.compile(rb'"event_id":"')
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Receiver(asyncio.Protocol):
    latencies_ms: ClassVar[list[float]] = []
    events = 0
    requests = 0
    first_ns = 0
    delay_s = 0.0

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            if head.startswith(b"GET"):
                self._answer(_report())
            else:
                _note(body)
                asyncio.get_running_loop().call_later(Receiver.delay_s, self._answer, b"{}")

    def _answer(self, body: bytes) -> None:
        if self._transport is not None:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


def _note(body: bytes) -> None:
    now_ns = time.monotonic_ns()
    Receiver.first_ns = Receiver.first_ns or now_ns
    Receiver.requests += 1
    Receiver.events += len(EVENT_IDS.findall(body))
    Receiver.latencies_ms += [(now_ns - int(sent)) / 1e6 for sent in SENT.findall(body)]


def _report() -> bytes:
    said = {
        "latencies_ms": Receiver.latencies_ms,
        "events": Receiver.events,
        "requests": Receiver.requests,
        "first_ns": Receiver.first_ns,
    }
    Receiver.latencies_ms, Receiver.events, Receiver.requests, Receiver.first_ns = [], 0, 0, 0
    return json.dumps(said).encode()


async def main() -> None:
    Receiver.delay_s = float(sys.argv[2]) / 1000
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
