"""A node behind HTTP: bind, open, serve, drain. SIGTERM and SIGINT drain, within `server.drain_ms_max`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from functools import partial

import uvicorn

from adjourn.errors import ConfigInvalid
from adjourn.http.app import Application
from adjourn.http.events import EVENTS_PATH
from adjourn.http.protocol import Protocol
from adjourn.node import Node

BACKLOG = 1024
COLLECT_AFTER = (20_000, 20, 50)


class Server(uvicorn.Server):
    """uvicorn's, told to take nothing new as soon as it is told to stop."""

    stopping_since: float | None = None
    """On the monotonic clock; None while it serves."""

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stopping_since = time.monotonic()
        self._application.drain()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """A signal means: stop. uvicorn would raise it again after that, which kills before the node is closed."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


async def serve(node: Node, *, on_ready: Callable[[str], Awaitable[None]] | None = None) -> None:
    """Serve until told to stop; everything is finished and closed when this returns.

    `on_ready(url)` runs beside the server once it accepts connections. Raises ConfigInvalid if the port is taken."""
    settings = node.settings.server
    listener = _listen(settings.host, settings.port)
    server: Server | None = None
    try:
        await node.open()
    except BaseException:
        listener.close()
        raise
    try:
        application = Application(node)
        _settle_memory()
        protocol = partial(Protocol, application.events.take_single, EVENTS_PATH.encode())
        config = uvicorn.Config(
            application,  # type: ignore[arg-type]  # uvicorn's own ASGI types are narrower than the specification
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=settings.drain_ms_max / 1000,  # type: ignore[arg-type]  # fractions work
            backlog=BACKLOG,
            http=protocol,  # type: ignore[arg-type]  # called as the class would be
            ws="none",
        )
        server = Server(config, application)
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        beside = asyncio.create_task(_when_started(server, node, url, on_ready))
        try:
            await server.serve(sockets=[listener])
        finally:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
    finally:
        listener.close()
        since = server.stopping_since if server is not None else None
        spent_s = 0.0 if since is None else time.monotonic() - since
        await node.close(max(1.0, settings.drain_ms_max / 1000 - spent_s))


async def _when_started(
    server: Server, node: Node, url: str, on_ready: Callable[[str], Awaitable[None]] | None
) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    # The price table takes a quarter of a second to load: now, in a thread, not while the first request waits.
    loading = asyncio.create_task(asyncio.to_thread(node.prices.load))
    if on_ready is not None:
        await on_ready(url)
    await loading


def _settle_memory() -> None:
    """What is loaded by now stays: the collector need not walk it again and again while requests come and go."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Head and body of an answer are two writes: with Nagle, the second would wait 40 ms. Connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        said = f"cannot listen on {host}:{port} ({error.strerror or error})"
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigInvalid(f"{said}; name an address of this machine, or 0.0.0.0", path="server.host") from error
        raise ConfigInvalid(f"{said}; stop what uses the port, or set server.port", path="server.port") from error
    listener.listen(BACKLOG)
    return listener
