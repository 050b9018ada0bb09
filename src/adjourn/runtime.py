"""`Runtime`: capture from any thread of any program, and know that it arrives.

    runtime = adjourn.Runtime(settings)            # embedded: the database is a file beside the program
    runtime = adjourn.Runtime(url=…, key=…)        # or a server's

`capture` writes to the spool and returns; a thread moves the spool into the log (or to the server) and delivers. The
thread begins with the first capture, in each process by itself: a runtime made before a fork works in every child.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from adjourn.completion.pump_service import KeepTorn, Pump, Send
from adjourn.completion.receipts import Receipt, ReceiptDesk
from adjourn.completion.segments import SpoolReader
from adjourn.completion.spool import Spool, SpoolStats
from adjourn.errors import AdjournError, ConfigInvalid, EventInvalid, Unavailable
from adjourn.eventlog import get_logger
from adjourn.events import Completion, StoredEvent
from adjourn.node import MB, Node
from adjourn.settings import Settings, default_settings

if TYPE_CHECKING:
    from adjourn.delivery.transform import TransformCallable

T = TypeVar("T")

_log = get_logger("adjourn.runtime")


def _plain(value: object) -> object:
    """For what the encoder does not know: any mapping is an object."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain).encode
_abandoned: list[object] = []
"""What a parent had open: a child must not close it (its locks are the parent's), so it is kept from the collector."""

EXIT_S = 5.0


class Runtime:
    """Thread-safe, fork-safe. `stop` (or leaving the `with`) delivers what it can in time; the rest stays spooled."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        url: str = "",
        key: str = "",
        tenant: str = "default",
        on_delivered: Callable[[Sequence[StoredEvent]], None] | None = None,
        transforms: Mapping[str, TransformCallable] | None = None,
    ) -> None:
        """Embedded, unless `url` names a server; `tenant` is whose events the embedded log holds them to be, and
        `transforms` are functions that a destination's `transform` may name: called for each event, in the runtime's
        thread, they give what to send, or None for nothing."""
        self.settings = settings or default_settings()
        if key and not url:
            raise ConfigInvalid("a key was given but no url; give the server's url too, or neither", path="url")
        self._url = url
        self._key = key
        self._tenant = tenant
        self._on_delivered = on_delivered
        self._transforms = transforms
        capture = self.settings.capture
        self._spool = Spool(
            Path(self.settings.spool_dir),
            bytes_max=capture.spool_mb_max * MB,
            full=capture.spool_full,
            fsync=capture.fsync,
            fsync_interval_ms=capture.fsync_interval_ms,
            on_append=self._on_append,
        )
        self._append = self._spool.append
        self._stopped = False
        self._begin()
        _runtimes.add(self)

    def _begin(self) -> None:
        """State that belongs to one process."""
        self._pid = os.getpid()
        self._starting = threading.Lock()
        self._desk = ReceiptDesk(None if self._url else self._tenant)
        self._worker: _Worker | None = None

    # --- capture -------------------------------------------------------------------------------------------------

    def capture(self, event: Completion | Mapping[str, object]) -> Receipt:
        """Take one completion event, in microseconds, from any thread or event loop. SIGKILL cannot lose it any more;
        `await receipt.durable()` says when it is in the log. What breaks the schema is found there, and kept in
        quarantine.

        Raises SpoolFull, SpoolClosed, StorageFull, EventInvalid (only for what is no JSON object)."""
        try:
            body = _encode(event)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise EventInvalid(
                f"the event cannot be written as JSON ({error}); use JSON's types and datetimes"
            ) from error
        if body[:1] != b"{":
            raise EventInvalid("an event is a mapping or an adjourn.Completion; wrap it in one")
        producer, sequence = self._append(body)
        return Receipt(producer, sequence, body, self._desk)

    def start(self) -> None:
        """Begin to move and deliver now, instead of at the first capture. Raises what opening the database raises."""
        worker = self._work()
        worker.wait_until_ready()

    def stop(self, timeout_s: float | None = None) -> None:
        """Deliver what is in the spool, bounded (`server.drain_ms_max`), and end. Idempotent, complete on return."""
        if self._stopped:
            return
        self._stopped = True
        bound_s = self.settings.server.drain_ms_max / 1000 if timeout_s is None else timeout_s
        self.stop_delivering(bound_s)
        self._spool.close()
        _runtimes.discard(self)

    def stop_delivering(self, bound_s: float) -> None:
        """End the thread, after what it can deliver in time; what is captured later stays in the spool."""
        if self._worker is not None:
            self._worker.stop(bound_s)
        self._desk.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def drain(self, timeout_s: float = 30.0) -> None:
        """Wait until all that was captured is in the log and with every destination. Raises TimeoutError."""
        self._work().call(_Worker.drain, timeout_s)

    @property
    def stopped(self) -> bool:
        return self._stopped

    def spool_stats(self) -> SpoolStats:
        return self._spool.stats()

    @property
    def node(self) -> Node:
        """The embedded node, of the runtime's own thread: use it through `call`. Raises ConfigInvalid if remote."""
        return self._work().require_node()

    def call(self, function: Callable[[Node], Coroutine[object, object, T]], timeout_s: float = 30.0) -> T:
        """Run `function(node)` in the runtime's thread and wait for its answer."""
        return self._work().call(lambda worker: function(worker.require_node()), timeout_s)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _on_append(self) -> None:
        if _exiting.is_set():
            return
        worker = self._worker or self._work()
        if worker.idle:
            worker.nudge()

    def _work(self) -> _Worker:
        with self._starting:
            if self._stopped:
                raise Unavailable("this runtime was stopped; make a new one")
            if self._worker is None:
                self._worker = _Worker(self.settings, self._open_sink, self._spool, self._desk, self._on_delivered)
            return self._worker

    async def _open_sink(self, worker: _Worker) -> tuple[Send, KeepTorn]:
        if self._url:
            # Here, not above: the HTTP client takes a tenth of a second, which `import adjourn` need not cost everyone.
            from adjourn.completion.remote_service import RemoteSink

            sink = RemoteSink(self._url, self._key, Path(self.settings.spool_dir) / "torn.txt")
            worker.closers.append(sink.close)
            return sink.send, sink.keep_torn
        node = Node(self.settings, on_delivered=self._on_delivered, transforms=self._transforms)
        try:
            await node.open()
        except BaseException:
            await node.close(0.5)  # tried again with a new one: nothing of this may be left running
            raise
        worker.node = node
        worker.closers.append(node.close)
        return node.spool_sink(self._tenant)

    def after_fork(self) -> None:
        """In the child: the parent's thread, loop and connections are not here. Begin anew at the first capture."""
        _abandoned.append(self._worker)
        self._desk.leave_to_parent()
        self._begin()


class _Worker:
    """The thread behind a runtime: an event loop with the pump and, when embedded, the node."""

    def __init__(
        self,
        settings: Settings,
        open_sink: Callable[[_Worker], Coroutine[object, object, tuple[Send, KeepTorn]]],
        spool: Spool,
        desk: ReceiptDesk,
        on_delivered: Callable[[Sequence[StoredEvent]], None] | None,
    ) -> None:
        self.idle = False
        """The pump waits for a hint. Set by the worker, cleared by whoever gives one."""
        self.node: Node | None = None
        self.closers: list[Callable[[float], Coroutine[object, object, None]]] = []
        self._settings = settings
        self._open_sink = open_sink
        self._desk = desk
        self._reader = SpoolReader(settings.spool_dir, own=spool.live_stream)
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._stop_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._pump: Pump | None = None
        self._thread = threading.Thread(target=self._run, name="adjourn-runtime", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        self.idle = False
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop has ended: the event stays in the spool
            return

    def wait_until_ready(self) -> None:
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    def require_node(self) -> Node:
        self.wait_until_ready()
        if self.node is None:
            raise ConfigInvalid("this runtime sends to a server and has no node of its own; ask the server", path="url")
        return self.node

    def call(self, function: Callable[[_Worker], Coroutine[object, object, T]], timeout_s: float) -> T:
        self.wait_until_ready()
        future = asyncio.run_coroutine_threadsafe(function(self), self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    async def drain(self) -> None:
        assert self._pump is not None
        await self._pump.drained()
        if self.node is not None:
            await self.node.delivery.drained()

    def stop(self, timeout_s: float) -> None:
        self._stop_s = timeout_s
        try:
            self._loop.call_soon_threadsafe(self._stopping.set)
        except RuntimeError:
            return
        self._thread.join(timeout_s + EXIT_S)

    def _wake(self) -> None:
        if self._pump is not None:
            self._pump.nudge()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as error:
            self._failed = error
            _log.exception("runtime_failed")
        finally:
            self._ready.set()
            self._loop.close()

    async def _main(self) -> None:
        opened = await self._open_until_it_works()
        if opened is None:
            return
        capture = self._settings.capture
        self._pump = Pump(
            self._reader,
            *opened,
            self._desk,
            batch_events_max=capture.buffer_size,
            look_every_ms=capture.flush_interval_ms,
            on_idle=self._on_idle,
        )
        pumping = asyncio.create_task(self._pump.run())
        self._failed = None
        self._ready.set()
        await self._stopping.wait()
        await self._finish(pumping)

    async def _open_until_it_works(self) -> tuple[Send, KeepTorn] | None:
        """A setting that is wrong is the caller's; a database that is away comes back, and the spool waits for it."""
        while not self._stopping.is_set():
            try:
                return await self._open_sink(self)
            except ConfigInvalid:
                raise
            except AdjournError as error:
                _log.warning("runtime_waits", error=error.message)
                self._failed = error
                self._ready.set()  # whoever waits hears of it; whoever asks later, too, until it works
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), 1.0)
        return None

    async def _finish(self, pumping: asyncio.Task[None]) -> None:
        """Last of all captured, first of all told: send what the spool holds, then let the destinations have it."""
        assert self._pump is not None
        started = self._loop.time()
        try:
            await asyncio.wait_for(self._pump.drained(), max(0.05, self._stop_s))
            if self.node is not None:
                left = max(0.05, self._stop_s - (self._loop.time() - started))
                await asyncio.wait_for(self.node.delivery.drained(), left)
        except (TimeoutError, AdjournError) as error:
            _log.warning("stopped_before_all_was_delivered", error=str(error) or "time ran out")
        self._pump.stop()
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
        self._reader.close()
        left = max(0.5, self._stop_s - (self._loop.time() - started))
        for close in reversed(self.closers):
            await close(left)

    def _on_idle(self, idle: bool) -> None:
        self.idle = idle


_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork() -> None:
    for runtime in list(_runtimes):
        runtime.after_fork()


_exiting = threading.Event()
"""The main thread has ended: what is captured from now on stays in the spool, for the next start."""


def _before_exit() -> None:
    """Deliver while that is possible. Threads that the program has left running may go on capturing."""
    _exiting.set()
    for runtime in list(_runtimes):
        runtime.stop_delivering(EXIT_S)


def _at_exit() -> None:
    for runtime in list(_runtimes):
        runtime.stop(EXIT_S)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
# Thread pools, which the database's readers are, end before atexit's turn comes: by this same hook, last come first.
getattr(threading, "_register_atexit", atexit.register)(_before_exit)
