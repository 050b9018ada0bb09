"""A receiver of webhooks on a loopback port: a real HTTP server that checks signatures with the reference library and
answers as it is told."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from adjourn.testing.exercise_destination import Arrived

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
LOOPBACK = {"allow_http": True, "allow_networks": ("127.0.0.0/8", "::1/128")}


@dataclass
class Request:
    """One that arrived. `body` is unpacked."""

    headers: Mapping[str, str]
    body: bytes
    path: str = "/in"
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        content = self.json
        return content["events"] if content.get("type") == "session.batch" else [content]

    @property
    def sessions(self) -> list[str]:
        return [event["session"]["session_id"] for event in self.events]


Say = int | web.StreamResponse | None
Answering = Callable[[Request], Say | Awaitable[Say]]


@dataclass
class Receiver:
    """`answer` decides by request; what was answered 2xx is in `taken`. None closes the connection without a word."""

    answer: Answering = lambda _: 200
    secret: str = SECRET
    requests: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    most_at_once: int = 0
    connections: set[asyncio.BaseTransport] = field(default_factory=set)
    _now: int = 0
    _runner: web.AppRunner | None = None
    port: int = 0
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Receiver:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, ssl_context=self.tls)
        await site.start()
        self.port = int(site._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]  aiohttp keeps it there
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    async def _take(self, raw: web.Request) -> web.StreamResponse:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        assert raw.transport is not None
        self.connections.add(raw.transport)
        try:
            body = await raw.read()
            if raw.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = Request(dict(raw.headers), body, raw.path)
            if self.secret:
                Webhook(self.secret).verify(body, dict(raw.headers), json_parse=False)
            self.requests.append(request)
            said = self.answer(request)
            if isinstance(said, Awaitable) and not isinstance(said, web.StreamResponse):
                said = await said
            if said is None:
                assert raw.transport is not None
                raw.transport.abort()
                return web.Response()
            response = web.Response(status=said) if isinstance(said, int) else said
            if 200 <= response.status < 300:
                self.taken.append(request)
            return response
        finally:
            self._now -= 1

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those that were taken, probes aside, by arrival."""
        return [event for request in self.taken for event in request.events if event.get("type") != "adjourn.probe"]

    def arrived(self) -> list[Arrived]:
        """By (partition, offset), as the conformance suite wants it."""
        found = sorted(self.events, key=lambda event: (event["adjourn"]["partition"], event["adjourn"]["offset"]))
        return [_arrived(event) for event in found]


def _arrived(event: dict[str, Any]) -> Arrived:
    cost = event["adjourn"]["cost_usd"]
    return Arrived(
        tenant=event["adjourn"]["tenant"],
        session_id=event["session"]["session_id"],
        event_id=event["event_id"],
        event_type=event["event_type"],
        user_id=event.get("user", {}).get("user_id"),
        final_message=event.get("outcome", {}).get("final_message"),
        cost_nanousd=None if cost is None else int(Decimal(cost) * 10**9),
    )


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
