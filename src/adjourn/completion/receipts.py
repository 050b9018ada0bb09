"""Receipts: from `capture`, which returns at once, to what became of the event, whenever somebody asks."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

import msgspec

from adjourn.completion.dedupe import derived_id
from adjourn.errors import Unavailable
from adjourn.events import decode_completion

KEPT_MAX = 10_000
"""How many outcomes other than `accepted` are remembered for receipts that are asked late."""


class Outcome(Protocol):
    """What the receiver says of one event."""

    @property
    def status(self) -> str: ...
    @property
    def event_id(self) -> str | None: ...
    @property
    def message(self) -> str: ...


class Settled(msgspec.Struct, frozen=True):
    """What became of a captured event: `accepted`, `duplicate`, `conflict`, `invalid`, `dropped` (the spool was full
    and set to drop the oldest, or its line was damaged), or `forgotten` (asked after 10,000 others were refused)."""

    status: str
    event_id: str | None = None
    message: str = ""


DROPPED = Settled("dropped", message="the spool dropped it before it was sent; raise capture.spool_mb_max")
FORGOTTEN = Settled("forgotten", message="too many events were refused since to remember this one; look up its id")


class Receipt(NamedTuple):
    """The event is in the spool: it survives this process. `durable()` says when it is in the log, too."""

    producer: str
    sequence: int
    body: bytes
    """The event's JSON as it was captured."""
    desk: ReceiptDesk

    @property
    def event_id(self) -> str | None:
        """The event's own id, or the one that it gets from its session; found out when it is asked for. None if the
        event breaks the schema, or has no id and goes to a server: that one's answer to `durable()` has it."""
        try:
            event = decode_completion(self.body)
        except (ValueError, ArithmeticError, RecursionError):
            return None
        if event.event_id is None and self.desk.tenant is not None:
            return derived_id(self.desk.tenant, event)
        return event.event_id

    def durable(self) -> Awaitable[Settled]:
        """Wait until the event is in the log or refused into quarantine. From any event loop.

        Raises Unavailable if the runtime stops first: the event is then still in the spool, for the next start."""
        return asyncio.wrap_future(self.desk.future(self))

    def result(self, timeout_s: float | None = None) -> Settled:
        """The same, for threads without a loop. Raises TimeoutError."""
        return self.desk.future(self).result(timeout_s)

    def __repr__(self) -> str:
        return f"Receipt(producer={self.producer!r}, sequence={self.sequence})"  # events do not belong into logs


class ReceiptDesk:
    """Thread-safe. Costs nothing for events whose receipt nobody asks."""

    def __init__(self, tenant: str | None = None) -> None:
        """`tenant`: whose events they are; None where a server says that."""
        self.tenant = tenant
        self._lock = threading.Lock()
        self._settled_to: dict[str, int] = {}
        self._refused: OrderedDict[tuple[str, int], Settled] = OrderedDict()
        self._dropped: dict[str, deque[tuple[int, int]]] = {}  # first and last of each gap
        self._forgotten_to: dict[str, int] = {}
        self._waiting: dict[str, dict[int, list[Future[Settled]]]] = {}
        self._closing: Unavailable | None = None

    def future(self, receipt: Receipt) -> Future[Settled]:
        producer, sequence = receipt.producer, receipt.sequence
        future: Future[Settled] = Future()
        with self._lock:
            if sequence <= self._settled_to.get(producer, 0):
                outcome = self._other_than_accepted(producer, sequence)
                future.set_result(outcome or Settled("accepted", receipt.event_id))
            elif self._closing is not None:
                future.set_exception(self._closing)
            else:
                self._waiting.setdefault(producer, {}).setdefault(sequence, []).append(future)
        return future

    def settle(self, producer: str, sequences: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        """Everything of `producer` up to the last of `sequences` is decided; what is missing among them was dropped."""
        if not sequences:
            return
        last = sequences[-1]
        told = list(zip(sequences, outcomes, strict=True))
        with self._lock:
            for first_missing, last_missing in _gaps(self._settled_to.get(producer, 0) + 1, sequences):
                self._drop(producer, first_missing, last_missing)
            for sequence, outcome in told:
                if outcome.status != "accepted":
                    self._refuse(producer, sequence, Settled(outcome.status, outcome.event_id, outcome.message))
            self._settled_to[producer] = last
            due = self._due(producer, last, told)
        for future, settled in due:
            if future.set_running_or_notify_cancel():
                future.set_result(settled)

    def close(self) -> None:
        """The runtime stops: nobody will be told any more."""
        with self._lock:
            self._closing = closing = Unavailable(
                "the runtime was stopped; the event is still in the spool and is sent at the next start"
            )
            waiting, self._waiting = self._waiting, {}
        for futures in (futures for by_sequence in waiting.values() for futures in by_sequence.values()):
            for future in futures:
                if future.set_running_or_notify_cancel():
                    future.set_exception(closing)

    def leave_to_parent(self) -> None:
        """In the child of a fork: the events are the parent's to send, and nobody here will hear of them."""
        self._lock = threading.Lock()
        self._waiting = {}
        self._closing = Unavailable("the event was captured before a fork; ask its receipt in the parent process")

    def _due(
        self, producer: str, last: int, told: Sequence[tuple[int, Outcome]]
    ) -> list[tuple[Future[Settled], Settled]]:
        waiting = self._waiting.get(producer)
        if not waiting:
            return []
        by_sequence = dict(told)
        due: list[tuple[Future[Settled], Settled]] = []
        for sequence in [sequence for sequence in waiting if sequence <= last]:
            outcome = by_sequence.get(sequence)
            settled = Settled(outcome.status, outcome.event_id, outcome.message) if outcome else DROPPED
            due.extend((future, settled) for future in waiting.pop(sequence))
        return due

    def _other_than_accepted(self, producer: str, sequence: int) -> Settled | None:
        refused = self._refused.get((producer, sequence))
        if refused is not None:
            return refused
        if any(first <= sequence <= last for first, last in self._dropped.get(producer, ())):
            return DROPPED
        return FORGOTTEN if sequence <= self._forgotten_to.get(producer, 0) else None

    def _refuse(self, producer: str, sequence: int, outcome: Settled) -> None:
        self._refused[(producer, sequence)] = outcome
        if len(self._refused) > KEPT_MAX:
            (forgotten_producer, forgotten), _ = self._refused.popitem(last=False)
            self._forget(forgotten_producer, forgotten)

    def _drop(self, producer: str, first: int, last: int) -> None:
        gaps = self._dropped.setdefault(producer, deque())
        gaps.append((first, last))
        if len(gaps) > KEPT_MAX:
            self._forget(producer, gaps.popleft()[1])

    def _forget(self, producer: str, sequence: int) -> None:
        self._forgotten_to[producer] = max(sequence, self._forgotten_to.get(producer, 0))


def _gaps(expected: int, sequences: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of the numbers that are missing: `_gaps(3, [5, 6, 9])` → (3, 4), (7, 8)."""
    if sequences[-1] - expected + 1 == len(sequences):
        return
    for sequence in sequences:
        if sequence > expected:
            yield expected, sequence - 1
        expected = max(expected, sequence + 1)
