"""A real Adjourn that an upstream destination sends to, and what may stand between the two."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from adjourn.delivery.conservation import Balance
from adjourn.events import StoredEvent
from adjourn.http.server import serve
from adjourn.node import Node
from tests.destinations.receiver import LOOPBACK
from tests.faults.rigs import mapping, settings_of

Told = Callable[[int], str]
"""By the number of the request: `pass`, or what is to go wrong."""


@asynccontextmanager
async def centre(directory: Path, url: str = "", **sections: Any) -> AsyncGenerator[tuple[Node, str]]:
    """A server with its address; the node may be looked into."""
    directory.mkdir(exist_ok=True)  # noqa: ASYNC240  nothing else runs yet
    sections.setdefault("server", {"port": 0})
    node = Node(settings_of(mapping(directory, url, routing={"destinations": []}, **sections)))
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ready(url: str) -> None:
        address.set_result(url)

    serving = asyncio.create_task(serve(node, on_ready=ready))
    await asyncio.wait((serving, address), return_when=asyncio.FIRST_COMPLETED)
    try:
        yield node, address.result()
    finally:
        signal.raise_signal(signal.SIGTERM)  # as any server is stopped; it alone listens for it
        await serving


def edge(directory: Path, url: str, database: str = "", **more: Any) -> Node:
    """A node whose one destination is an upstream."""
    directory.mkdir(exist_ok=True)
    networks = list(LOOPBACK["allow_networks"])  # type: ignore[arg-type]  of several types
    upstream = {"type": "upstream", "url": url, "allow_http": True, "allow_networks": networks, **more}
    routing = {"destinations": [upstream], "retry_delay_ms": 5, "retry_delay_ms_max": 50}
    return Node(settings_of(mapping(directory, database, routing=routing)))


@dataclass
class Between:
    """Stands before a centre, and does to each request what `told` says: `pass`; `lose`: it is taken, and the answer is
    lost; `lie`: it is taken, and answered with 500; `fail`: it is not taken, and answered with 500; `refuse`: the same
    with 503; `cut`: the connection ends without a word."""

    target: str
    told: Told
    requests: int = 0
    done: list[str] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Between:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]  kept there
        self._session = aiohttp.ClientSession(auto_decompress=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        what = self.told(self.requests)
        self.requests += 1
        self.done.append(what)
        body = await request.read()
        answer = None
        if what in ("pass", "lose", "lie"):
            names = ("Content-Type", "Content-Encoding", "Adjourn-Producer", "Authorization")
            headers = {name: request.headers[name] for name in names if name in request.headers}
            async with self._session.post(self.target + request.path, data=body, headers=headers) as found:
                answer = web.Response(body=await found.read(), status=found.status, content_type="application/json")
        if what in ("lose", "cut"):
            assert request.transport is not None
            request.transport.abort()
        if what == "pass" and answer is not None:
            return answer
        return web.Response(status=503 if what == "refuse" else 500)


async def events_of(node: Node) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    for partition, head in enumerate(await node.log.heads()):
        offset = 0
        while offset < head:
            part = await node.log.read(partition, offset, count=5_000)
            found += part.events
            offset = part.next_offset
    return found


def in_order(events: list[StoredEvent]) -> bool:
    """Whether the `n` of each session's events rise; each tenant's sessions are its own."""
    last: dict[tuple[str, str], int] = {}
    for event in events:
        content = json.loads(event.body)
        session = event.tenant, content["session"]["session_id"]
        if content["n"] <= last.get(session, -1):
            return False
        last[session] = content["n"]
    return True


def settled(balances: list[Balance]) -> bool:
    return all(balance.difference == 0 and balance.pending == 0 for balance in balances)
