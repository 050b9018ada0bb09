"""What the members of a batch see: the waiting write, and the transaction that it shares with the rest of its batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adjourn.database import Appended, Dialect, Fence, Row, Value
from adjourn.databases.driver import Driver
from adjourn.events import Record

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement


class Job:
    """One waiting write."""

    __slots__ = ("args", "deadline", "error", "fence", "fn", "future", "loop", "result", "weight")

    def __init__(
        self,
        fn: Callable[..., object],
        args: tuple[object, ...],
        fence: Fence | None,
        weight: int,
        deadline: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.fn = fn
        self.args = args
        self.fence = fence
        self.weight = weight
        self.deadline = deadline
        self.loop = loop
        self.future: asyncio.Future[object] = loop.create_future()
        self.result: object = None
        self.error: BaseException | None = None

    def refuse(self, error: BaseException) -> None:
        """In its own loop, before it was queued."""
        if not self.future.done():
            self.future.set_exception(error)


def tell(jobs: Sequence[Job]) -> None:
    """Every caller, in its own loop, what came of its write."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        loops.setdefault(job.loop, []).append(job)
    for loop, mine in loops.items():
        try:
            loop.call_soon_threadsafe(_finish, mine)
        except RuntimeError:  # that loop is closed; its callers are gone, what they wrote stays
            continue


def _finish(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if isinstance(job.error, StopIteration):  # which no future takes: it would end whoever awaits it silently
            error = RuntimeError("a function handed to write raised StopIteration; catch it there")
            error.__cause__ = job.error
            job.future.set_exception(error)
        elif job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


class LaneTx:
    """The `Tx` of one batch. Its buffers belong to the member that is running until that member has succeeded."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.dialect: Dialect = driver.dialect
        self.appended: list[Appended] = []
        self.debits: dict[str, tuple[int, bool]] = {}
        """By account: what to take in all, and whether any of it may be refused."""
        self.touched = False
        self._savepoints = 0

    def rows(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> list[Row]:
        self._guard()
        return self._driver.rows(sql, params)

    def run(self, sql: str | ClauseElement, params: Sequence[Value] = ()) -> int:
        self._guard()
        return self._driver.run(sql, params)

    def append(self, records: Sequence[Record], *, producer: str = "") -> Appended:
        pending = Appended(records, producer)
        self.appended.append(pending)
        return pending

    def debit(self, account: str, amount: int, *, forced: bool = False) -> None:
        total, refusable = self.debits.get(account, (0, False))
        self.debits[account] = total + amount, refusable or (amount > 0 and not forced)

    @contextmanager
    def attempt(self) -> Generator[None, None, None]:
        self._guard()
        self._savepoints += 1
        name = f"attempt_{self._savepoints}"
        appended, debits = len(self.appended), dict(self.debits)
        self._driver.run(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            if self._driver.in_transaction:
                self._driver.run(f"ROLLBACK TO {name}")
                self._driver.run(f"RELEASE {name}")
            del self.appended[appended:]
            self.debits = debits
            raise
        self._driver.run(f"RELEASE {name}")

    def _guard(self) -> None:
        """The first statement of a member opens its savepoint; members that only append need none."""
        if not self._driver.in_transaction:
            # Without one, SQLite would commit this statement at once and by itself.
            raise RuntimeError("an earlier error ended the transaction; let it pass on, nothing was written")
        if not self.touched and self._driver.savepoints:
            self._driver.run("SAVEPOINT member")
        self.touched = True


class StepTx:
    """The `Tx` of the log's own step: it is part of the batch, so no savepoint guards it."""

    def __init__(self, driver: Driver) -> None:
        self.dialect: Dialect = driver.dialect
        self._driver = driver
        self.rows = driver.rows
        self.run = driver.run

    def append(self, records: Sequence[Record], *, producer: str = "") -> Appended:
        raise RuntimeError("the log's own step cannot append")

    def debit(self, account: str, amount: int, *, forced: bool = False) -> None:
        raise RuntimeError("the log's own step cannot debit")

    @contextmanager
    def attempt(self) -> Generator[None, None, None]:
        self._driver.run("SAVEPOINT step")
        try:
            yield
        except BaseException:
            self._driver.run("ROLLBACK TO step")
            self._driver.run("RELEASE step")
            raise
        self._driver.run("RELEASE step")
