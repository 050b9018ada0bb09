"""Web servers that really run, in a thread of this process, and what tests ask of the log."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, ClassVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import uvicorn

from adjourn import Runtime
from adjourn.events import Completion, decode_completion
from adjourn.testing.account import bodies

WAIT_S = 60.0


@contextmanager
def asgi_server(app: Any, lifespan: str = "auto") -> Generator[str]:
    """uvicorn. Yields its URL; it was shut down in order when the block is left."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan=lifespan, log_config=None, timeout_graceful_shutdown=10)  # type: ignore[arg-type]  # text is one of its words
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        if not server.started:
            raise RuntimeError("the server did not start")
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        listener.close()


class _Threads(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.0"
    lines: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:
        self.lines.append(format % args)

    def get_stderr(self) -> Any:
        import io

        return io.StringIO()


@contextmanager
def wsgi_server(app: Any) -> Generator[str]:
    """The one of the standard library, with a thread for each connection."""
    server = make_server("127.0.0.1", 0, app, server_class=_Threads, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(WAIT_S)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.01)


def captured(runtime: Runtime, count: int) -> list[Completion]:
    """The completions of the log, of which there are `count`. Its servers have been shut down."""
    runtime.drain(WAIT_S)
    found = [decode_completion(body) for body in runtime.call(bodies, WAIT_S)]
    assert len(found) == count, found
    return found


def outcome(event: Completion) -> tuple[str | None, str | None]:
    assert event.outcome is not None
    return event.outcome.status, event.outcome.error_code


def leave_in_the_middle(address: str, path: str, session_id: str) -> None:
    """Ask, read the beginning of the answer, and hang up."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-session-id: {session_id}\r\n\r\n".encode())
        assert client.recv(1)
