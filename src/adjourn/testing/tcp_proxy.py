"""A loopback TCP proxy that breaks connections at chosen points: a commit without an answer, a server that is gone.

It runs on an event loop in its own thread, so that blocking clients and asyncio clients can both be tested through it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from adjourn.errors import Unavailable

_HOST = "127.0.0.1"
_CHUNK_BYTES = 65_536

# A server that never gives the awaited answer must not leave the client waiting for ever.
_ANSWER_TIMEOUT_S = 5.0

# l_onoff, l_linger: close() then sends RST and drops what is unsent.
_RESET = struct.pack("ii", 1, 0)

T = TypeVar("T")


class Cut:
    """A cut that waits for its moment. It happens once."""

    def __init__(self, match: bytes, *, forward: bool, answer: bytes | None) -> None:
        self.match = match
        self.forward = forward
        self.answer = answer
        self._done = threading.Event()

    def wait(self, timeout_s: float = 10.0) -> bool:
        """Block until the connection has been cut; False if that did not happen in time."""
        return self._done.wait(timeout_s)

    def finish(self) -> None:
        self._done.set()


class _Scanner:
    """Finds a byte string in a stream, also where it lies across two chunks."""

    def __init__(self, wanted: bytes) -> None:
        self.wanted = wanted
        self._tail = b""

    def found(self, chunk: bytes) -> bool:
        window = self._tail + chunk
        self._tail = window[max(0, len(window) - len(self.wanted) + 1) :]
        return self.wanted in window


class _Connection:
    """One client and its connection to the server."""

    def __init__(self, proxy: TcpProxy, client: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._proxy = proxy
        self._client_in, self._client_out = client
        self._server_out: asyncio.StreamWriter | None = None
        self._scanner: tuple[Cut, _Scanner] | None = None
        self._cut: Cut | None = None  # one that has been triggered: from here on nothing reaches the client
        self._answer = _Scanner(b"")

    async def run(self) -> None:
        try:
            server_in, self._server_out = await self._proxy.connect()
        except OSError:
            self.reset()
            return
        pumps = [asyncio.create_task(self._send(self._server_out)), asyncio.create_task(self._receive(server_in))]
        try:
            await asyncio.gather(*pumps)
        except OSError:
            pass  # one side is gone, or was cut off
        finally:
            for pump in pumps:
                pump.cancel()
            self._close()

    def reset(self) -> None:
        """Drop the client with RST; the server reads what it was sent, and then the end of the stream."""
        peer: socket.socket | None = self._client_out.get_extra_info("socket")
        if peer is not None and not self._client_out.transport.is_closing():
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._client_out.transport.abort()
        if self._server_out is not None:
            self._server_out.close()
        if self._cut is not None:
            self._cut.finish()

    def _close(self) -> None:
        if self._cut is not None:
            self.reset()
        for writer in (self._client_out, self._server_out):
            if writer is not None:
                writer.close()

    async def _send(self, server: asyncio.StreamWriter) -> None:
        """Client to server."""
        while chunk := await self._client_in.read(_CHUNK_BYTES):
            await self._proxy.flowing.wait()
            if self._cut is None and self._triggers(chunk) and not self._begin_cut():
                return
            server.write(chunk)
            await server.drain()
            if self._cut is not None and self._cut.answer is None:
                self.reset()
                return
        if server.can_write_eof():
            server.write_eof()

    async def _receive(self, server: asyncio.StreamReader) -> None:
        """Server to client."""
        while chunk := await server.read(_CHUNK_BYTES):
            await self._proxy.flowing.wait()
            if self._cut is None:
                self._client_out.write(chunk)
                await self._client_out.drain()
            elif self._answer.found(chunk):
                self.reset()
                return
        # A server that ends its stream, ends the connection: half-open ones would hide a server that has stopped.
        self._client_out.close()

    def _triggers(self, chunk: bytes) -> bool:
        cut = self._proxy.waiting_cut
        if cut is None:
            return False
        if self._scanner is None or self._scanner[0] is not cut:
            self._scanner = (cut, _Scanner(cut.match))
        return self._scanner[1].found(chunk)

    def _begin_cut(self) -> bool:
        """The match has come by. False if the connection is gone already, and with it what holds the match."""
        cut = self._proxy.take_cut()
        self._cut = cut
        if cut is None or not cut.forward:
            self.reset()
            return False
        if cut.answer is not None:
            self._answer = _Scanner(cut.answer)
            asyncio.get_running_loop().call_later(_ANSWER_TIMEOUT_S, self.reset)
        return True


class TcpProxy:
    """Stands before `target`, which is (host, port) or the path of a unix socket. A context manager.

    The target sees plain bytes: matches cannot be found under TLS. `host` and `port` are where it listens.
    """

    host = _HOST

    def __init__(self, target: tuple[str, int] | str | Path) -> None:
        self.port = 0
        self._target = target
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._listener: asyncio.Server | None = None
        self.flowing = asyncio.Event()
        self.waiting_cut: Cut | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self.flow()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cut every connection and stop listening. Idempotent, and complete on return."""
        if self._loop.is_closed():
            return
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, original: str) -> str:
        """`original` (a database URL), through the proxy: host and port replaced, in the query too."""
        parts = urlsplit(original)
        user, at, _ = parts.netloc.rpartition("@")
        query = urlencode([(key, value) for key, value in parse_qsl(parts.query) if key not in ("host", "port")])
        return urlunsplit(parts._replace(netloc=f"{user}{at}{self.host}:{self.port}", query=query))

    def cut(self) -> int:
        """Drop all connections at once, with RST to the clients. Returns how many there were."""
        return self._call(self._cut_all())

    def cut_before_sending(self, match: bytes) -> Cut:
        """When a client next sends `match`, drop its connection; the server does not see what holds the match.

        What the client sent in the same chunk is dropped with it.
        """
        return self._await_cut(Cut(match, forward=False, answer=None))

    def cut_after_sending(self, match: bytes, *, answer: bytes | None = None) -> Cut:
        """When a client next sends `match`, pass it on to the server, and drop the connection before the client hears.

        With `answer`, the connection is cut when the server's answer holds it: then the server has done its work.
        Without, it is cut at once: then the server may be about to begin, in the middle of it, or done.
        """
        return self._await_cut(Cut(match, forward=True, answer=answer))

    def stall(self) -> None:
        """Nothing passes in either direction until `flow`; connections stay open, and new ones are accepted."""
        self._loop.call_soon_threadsafe(self.flowing.clear)

    def flow(self) -> None:
        """End a stall; what was held is passed on."""
        self._loop.call_soon_threadsafe(self.flowing.set)

    def refuse(self) -> None:
        """Refuse new connections until `accept`; for a server that is gone, also `cut` the ones there are."""
        self._call(self._stop_listening())

    def accept(self) -> None:
        """Listen, on the same port as before."""
        self._call(self._start_listening())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, tuple):
            return await asyncio.open_connection(*self._target)
        return await asyncio.open_unix_connection(self._target)

    def take_cut(self) -> Cut | None:
        cut, self.waiting_cut = self.waiting_cut, None
        return cut

    def _await_cut(self, cut: Cut) -> Cut:
        self.waiting_cut = cut
        return cut

    def _call(self, work: Coroutine[object, object, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise Unavailable("the proxy is not running; use it in a with block")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start_listening(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, self.host, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            # Not wait_closed(): from Python 3.12 on it waits for the connections, which are to stay.
            self._listener.close()
            self._listener = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, (reader, writer))
        task = asyncio.ensure_future(connection.run())
        self._connections[connection] = task
        try:
            await task
        except asyncio.CancelledError:
            pass  # cut
        finally:
            del self._connections[connection]

    async def _cut_all(self) -> int:
        tasks = dict(self._connections)
        for connection, task in tasks.items():
            connection.reset()
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return len(tasks)
