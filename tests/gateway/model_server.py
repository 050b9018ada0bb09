"""A model server on loopback that answers as the public APIs do, and remembers what it was asked byte for byte."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import brotli
import uvicorn
import zstandard
from tests.gateway import answers

COMPRESS = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.ZstdCompressor().compress}


class Asked(NamedTuple):
    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class ModelServer:
    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.gone = threading.Event()
        """A client closed its connection before it had the whole answer."""
        self.go_on = threading.Event()
        """Streams of `stall` models stop after a few events until then."""
        self.stalled = threading.Event()
        self.body_bytes = 0
        self.sent_bytes = 0
        self.url = ""
        self._numbers = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        parts: list[bytes] = []
        more = True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            self.body_bytes += len(parts[-1])
            more = message.get("more_body", False)
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        asked = Asked(scope["method"], target, list(scope["headers"]), b"".join(parts))
        self.asked.append(asked)
        try:
            body = json.loads(asked.body)
        except ValueError:
            body = {}
        watch = asyncio.create_task(self._watch(receive))
        try:
            await self._answer(scope["path"], dict(asked.headers), body if isinstance(body, dict) else {}, send)
        finally:
            watch.cancel()

    async def _watch(self, receive: Any) -> None:
        await receive()
        self.gone.set()

    async def _answer(self, path: str, headers: dict[bytes, bytes], body: dict[str, Any], send: Any) -> None:
        model = str(body.get("model", ""))
        if model.startswith("status-"):
            status = int(model.removeprefix("status-"))
            error = answers.ANTHROPIC_ERROR if path.endswith("/messages") else answers.OPENAI_ERROR
            await self._json(send, error, status=status, more=[(b"retry-after", b"7"), (b"x-request-id", b"req_1")])
        elif path.endswith("/flood"):
            await self._flood(send)
        elif body.get("stream"):
            await self._stream(send, model, self._events(path, model, body))
        elif path.endswith("/chat/completions"):
            await self._json(send, answers.chat(model), encoding=headers.get(b"x-want-encoding", b"").decode())
        elif path.endswith("/responses"):
            await self._json(send, answers.response(model, self._response_id()))
        elif path.endswith("/messages"):
            await self._json(send, answers.message(model))
        elif path.endswith("/embeddings"):
            await self._json(send, answers.embeddings(model, int(body.get("vectors", 1))))
        else:
            await self._json(send, {"path": path}, status=418, more=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])

    def _events(self, path: str, model: str, body: dict[str, Any]) -> list[bytes]:
        if path.endswith("/responses"):
            return answers.response_stream(model, self._response_id())
        if path.endswith("/messages"):
            return answers.message_stream(model)
        wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        return answers.chat_stream(model, include_usage=wanted)

    def _response_id(self) -> str:
        self._numbers += 1
        return f"resp_{self._numbers:04d}"

    async def _json(
        self, send: Any, value: Any, *, status: int = 200, encoding: str = "", more: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        body = json.dumps(value).encode()
        headers = [(b"content-type", b"application/json"), *more]
        if encoding:
            body = COMPRESS[encoding](body)
            headers.append((b"content-encoding", encoding.encode()))
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send: Any, model: str, events: list[bytes]) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, event in enumerate(events):
            if number == 4 and model.endswith("stall"):
                self.stalled.set()
                while not self.go_on.is_set():
                    await asyncio.sleep(0.01)
            if number == 4 and model.endswith("break"):
                return  # the server closes the connection in the middle
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _flood(self, send: Any) -> None:
        """Megabytes as fast as they are taken."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for _ in range(2000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            self.sent_bytes += 100_000
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def model_server() -> Generator[ModelServer]:
    app = ModelServer()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, log_level="critical", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        app.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        while not server.started:
            time.sleep(0.01)
        try:
            yield app
        finally:
            app.go_on.set()
            server.should_exit = True
            server.force_exit = True
            thread.join(30)
