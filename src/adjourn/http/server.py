"""A node behind HTTP: bind, open, serve, drain. SIGTERM and SIGINT drain, within `server.drain_ms_max`."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial

import uvicorn

from adjourn.http.app import Application
from adjourn.http.events import EVENTS_PATH
from adjourn.http.listening import (
    BACKLOG,
    GIVE_BACK_EVERY_S,
    UntilSignal,
    give_memory_back,
    listen,
    settle_memory,
    url_of,
)
from adjourn.http.protocol import Protocol
from adjourn.http.reloading import on_hangup, reload_of
from adjourn.node import Node
from adjourn.settings import Settings

FRAME_BYTES_MAX = 4_000_000
"""Of one message on a WebSocket: as much may wait of each of a thousand."""


class Server(UntilSignal):
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


async def serve(
    node: Node,
    *,
    on_ready: Callable[[str], Awaitable[None]] | None = None,
    load: Callable[[], Settings] | None = None,
) -> None:
    """Serve until told to stop; everything is finished and closed when this returns.

    `on_ready(url)` runs beside the server once it accepts connections. `load` reads the settings again, on SIGHUP and
    `POST /v1/reload`. Raises ConfigInvalid if the port is taken."""
    settings = node.settings.server
    listener = listen(settings.host, settings.port)
    server: Server | None = None
    try:
        await node.open()
    except BaseException:
        listener.close()
        raise
    try:
        application = Application(node, reload := reload_of(node, load))
        settle_memory()
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
            ws="none",  # but see Protocol
            ws_max_size=min(FRAME_BYTES_MAX, settings.body_mb_max * 1_000_000),
            ws_per_message_deflate=False,  # it would hold 40 KB for each socket
        )
        server = Server(config, application)
        beside = asyncio.create_task(_beside(server, node, url_of(listener), on_ready))
        try:
            with on_hangup(reload):
                await server.serve(sockets=[listener])
        finally:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
    finally:
        listener.close()
        since = server.stopping_since if server is not None else None
        spent_s = 0.0 if since is None else time.monotonic() - since
        await node.close(max(1.0, settings.drain_ms_max / 1000 - spent_s))


async def _beside(server: Server, node: Node, url: str, on_ready: Callable[[str], Awaitable[None]] | None) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    # The price table takes a quarter of a second to load: now, in a thread, not while the first request waits.
    loading = asyncio.create_task(asyncio.to_thread(node.prices.load))
    if on_ready is not None:
        await on_ready(url)
    await loading
    while True:
        await asyncio.sleep(GIVE_BACK_EVERY_S)
        await asyncio.to_thread(give_memory_back)
