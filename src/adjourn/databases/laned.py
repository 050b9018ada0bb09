"""The `Database` contract over lanes and a pool of readers; SQLite and PostgreSQL differ only in their drivers."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, NoReturn, ParamSpec, TypeVar, cast

from adjourn import forks
from adjourn.database import Appender, Dialect, Fence, Health, Reader
from adjourn.databases.driver import Driver, Failure
from adjourn.databases.lane import Lane
from adjourn.databases.mailbox import Mailbox
from adjourn.databases.migrate import Store
from adjourn.databases.tx import Job
from adjourn.errors import AdjournError, DatabaseCorrupt, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0001
"""sqlite3 takes the interpreter lock back for every statement: with the default 5 ms, a busy event loop holds up each
step of a commit, and the time to acknowledge grows a hundredfold."""


class LanedDatabase:
    def __init__(
        self,
        store: Store,
        connect: Callable[..., Driver],
        *,
        readers: int,
        queue_events_max: int,
        write_timeout_ms: int,
    ) -> None:
        self._store = store
        self._connect = connect
        self._queue_events_max = queue_events_max
        self._write_timeout_s = write_timeout_ms / 1000
        self._lanes: list[Lane] = []
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._local = threading.local()
        self._open_readers: list[Driver] = []
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="adjourn-reader")
        self._closed = False
        self._stopped = threading.Event()

    @property
    def dialect(self) -> Dialect:
        return self._store.dialect

    @property
    def partitions(self) -> int:
        return len(self._lanes)

    async def open(self, appender: Appender) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        await asyncio.to_thread(self._open_guarded, appender)

    def _open_guarded(self, appender: Appender) -> None:
        try:
            with forks.opening:
                self._open(appender)
        except AdjournError:
            raise
        except UnicodeDecodeError as error:  # SQLite's message repeats a damaged name
            raise DatabaseCorrupt("the database's schema is damaged; run: adjourn db check") from error
        except OSError as error:
            raise Unavailable(f"the database's files cannot be used ({error}); check database.url") from error
        except Exception as error:
            _tell(self._connect(), error)

    def _open(self, appender: Appender) -> None:
        partitions = self._store.prepare()
        run = os.urandom(6).hex()
        for partition in range(partitions):
            lane = Lane(
                f"{run}/{partition}",
                partition,
                self._connect(),
                appender,
                queue_events_max=self._queue_events_max,
            )
            lane.start()
            self._lanes.append(lane)

    async def close(self, timeout_s: float | None = None) -> None:
        if self._closed:
            await asyncio.to_thread(self._stopped.wait)
            return
        self._closed = True
        try:
            await self._stop(self._write_timeout_s if timeout_s is None else timeout_s)
        finally:
            self._stopped.set()

    async def _stop(self, timeout_s: float) -> None:
        until_s = time.monotonic() + timeout_s
        await asyncio.gather(*(asyncio.to_thread(lane.stop, timeout_s) for lane in self._lanes))
        resting = asyncio.ensure_future(asyncio.to_thread(self._readers.shutdown))
        _, late = await asyncio.wait((resting,), timeout=max(0.5, until_s - time.monotonic()))
        if late:  # the database does not answer, and whoever waits for it would keep the process from ending
            for reader in self._open_readers:
                reader.interrupt()
        await resting
        for reader in self._open_readers:
            reader.close()

    async def read(self, fn: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise Unavailable("the database is closed; this runtime was stopped")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, lambda: self._read(lambda r: fn(r, *args, **kwargs)))

    def _read(self, fn: Callable[[Reader], T]) -> T:
        """Once more on a new connection if this one is lost; a read changes nothing."""
        driver = cast("Driver | None", getattr(self._local, "driver", None))
        if driver is None:
            driver = self._connect()
            self._local.driver = driver
            self._open_readers.append(driver)
            self._reconnect(driver)
        try:
            return _snapshot(driver, fn)
        except Exception as error:
            if driver.classify(error) is not Failure.LOST:
                _tell(driver, error)
        self._reconnect(driver)
        try:
            return _snapshot(driver, fn)
        except Exception as error:
            _tell(driver, error)

    def _reconnect(self, driver: Driver) -> None:
        if self._closed:
            raise Unavailable("the database is closed; this runtime was stopped")
        try:
            with driver.guard:
                driver.close()
                driver.connect()
        except Exception as error:
            if driver.classify(error) is Failure.MEMBER:
                raise
            raise Unavailable(f"the database cannot be reached ({error}); try again", retry_after_ms=1000) from error

    async def write(
        self, fn: Callable[..., T], *args: object, key: str = "", fence: Fence | None = None, weight: int = 1
    ) -> T:
        if not self._lanes or self._closed:
            raise Unavailable("the database is closed; this runtime was stopped")
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop) or self._mailbox(loop)
        job = Job(fn, args, fence, weight, time.monotonic() + self._write_timeout_s, loop)
        mailbox.post(self.partition_of(key), job)
        return cast(T, await job.future)

    def _mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        for other in [other for other in list(self._mailboxes) if other.is_closed()]:
            self._mailboxes.pop(other, None)
        return self._mailboxes.setdefault(loop, Mailbox(loop, self._lanes, self._write_timeout_s))

    def partition_of(self, key: str) -> int:
        lanes = len(self._lanes)
        return zlib.crc32(key.encode("utf-8", "surrogatepass")) % lanes if lanes > 1 else 0

    def health(self) -> Health:
        detail = next((lane.detail for lane in self._lanes if lane.detail), "")
        if self._closed or not self._lanes:
            detail = "the database is closed"
        return Health(
            ok=not detail,
            dialect=self.dialect,
            waiting_events=sum(lane.waiting_events for lane in self._lanes),
            queue_events_max=self._queue_events_max * max(1, len(self._lanes)),
            detail=detail,
        )


def _snapshot(driver: Driver, fn: Callable[[Reader], T]) -> T:
    """All that one function reads, it reads at one instant."""
    with driver.guard:
        driver.begin_read()
        try:
            return fn(driver)
        finally:
            _abandon(driver)


def _tell(driver: Driver, error: Exception) -> NoReturn:
    """Raise what the caller of a read is to hear: its function's own error, or ours with the remedy."""
    failure = driver.classify(error)
    if failure is Failure.MEMBER:
        raise error
    if failure is Failure.CORRUPT:
        raise DatabaseCorrupt(f"the database is damaged ({error}); run: adjourn db check") from error
    raise Unavailable(f"the database could not be read ({error}); try again", retry_after_ms=1000) from error


def _abandon(driver: Driver) -> None:
    try:
        driver.rollback()
    except Exception:
        driver.close()
