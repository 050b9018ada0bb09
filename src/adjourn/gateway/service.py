"""`adjourn gateway` as a process: bind, continue the journal, pass calls through, capture, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvicorn

from adjourn.clock import SystemClock
from adjourn.completion.pump_service import Send
from adjourn.completion.receipts import Outcome
from adjourn.errors import AdjournError, ConfigInvalid, StorageFull
from adjourn.eventlog import get_logger
from adjourn.gateway.journal import Journal
from adjourn.gateway.outbox_service import Outbox
from adjourn.gateway.proxy_service import Proxy
from adjourn.gateway.recorder import Recorder
from adjourn.http.listening import BACKLOG, UntilSignal, listen, settle_memory, url_of
from adjourn.http.protocol import Protocol
from adjourn.node import Node
from adjourn.prices import PriceTable
from adjourn.runtime import Runtime
from adjourn.secret import mask
from adjourn.settings import Settings

SWEEPS_PER_GAP = 10
SWEEP_S_MAX = 1.0
TAKE_S_MAX = 60.0
OPEN_S_MAX = 5.0

_log = get_logger("adjourn.gateway")


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True):
    upstream: str
    host: str = "127.0.0.1"
    port: int = 8710
    name: str = "default"
    """Of its journal, below `data_dir`/gateway."""
    idle_gap_s: float = 300.0
    include_usage: bool = False
    url: str = ""
    """The server that takes the completions; empty: the database of the settings."""
    key: str = ""
    tenant: str = "default"


def check(options: GatewayOptions) -> None:
    """Raises ConfigInvalid."""
    shown = mask(options.upstream)
    try:
        parts = urlsplit(options.upstream)
        named = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        parts, named = None, False
    if not named or parts is None or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", options.upstream):
        raise ConfigInvalid(
            f"--upstream {shown!r} is no address; give one as https://api.openai.com, with a path if it has one",
            path="upstream",
        )
    if "@" in parts.netloc:
        raise ConfigInvalid(
            f"--upstream {shown!r} holds credentials; leave them to the clients, whose headers pass", path="upstream"
        )
    if not options.name or not options.name.replace("-", "").replace("_", "").isalnum() or len(options.name) > 64:
        raise ConfigInvalid(f"--name {options.name!r} is no name; use up to 64 letters, digits, - and _", path="name")
    if not 0 < options.idle_gap_s <= 86_400 * 7:
        raise ConfigInvalid("--idle-gap-s is not between 0 and 604800; give seconds, as in 300", path="idle-gap-s")


class _Protocol(Protocol):
    def eof_received(self) -> bool:
        """A client that closes has gone, and the model need not go on. Only a connection that is half closed on purpose
        looks the same, and clients of models do not do that."""
        return False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Not what follows a chunked body: whoever stands in front has only looked at the headers before it."""
        if self._head_since_s:
            super().on_header(name, value)


async def serve(
    settings: Settings, options: GatewayOptions, *, on_ready: Callable[[str, Recorder], Awaitable[None]]
) -> None:
    """Until told to stop; sessions that are open then go on at the next start. Raises ConfigInvalid, StorageFull."""
    check(options)
    listener = listen(options.host, options.port, host_name="--host", port_name="--port")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        prices = PriceTable()
        await asyncio.to_thread(prices.load)
        recorder = _recorder(settings, options, prices)
        stack.callback(recorder.close)
        outbox = Outbox(recorder, await _sink(settings, options, stack))
        proxy = Proxy(options.upstream, recorder, outbox.nudge, include_usage=options.include_usage)
        stack.push_async_callback(proxy.close)
        sending = asyncio.create_task(outbox.run())
        sweeping = asyncio.create_task(_sweep(recorder, outbox, options.idle_gap_s))
        stack.push_async_callback(_finish, sweeping, outbox, sending, settings.server.drain_ms_max / 1000)
        settle_memory()
        await _serve(proxy, listener, settings, partial(on_ready, url_of(listener), recorder))


async def _serve(
    proxy: Proxy, listener: socket.socket, settings: Settings, on_ready: Callable[[], Awaitable[None]]
) -> None:
    # It reports answers that lack their end, which is how the gateway passes on that the upstream's did.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        proxy,  # type: ignore[arg-type]  # uvicorn's own ASGI types are narrower than the specification
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=settings.server.drain_ms_max / 1000,  # type: ignore[arg-type]  # fractions work
        backlog=BACKLOG,
        http=partial(_Protocol, lambda *_: False, b""),  # type: ignore[arg-type]  # called as the class would be
        ws="none",
    )
    server = UntilSignal(config)
    beside = asyncio.create_task(_when_started(server, on_ready))
    try:
        await server.serve(sockets=[listener])
    finally:
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)


async def _when_started(server: uvicorn.Server, on_ready: Callable[[], Awaitable[None]]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    await on_ready()


def _recorder(settings: Settings, options: GatewayOptions, prices: PriceTable) -> Recorder:
    path = Path(settings.data_dir) / "gateway" / f"{options.name}.journal"
    try:
        journal = Journal(path, fsync=settings.capture.fsync, fsync_interval_ms=settings.capture.fsync_interval_ms)
        return Recorder(journal, prices, SystemClock(), idle_s=options.idle_gap_s)
    except OSError as error:
        raise StorageFull(
            f"the journal {path} cannot be written ({error.strerror}); free some space, or set data_dir"
        ) from error


async def _sweep(recorder: Recorder, outbox: Outbox, idle_gap_s: float) -> None:
    while True:
        try:
            recorder.sweep()
        except Exception:
            _log.exception("gateway_sweep_failed")
        if recorder.sessions.waiting:
            outbox.nudge()
        await asyncio.sleep(min(SWEEP_S_MAX, idle_gap_s / SWEEPS_PER_GAP))


async def _finish(sweeping: asyncio.Task[None], outbox: Outbox, sending: asyncio.Task[None], bound_s: float) -> None:
    """Completions that wait are sent if there is time; the next start sends the rest."""
    sweeping.cancel()
    outbox.stop()
    try:
        await asyncio.wait_for(sending, bound_s)
    except TimeoutError:
        _log.warning("gateway_stopped_before_all_was_sent")
    await asyncio.gather(sweeping, return_exceptions=True)


# --- where completions go


async def _sink(settings: Settings, options: GatewayOptions, stack: contextlib.AsyncExitStack) -> Send:
    if options.url:
        # Here, not above: the HTTP client takes a tenth of a second, which the embedded gateway need not wait for.
        from adjourn.completion.remote_service import RemoteSink

        remote = RemoteSink(options.url, options.key, Path(settings.data_dir) / "gateway" / "refused.txt")
        stack.push_async_callback(remote.close, 1.0)
        return remote.send
    runtime = Runtime(settings, tenant=options.tenant)
    stack.push_async_callback(asyncio.to_thread, runtime.stop)
    try:
        await asyncio.wait_for(asyncio.to_thread(runtime.start), OPEN_S_MAX)
    except ConfigInvalid:
        raise
    except (AdjournError, TimeoutError) as error:
        # Calls pass all the same; their completions wait in the journal.
        _log.warning("gateway_outbox_waits", error=str(error) or "the database is slow to open")
    return partial(_embedded, runtime, options.tenant)


async def _embedded(
    runtime: Runtime, tenant: str, producer: str, raws: Sequence[bytes], sequences: Sequence[int]
) -> Sequence[Outcome]:
    async def take(node: Node) -> Sequence[Outcome]:
        return await node.ingest.take(tenant, raws, source="gateway", producer=producer, sequences=sequences)

    return await asyncio.to_thread(runtime.call, take, TAKE_S_MAX)
