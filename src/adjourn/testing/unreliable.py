"""An HTTP receiver that does what receivers do: answers late, wrong, never, or with a lie. In a thread of its own.

with UnreliableReceiver(rng, ids_of) as receiver:
    receiver.url("/hook")     # each path has troubles of its own
    receiver.trouble("/hook") # from now on, at random; `calm()` ends all of it
    receiver.acknowledged("/hook")
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

Trouble = Literal["none", "slow", "hang", "reset", "late_reset", "500", "503", "429", "redirect", "garbage", "lie"]

TROUBLES: tuple[Trouble, ...] = (
    "none",
    "none",
    "slow",
    "hang",
    "reset",
    "late_reset",
    "500",
    "503",
    "429",
    "redirect",
    "garbage",
    "lie",
)
CHANGE_EVERY_S = 0.1

Judged = Literal["fine", "bad", "breaks", "cuts"]


class UnreliableReceiver:
    """`ids_of(body)`: the ids of the events in a request. `judged(event_id)`: `bad` is answered 400, `breaks` 500 and
    `cuts` not at all, for the whole request that holds one."""

    def __init__(
        self,
        rng: random.Random,
        ids_of: Callable[[bytes], Sequence[str]],
        judged: Callable[[str], Judged] = lambda event_id: "fine",
    ) -> None:
        self._rng = rng
        self._ids_of = ids_of
        self._judged = judged
        self._troubled: set[str] = set()
        self._now: dict[str, Trouble] = {}
        self._acknowledged: dict[str, list[str]] = {}
        self._lied: dict[str, set[str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unreliable-receiver", daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def trouble(self, path: str) -> None:
        self._troubled.add(path)

    def calm(self) -> None:
        self._troubled.clear()

    def acknowledged(self, path: str) -> list[str]:
        """In the order of the answers, repeats included; those of lies too."""
        return list(self._acknowledged.get(path, []))

    def lied(self, path: str) -> set[str]:
        """What was acknowledged and thrown away."""
        return set(self._lied.get(path, ()))

    async def _start(self) -> None:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        ids = self._ids_of(await request.read())
        trouble = self._trouble_of(path)
        if trouble == "hang":
            await asyncio.sleep(30)
        if trouble == "slow":
            await asyncio.sleep(self._rng.uniform(0.005, 0.05))
        if trouble in ("hang", "reset"):
            return self._cut(request)
        if trouble in ("500", "503"):
            return web.Response(status=int(trouble))
        if trouble == "429":
            return web.Response(status=429, headers={"Retry-After": "0"})
        if trouble == "redirect":
            return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})
        verdicts = {self._judged(one) for one in ids}
        if "cuts" in verdicts:
            return self._cut(request)
        if "breaks" in verdicts:
            return web.Response(status=500)
        if "bad" in verdicts:
            return web.Response(status=400, text="\0not this\n" * 10_000)
        self._acknowledged.setdefault(path, []).extend(ids)
        if trouble == "lie":
            self._lied.setdefault(path, set()).update(ids)
        if trouble == "late_reset":
            return self._cut(request)
        return web.Response(status=200, body=self._rng.randbytes(5_000) if trouble == "garbage" else b"ok")

    def _trouble_of(self, path: str) -> Trouble:
        """It stays the same for a while, as real trouble does."""
        if path not in self._troubled:
            return "none"
        if path not in self._now:
            self._now[path] = self._rng.choice(TROUBLES)
            self._loop.call_later(self._rng.uniform(0, 2 * CHANGE_EVERY_S), self._now.pop, path, None)
        return self._now[path]

    def _cut(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def stop() -> None:
            if self._runner is not None:
                await self._runner.cleanup()
            hanging = asyncio.all_tasks() - {asyncio.current_task()}
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

        stopping: Any = asyncio.run_coroutine_threadsafe(stop(), self._loop)
        stopping.result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()
