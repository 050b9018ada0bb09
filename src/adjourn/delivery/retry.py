"""How long to wait before trying again. Pure."""

from __future__ import annotations


def backoff_ms(attempt: int, *, first_ms: int, max_ms: int, draw: float, retry_after_ms: int | None = None) -> int:
    """Full jitter: a `draw` from [0, 1) spreads the wait over (0, first · 2^(attempt-1)], at most `max_ms`; `attempt`
    counts from 1. A destination that says how long to wait (`retry_after_ms`) is given at least that.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015."""
    ceiling = min(max_ms, first_ms * 2 ** min(attempt - 1, 30))
    wait = max(1, round(ceiling * draw))
    return wait if retry_after_ms is None else max(wait, retry_after_ms)
