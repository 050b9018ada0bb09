"""An HTTP receiver that does what receivers do: answers late, wrong, never, in part, or with a lie. In a thread of its
own.

with UnreliableReceiver(rng, ids_of) as receiver:
    receiver.url("/hook")     # each path has troubles of its own
    receiver.trouble("/hook") # from now on, at random; `calm()` ends all of it
    receiver.acknowledged("/hook")

`UnreliableWay` is the same before another server, `UnreliableNames` are names that change their addresses, and a `Trap`
is where nothing may ever be sent.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
from aiohttp import web

Trouble = Literal[
    "none",
    "slow",
    "hang",
    "reset",
    "late_reset",
    "close",
    "half",
    "500",
    "503",
    "429",
    "redirect",
    "garbage",
    "lie",
    "error_body",
]
"""`close`: ends the connection after its answer, so that the next one is made anew. `half`: takes a part of what it is
sent and answers that it failed. `lie` and `error_body`: answers 200 and keeps nothing; the second says so, in its own
words."""

TROUBLES: tuple[Trouble, ...] = (
    "none",
    "none",
    "slow",
    "hang",
    "reset",
    "late_reset",
    "close",
    "half",
    "500",
    "503",
    "429",
    "redirect",
    "garbage",
    "lie",
    "error_body",
)
CHANGE_EVERY_S = 0.1
HAND_ON_S = 2.0
METADATA_URL = "http://169.254.169.254/latest/meta-data/"
ERROR_BODY = b'{"error": {"code": 50013, "message": "the event store is read-only"}}'

Judged = Literal["fine", "bad", "breaks", "cuts"]


class UnreliableReceiver:
    """`ids_of(body)`: the ids of the events in a request. `judged(event_id)`: `bad` is answered 400, `breaks` 500 and
    `cuts` not at all, for the whole request that holds one."""

    def __init__(
        self,
        rng: random.Random,
        ids_of: Callable[[bytes], Sequence[str]],
        judged: Callable[[str], Judged] = lambda event_id: "fine",
        *,
        host: str = "127.0.0.1",
        redirect_to: str = METADATA_URL,
    ) -> None:
        self.host = host
        self._redirect_to = redirect_to
        self._rng = rng
        self._ids_of = ids_of
        self._judged = judged
        self._troubled: dict[str, Sequence[Trouble]] = {}
        self._now: dict[str, Trouble] = {}
        self._acknowledged: dict[str, list[str]] = {}
        self._lied: dict[str, set[str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unreliable-receiver", daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"

    def trouble(self, path: str, troubles: Sequence[Trouble] = TROUBLES) -> None:
        self._troubled[path] = troubles

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
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        trouble = self._trouble_of(request.path)
        body = await request.read()
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
            return web.Response(status=302, headers={"Location": self._redirect_to})
        return await self._answer(request, body, trouble)

    async def _answer(self, request: web.Request, body: bytes, trouble: Trouble) -> web.StreamResponse:
        """Of what has come through."""
        path, ids = request.path, self._ids_of(body)
        verdicts = {self._judged(one) for one in ids}
        if trouble == "half":
            self._acknowledged.setdefault(path, []).extend(self._taken_of(ids))
        if "cuts" in verdicts:
            return self._cut(request)
        if "breaks" in verdicts:
            return web.Response(status=500)
        if "bad" in verdicts:
            return web.Response(status=400, text="\0not this\n" * 10_000)
        if trouble == "half":
            return web.Response(status=503)
        self._acknowledged.setdefault(path, []).extend(ids)
        if trouble in ("lie", "error_body"):
            self._lied.setdefault(path, set()).update(ids)
        if trouble == "late_reset":
            return self._cut(request)
        answer = web.Response(status=200, body=self._body(trouble))
        if trouble == "close":
            answer.force_close()
        return answer

    def _taken_of(self, ids: Sequence[str]) -> Sequence[str]:
        """The first half, but nothing from the first one on that is not fine."""
        fine = [self._judged(one) == "fine" for one in ids]
        return ids[: min(len(ids) // 2, [*fine, False].index(False))]

    def _body(self, trouble: Trouble) -> bytes:
        if trouble == "error_body":
            return ERROR_BODY
        return self._rng.randbytes(5_000) if trouble == "garbage" else b"ok"

    def _trouble_of(self, path: str) -> Trouble:
        """It stays the same for a while, as real trouble does."""
        if path not in self._troubled:
            return "none"
        if path not in self._now:
            self._now[path] = self._rng.choice(self._troubled[path])
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


class UnreliableWay(UnreliableReceiver):
    """Stands before another server, at `target`, and hands on what comes through: all of it, or with `half` the first
    lines, and then it says that it failed. What it answers itself, the other has not seen; but for `garbage` and
    `late_reset`, which spoil the answer."""

    def __init__(self, rng: random.Random, target: str, *, redirect_to: str = METADATA_URL) -> None:
        super().__init__(rng, lambda body: (), redirect_to=redirect_to)
        self._target = target

    async def _answer(self, request: web.Request, body: bytes, trouble: Trouble) -> web.StreamResponse:
        if trouble in ("lie", "error_body"):
            return web.Response(status=200, body=self._body(trouble))
        encoding = request.headers.get("Content-Encoding", "")
        if trouble == "half":
            body, encoding = _first_lines(body, encoding), ""
        headers = {name: text for name, text in request.headers.items() if name in ("Content-Type", "Adjourn-Producer")}
        headers |= {"Content-Encoding": encoding} if encoding else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HAND_ON_S)) as session,
                session.post(self._target + request.path, data=body, headers=headers) as found,
            ):
                answer = web.Response(status=found.status, body=await found.read(), content_type="application/json")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return self._cut(request)
        if trouble == "late_reset":
            return self._cut(request)
        if trouble == "half":
            return web.Response(status=503)
        return web.Response(status=200, body=self._body(trouble)) if trouble == "garbage" else answer


def _first_lines(body: bytes, encoding: str) -> bytes:
    if encoding == "zstd":
        import zstandard

        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    lines = body.splitlines()
    return b"\n".join(lines[: len(lines) // 2])


class UnreliableNames:
    """While installed, each look-up of one of these names in this process gives one of its addresses at random, or, if
    that is empty, fails."""

    def __init__(self, rng: random.Random, addresses: Mapping[str, Sequence[str]]) -> None:
        self._rng = rng
        self._addresses = addresses
        self._getaddrinfo = socket.getaddrinfo

    def install(self) -> None:
        socket.getaddrinfo = self._look_up

    def uninstall(self) -> None:
        socket.getaddrinfo = self._getaddrinfo

    def _look_up(self, host: Any, *more: Any, **named: Any) -> Any:
        if host in self._addresses:
            host = self._rng.choice(self._addresses[host])
            if not host:
                raise socket.gaierror(socket.EAI_AGAIN, "the name server is away")
        return self._getaddrinfo(host, *more, **named)


class Trap:
    """A port that nothing may be sent to."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = socket.create_server((host, port), backlog=1024)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://{host}:{self.port}/latest/meta-data/"

    def connections(self) -> int:
        """How many there were since this was last asked. The system has accepted them."""
        count = 0
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._socket.close()
