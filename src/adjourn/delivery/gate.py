"""The gate before a destination: whether it may be sent to now. A circuit breaker, as a table of its own.

    state        a sender comes     it was taken   an outage
    closed       goes through       closed         open until the backoff has passed
    open         waits              -              -
    time is up   one goes, probing  closed         open, for longer
    paused       waits              closed         open

Pure: time and chance are handed in.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from adjourn.delivery.retry import backoff_ms

PROBE_MS_MAX = 60_000
"""A probe that has said nothing for so long (its sender was cut off) does not keep others from probing."""


GateState = Literal["closed", "open", "paused"]


class Gate(msgspec.Struct, kw_only=True):
    """`passes` counts what was taken: with it a sender tells whether others passed while one event did not."""

    delay_ms: int
    delay_ms_max: int
    outages: int = 0
    """In a row."""
    passes: int = 0
    opens_at_ms: float | None = None
    """None: closed. On the monotonic clock."""
    probing_until_ms: float = 0.0
    reason: str = ""
    paused: str | None = None
    """Why nothing is sent, until somebody resumes it; None when nothing is paused."""

    @property
    def waiting(self) -> str:
        """Why nothing is delivered now; empty when all is well."""
        if self.paused is not None:
            return f"paused: {self.paused}"
        return self.reason

    @property
    def state(self) -> GateState:
        if self.paused is not None:
            return "paused"
        return "closed" if self.opens_at_ms is None else "open"

    @property
    def closed(self) -> bool:
        """Everybody goes through."""
        return self.paused is None and self.opens_at_ms is None

    def wait_ms(self, now_ms: float) -> float | None:
        """0: go through (and, if it was open, probe for all). Else how long to wait before asking again; None: until
        something changes."""
        if self.paused is not None:
            return None
        if self.opens_at_ms is None:
            return 0
        if now_ms < self.opens_at_ms:
            return self.opens_at_ms - now_ms
        if now_ms < self.probing_until_ms:
            return self.probing_until_ms - now_ms
        self.probing_until_ms = now_ms + PROBE_MS_MAX
        return 0

    def taken(self) -> None:
        self.passes += 1
        self.outages = 0
        self.opens_at_ms = None
        self.probing_until_ms = 0.0
        self.reason = ""

    def failed(self, reason: str, now_ms: float, *, draw: float, retry_after_ms: int | None) -> None:
        """Those that were under way when the gate opened fail too: they do not make it wait longer."""
        if self.opens_at_ms is not None and now_ms < self.opens_at_ms:
            return
        self.outages += 1
        self.opens_at_ms = now_ms + backoff_ms(
            self.outages,
            first_ms=self.delay_ms,
            max_ms=self.delay_ms_max,
            draw=draw,
            retry_after_ms=retry_after_ms,
        )
        self.probing_until_ms = 0.0
        self.reason = reason
