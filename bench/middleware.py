"""What the middlewares add to a request, in process: the server's own work is not in it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from typing import Any

import adjourn
from adjourn.integrations import asgi, wsgi
from bench.table import Row, median

REQUESTS = 5_000
RUNS = 5
ID = "sess_bench"


def per_request() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="adjourn-bench-") as folder:
        # To a server that is away: what moves the spool works in a thread of its own, and would be measured with it.
        runtime = adjourn.Runtime(adjourn.Settings(data_dir=folder), url="http://127.0.0.1:1", key="adj_bench")
        try:
            bare = _us(lambda: _sessions(runtime))
            rows = [_row("ASGI", _asgi, asgi.AdjournMiddleware(_asgi_app, runtime=runtime), _asgi_app, bare)]
            rows.append(_row("WSGI", _wsgi, wsgi.AdjournMiddleware(_wsgi_app, runtime=runtime), _wsgi_app, bare))
        finally:
            runtime.stop(0.1)
    return rows


def _row(name: str, ask: Callable[[Any, bool], None], wrapped: Any, plain: Any, bare_us: float) -> Row:
    base = _us(lambda: ask(plain, True))
    captured = _us(lambda: ask(wrapped, True)) - base
    passed = _us(lambda: ask(wrapped, False)) - base
    return Row(
        f"{name} middleware, added to a captured request",
        f"{captured:.0f} µs",
        f"to one without a session id {passed:.1f} µs; `with session()` alone {bare_us:.0f} µs",
        "",
        None,
    )


def _us(run: Callable[[], None]) -> float:
    """Of one request, the median of the runs."""
    found: list[float] = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        found.append((time.perf_counter() - started) / REQUESTS * 1e6)
    return median(found)


def _sessions(runtime: adjourn.Runtime) -> None:
    for _ in range(REQUESTS):
        with adjourn.session(session_id=ID, runtime=runtime):
            pass


def _asgi(app: Any, with_id: bool) -> None:
    headers = [(b"host", b"x"), (b"accept", b"*/*"), (b"user-agent", b"bench")]
    if with_id:
        headers.append((b"x-session-id", ID.encode()))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    async def main() -> None:
        for _ in range(REQUESTS):
            await app({"type": "http", "method": "GET", "path": "/", "headers": headers}, receive, send)

    asyncio.run(main())


async def _asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


def _wsgi(app: Any, with_id: bool) -> None:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"} | ({"HTTP_X_SESSION_ID": ID} if with_id else {})
    for _ in range(REQUESTS):
        body = app(dict(environ), lambda *_: None)
        for _part in body:
            pass
        if hasattr(body, "close"):
            body.close()


def _wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"ok"]
