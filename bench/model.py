"""A loopback model server that costs as little as one can: a raw protocol with answers made beforehand.

`POST /v1/chat/completions` is answered at once; with `"stream": true` in its body by 400 events, 2.5 ms apart, each of
which carries the time at which it was sent."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

EVENTS = 400
EVERY_S = 0.0025
USAGE = {"prompt_tokens": 19, "completion_tokens": 400, "total_tokens": 419}


def _answer() -> bytes:
    message = {"role": "assistant", "content": "word " * 400}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    value = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": choices}
    body = json.dumps({**value, "usage": USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


WHOLE = _answer()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: str, usage: object) -> bytes:
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o",
        "choices": [{"index": 0, "delta": {"content": delta}, "logprobs": None, "finish_reason": None}],
        "usage": usage,
    }
    return _chunk(b"data: " + json.dumps(value).encode() + b"\n\n")


class Model(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._buffer = b""
        self._streams = set[asyncio.Task[None]]()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        mark = head.find(b"content-length: ")
        length = int(head[mark + 16 : (head + b"\r").find(b"\r", mark)])
        if len(self._buffer) < end + 4 + length:
            return
        streamed = b'"stream": true' in self._buffer[end:]
        self._buffer = b""
        if streamed:
            self._streams.add(asyncio.create_task(self._stream()))
        else:
            self._transport.write(WHOLE)

    async def _stream(self) -> None:
        self._transport.write(HEAD)
        for _ in range(EVENTS):
            await asyncio.sleep(EVERY_S)
            self._transport.write(_event(f"<{time.perf_counter_ns()}>", None))
        self._transport.write(_event("", USAGE) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Model, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
