"""Settings that are read again while the server runs: on SIGHUP, and by `POST /v1/reload`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Generator
from functools import partial

from adjourn import eventlog
from adjourn.errors import AdjournError
from adjourn.node import Node, Reconfigured
from adjourn.settings import Settings

Reload = Callable[[], Awaitable[Reconfigured]]

_log = eventlog.get_logger("adjourn.http")


def reload_of(node: Node, load: Callable[[], Settings] | None) -> Reload | None:
    """None where nothing can be read again."""
    return None if load is None else partial(_reload, node, load, asyncio.Lock())


async def _reload(node: Node, load: Callable[[], Settings], turn: asyncio.Lock) -> Reconfigured:
    try:
        async with turn:  # read in the order in which they are obeyed: an older file must not come last
            return await node.reconfigure(await asyncio.to_thread(load))
    finally:
        # Whoever loads settings has logging follow them, also where they are then refused.
        eventlog.configure(node.settings.logging.level, node.settings.logging.format)


@contextlib.contextmanager
def on_hangup(reload: Reload | None) -> Generator[None]:
    """SIGHUP reads the settings again. What is wrong with them is logged, and nothing changes."""
    loop, running = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def work(reload: Reload) -> None:
        try:
            await reload()
        except AdjournError as error:
            _log.error("reload_refused", error=error.message)

    def start() -> None:
        if reload is not None:
            task = loop.create_task(work(reload))
            running.add(task)
            task.add_done_callback(running.discard)

    with contextlib.suppress(RuntimeError, ValueError):  # not the main thread: signals are another's
        loop.add_signal_handler(signal.SIGHUP, start)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGHUP)
