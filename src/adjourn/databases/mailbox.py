"""From one event loop to the lanes: the writes of one turn of the loop are handed over together, at its end.

A lane that is woken for every single write commits each almost alone, and the two threads spend their time taking the
interpreter lock from each other. Waiting for the end of the turn costs nothing and fills the batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from adjourn.databases.lane import Lane
from adjourn.databases.tx import Job
from adjourn.errors import Unavailable

LOOK_EVERY_S = 1.0


class Mailbox:
    """Of one event loop, used in its thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lanes: Sequence[Lane], late_s: float) -> None:
        """No caller waits longer than `late_s` past its deadline, whatever holds the lane (another process may)."""
        self._loop = loop
        self._lanes = lanes
        self._late_s = late_s
        self._posted: list[list[Job]] = [[] for _ in lanes]
        self._flushing = False
        self._watching = False

    def post(self, lane: int, job: Job) -> None:
        self._posted[lane].append(job)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        for index, jobs in enumerate(self._posted):
            if jobs:
                self._posted[index] = []
                self._lanes[index].submit(jobs)
        if not self._watching:
            self._watching = True
            self._loop.call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        for lane in self._lanes:
            for job in lane.overdue(self._loop, time.monotonic() - self._late_s):
                job.refuse(_given_up())
        self._watching = any(lane.waiting_events for lane in self._lanes)
        if self._watching:
            self._loop.call_later(LOOK_EVERY_S, self._look)


def _given_up() -> Unavailable:
    return Unavailable(
        "the write has waited too long (another process may hold the database); whether it was written is not known: "
        "send it again, what was written already is recognised",
        retry_after_ms=1000,
    )
