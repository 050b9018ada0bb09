"""A lane: one thread, one connection, group commit. DESIGN §4 says why each rule is as it is.

A batch is, in this order: the lane's own row → fences and functions → debits → the log → COMMIT → futures.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence

from adjourn.database import Appender, Fence
from adjourn.databases.bell import Bell
from adjourn.databases.driver import Driver, Failure
from adjourn.databases.tx import Job, LaneTx, StepTx, tell
from adjourn.errors import (
    AdjournError,
    DatabaseCorrupt,
    DebitRefused,
    Fenced,
    StorageFull,
    TooBusy,
    Unavailable,
)
from adjourn.eventlog import get_logger

_log = get_logger("adjourn.database")

EVENTS_PER_BATCH = 16_384
INTERRUPTED_S = 0.5
RECONNECT_S = (0.05, 0.1, 0.25, 0.5, 1.0)


class _BatchBroken(Exception):
    """The transaction is gone through no fault of the lane: roll back, and run the members one by one."""


class Lane:
    def __init__(
        self,
        name: str,
        partition: int,
        driver: Driver,
        appender: Appender,
        *,
        queue_events_max: int,
    ) -> None:
        self.name = name
        self.partition = partition
        self.detail = ""
        self.waiting_events = 0
        self._driver = driver
        self._appender = appender
        self._queue_events_max = queue_events_max
        self._queue: deque[Job] = deque()
        self._running: Sequence[Job] = ()
        self._lock = threading.Lock()
        self._bell = Bell()
        self._stopping = False
        self._seq = 0
        self._thread = threading.Thread(target=self._loop, name=f"adjourn-lane-{partition}", daemon=True)

    # --- from any event loop -------------------------------------------------------------------------------------
    def start(self) -> None:
        """Connect first, so that a database that cannot be opened is the caller's error."""
        self._open()
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue what one event loop has gathered. What does not fit is refused, through its future."""
        refused: AdjournError | None = None
        with self._lock:
            for job in jobs:
                refused = refused or self._refusal(job)
                if refused is not None:
                    job.refuse(refused)
                    continue
                self.waiting_events += job.weight
                self._queue.append(job)
        self._bell.ring()

    def _refusal(self, job: Job) -> AdjournError | None:
        if self._stopping:
            return Unavailable("the server is stopping; send again to another node or later", retry_after_ms=1000)
        if self.waiting_events and self.waiting_events + job.weight > self._queue_events_max:
            return TooBusy(
                f"{self.waiting_events} events are waiting to be written; send again in a second, or raise "
                "database.queue_events_max",
                retry_after_ms=1000,
            )
        return None

    def overdue(self, loop: asyncio.AbstractEventLoop, deadline: float) -> list[Job]:
        """What this loop still waits for although its deadline was before `deadline`; oldest first."""
        with self._lock:
            waiting = (*self._running, *self._queue)
        return [job for job in waiting if job.deadline < deadline and job.loop is loop]

    def stop(self, timeout_s: float) -> None:
        """Write what is queued, then end the thread; give up after `timeout_s`. Idempotent. A thread that does not even
        end when it is interrupted keeps its connection, and goes with the process."""
        with self._lock:
            self._stopping = True
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._driver.interrupt()
            self._thread.join(INTERRUPTED_S)
        if not self._thread.is_alive():
            self._driver.close()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        turns_fail = False
        while self._wait():
            try:
                with self._driver.turn():
                    if turns_fail:
                        turns_fail, self.detail = False, ""
                    self._serve(self._gather())
            except Exception as error:  # the turn itself: what is queued stays, and is refused when it is late
                _log.exception("turn_failed", lane=self.name)
                turns_fail = True
                self.detail = f"the database's lock cannot be used ({error}); check the disk that it is on"
                time.sleep(RECONNECT_S[0])
                continue
            self._rest()

    def _wait(self) -> bool:
        self._bell.sleep_until(lambda: bool(self._queue) or self._stopping)
        return bool(self._queue)

    def _gather(self) -> list[Job]:
        jobs: list[Job] = []
        events = 0
        with self._lock:
            while self._queue and len(jobs) < self._driver.members_max and events < EVENTS_PER_BATCH:
                job = self._queue.popleft()
                events += job.weight
                jobs.append(job)
        return jobs

    def _serve(self, jobs: list[Job]) -> None:
        """Whatever happens inside, every job is resolved and the thread lives on."""
        self._running = jobs
        try:
            self._batch(jobs)
        except BaseException as error:  # a defect of ours: the callers must hear of it all the same
            _log.exception("lane_failed", lane=self.name)
            self._appender.discarded(self.partition)
            self._fail([j for j in jobs if j.error is None], error)
            self._reopen_until_it_works(time.monotonic() + 1.0)
        self._resolve(jobs)

    def _batch(self, jobs: list[Job]) -> None:
        """Run `jobs` in one transaction; one by one if it breaks; again, on a new connection, if that is lost."""
        while jobs:
            try:
                self._transact(jobs)
            except _BatchBroken as broken:
                self._undo()
                if len(jobs) == 1:
                    jobs[0].error = broken.__cause__ or broken
                    return
                for job in jobs:
                    self._batch([job])
                return
            except Exception as error:
                self._appender.discarded(self.partition)
                jobs = self._survive(jobs, error)
            else:
                self._after_commit()
                return

    def _after_commit(self) -> None:
        """What is committed is never run again, whatever fails in memory; the appender reads what it missed."""
        try:
            self._appender.committed(self.partition)
        except Exception:
            _log.exception("commit_not_remembered", lane=self.name)
            self._appender.discarded(self.partition)

    def _transact(self, jobs: Sequence[Job]) -> None:
        tx = LaneTx(self._driver)
        self._seq += 1
        self._driver.begin()
        self._driver.push("UPDATE lanes SET seq = ? WHERE lane = ?", (self._seq, self.name))
        epochs = self._lock_fences(jobs)
        for job in jobs:
            self._member(tx, job, epochs, alone=len(jobs) == 1)
        self._apply_debits(tx, jobs)
        if tx.appended:
            self._appender.append(StepTx(self._driver), self.partition, tx.appended)
        self._driver.commit()

    def _lock_fences(self, jobs: Sequence[Job]) -> dict[str, object]:
        """The epoch of every lease that the batch is fenced with; in order, so that two lanes cannot deadlock."""
        lock = "" if self._driver.dialect == "sqlite" else " FOR SHARE"
        epochs: dict[str, object] = {}
        for name in sorted({job.fence.name for job in jobs if job.fence is not None}):
            rows = self._driver.rows(f"SELECT epoch FROM leases WHERE name = ?{lock}", (name,))
            epochs[name] = rows[0][0] if rows else None
        return epochs

    def _member(self, tx: LaneTx, job: Job, epochs: dict[str, object], *, alone: bool) -> None:
        """Run one function. Its failure is its own; where only the whole batch can be undone, the batch is broken."""
        tx.touched = False
        kept_events, kept_debits = len(tx.appended), dict(tx.debits) if tx.debits else {}
        try:
            job.error = None
            if job.fence is not None:
                _check_fence(job.fence, epochs[job.fence.name])
            job.result = job.fn(tx, *job.args)
        except BaseException as error:
            if self._failure(error) is not Failure.MEMBER:
                raise
            del tx.appended[kept_events:]
            tx.debits = kept_debits
            job.error = error
            self._undo_member(tx, alone=alone)
        else:
            if tx.touched and self._driver.savepoints:
                self._driver.run("RELEASE member")

    def _undo_member(self, tx: LaneTx, *, alone: bool) -> None:
        if not tx.touched and self._driver.in_transaction:
            return
        if self._driver.savepoints and self._driver.in_transaction:
            self._driver.run("ROLLBACK TO member")
            self._driver.run("RELEASE member")
            return
        # Some errors roll back everything, and PostgreSQL aborts the transaction: what the others wrote is gone too.
        if alone:
            self._driver.rollback()
            self._driver.begin()
            self._driver.push("UPDATE lanes SET seq = ? WHERE lane = ?", (self._seq, self.name))
            return
        raise _BatchBroken

    def _apply_debits(self, tx: LaneTx, jobs: Sequence[Job]) -> None:
        """Accounts in order, each once, so that two lanes cannot deadlock.

        A sum that leaves nothing below zero is good for each member: what was given or forced counts first, and each
        that takes leaves at least what is there in the end. Any other is for the members one by one to be judged."""
        for account, (amount, refusable) in sorted(tx.debits.items()):
            enough, held = (" AND balance >= ?", (amount,)) if refusable else ("", ())
            sql = f"UPDATE accounts SET balance = balance - ? WHERE name = ?{enough}"
            if self._driver.run(sql, (amount, account, *held)):
                continue
            if len(jobs) > 1:
                raise _BatchBroken
            refused = DebitRefused(f"account {account} does not hold {amount}; credit it or ask for less")
            if not refusable:
                refused = DebitRefused(f"there is no account {account}; open it first")
            raise _BatchBroken from refused

    # --- when something fails ------------------------------------------------------------------------------------

    def _failure(self, error: BaseException) -> Failure:
        if isinstance(error, AdjournError | _BatchBroken):
            return Failure.MEMBER
        return self._driver.classify(error)

    def _survive(self, jobs: list[Job], error: Exception) -> list[Job]:
        """The transaction failed as a whole. Find out what happened; the jobs that must run again."""
        failure = self._failure(error)
        _log.warning("batch_failed", lane=self.name, failure=failure.value, error=str(error), members=len(jobs))
        if failure is Failure.FULL:
            self._undo()
            full = StorageFull(f"the database's disk is full ({error}); nothing was written: free space and send again")
            return self._fail(jobs, full)
        if failure is Failure.CORRUPT:
            self._undo()
            self.detail = f"the database is damaged ({error}); run: adjourn db check"
            return self._fail(jobs, DatabaseCorrupt(self.detail))
        if failure is Failure.REPLAY:
            return self._again(jobs, str(error))
        if failure is Failure.MEMBER:
            return self._break_up(jobs, error)
        return self._resume(jobs, str(error))

    def _again(self, jobs: list[Job], why: str) -> list[Job]:
        """After a deadlock one by one: two batches that lock the same rows in unlike orders would deadlock again."""
        self._undo()
        jobs = self._expire(jobs, why)
        if self._driver.savepoints or len(jobs) == 1:
            return jobs
        for job in jobs:
            self._batch([job])
        return []

    def _break_up(self, jobs: list[Job], error: Exception) -> list[Job]:
        """A statement of the batch's own end failed (a constraint that COMMIT checks): find whose it is."""
        self._undo()
        if len(jobs) == 1:
            return self._fail(jobs, error)
        for job in jobs:
            self._batch([job])
        return []

    def _resume(self, jobs: list[Job], why: str) -> list[Job]:
        """The connection is lost: reconnect, and ask the lane's own row whether this batch was committed."""
        seq = self._reopen_until_it_works(min(job.deadline for job in jobs))
        if seq is None:
            unknown = Unavailable(
                f"the database cannot be reached ({why}); whether this was written is not known: send it again, "
                "what was written already is recognised",
                retry_after_ms=1000,
            )
            return self._fail(jobs, unknown)
        if seq == self._seq:
            self._after_commit()
            return []
        return self._expire(jobs, why)

    def _expire(self, jobs: list[Job], why: str) -> list[Job]:
        now = time.monotonic()
        late = [job for job in jobs if job.deadline <= now]
        self._fail(late, Unavailable(f"the database did not take the write in time ({why}); send again"))
        return [job for job in jobs if job.deadline > now]

    def _fail(self, jobs: Sequence[Job], error: BaseException) -> list[Job]:
        for job in jobs:
            job.error = error
        return []

    def _undo(self) -> None:
        self._appender.discarded(self.partition)
        try:
            self._driver.rollback()
        except Exception:
            self._reopen_until_it_works(time.monotonic() + 1.0)

    def _reopen_until_it_works(self, deadline: float) -> int | None:
        """A new connection and the sequence that the lane's row holds there; None if the deadline passes first."""
        attempt = 0
        while True:
            try:
                self._driver.close()
                self._driver.connect()
                seq = self._driver.settled(self.name)
                if seq is None:  # the row is gone, as after a restored backup: nothing of this batch is there
                    self._enter()
                    seq = 0
            except Exception as error:
                self.detail = f"the database cannot be reached ({error})"
                pause = RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)]
                attempt += 1
                if time.monotonic() + pause > deadline:
                    # What is not settled is not built upon: the next batch begins by settling it.
                    self._driver.close()
                    return None
                time.sleep(pause)
                continue
            self.detail = ""
            return seq

    def _open(self) -> None:
        self._driver.connect()
        self._enter()

    def _enter(self) -> None:
        """Write the lane's own row, by which the outcome of a failed COMMIT is found out."""
        with self._driver.turn():
            self._driver.begin()
            self._driver.run(
                "INSERT INTO lanes (lane, seq, opened_ms) VALUES (?, ?, ?) "
                "ON CONFLICT (lane) DO UPDATE SET seq = excluded.seq",
                (self.name, 0, time.time_ns() // 1_000_000),  # of no batch: this COMMIT may go unanswered too
            )
            self._driver.commit()

    def _rest(self) -> None:
        try:
            self._driver.rest()
        except Exception as error:
            _log.warning("checkpoint_failed", lane=self.name, error=str(error))

    # --- futures -------------------------------------------------------------------------------------------------

    def _resolve(self, jobs: Sequence[Job]) -> None:
        with self._lock:
            self.waiting_events -= sum([job.weight for job in jobs])
            self._running = ()
        tell(jobs)


def _check_fence(fence: Fence, epoch: object) -> None:
    if epoch != fence.epoch:
        raise Fenced(
            f"{fence.name} is at epoch {epoch}, this writer holds {fence.epoch}: another node owns it now; "
            "stop writing and read its state again"
        )
