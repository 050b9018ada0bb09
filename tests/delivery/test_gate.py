from __future__ import annotations

from adjourn.delivery.gate import PROBE_MS_MAX, Gate


def gate() -> Gate:
    return Gate(delay_ms=100, delay_ms_max=1_000)


def failed(one: Gate, now_ms: float, retry_after_ms: int | None = None) -> None:
    one.failed("away", now_ms, draw=0.999999, retry_after_ms=retry_after_ms)


def test_after_an_outage_one_probes_for_all() -> None:
    """Nobody goes through until the backoff has passed; then one does, and the rest wait for what it learns."""
    one = gate()
    assert one.wait_ms(0) == 0
    failed(one, 0)
    assert one.wait_ms(40) == 60
    assert one.waiting == "away"
    assert one.wait_ms(100) == 0
    assert one.wait_ms(100) == PROBE_MS_MAX
    one.taken()
    assert (one.wait_ms(100), one.waiting, one.passes) == (0, "", 1)


def test_each_outage_in_a_row_doubles_the_wait() -> None:
    """100, 200, 400, 800, then the most that is allowed; something that was taken begins anew."""
    one, now_ms, waits = gate(), 0.0, list[float]()
    for _ in range(6):
        failed(one, now_ms)
        wait_ms = one.wait_ms(now_ms)
        assert wait_ms is not None
        waits.append(wait_ms)
        now_ms += wait_ms
        assert one.wait_ms(now_ms) == 0
    assert waits == [100, 200, 400, 800, 1_000, 1_000]
    one.taken()
    failed(one, now_ms)
    assert one.wait_ms(now_ms) == 100


def test_many_that_fail_together_are_one_outage() -> None:
    """What was under way when the gate opened does not make it wait longer."""
    one = gate()
    for _ in range(50):
        failed(one, 10)
    assert (one.outages, one.wait_ms(10)) == (1, 100)


def test_a_destination_that_says_how_long_is_given_that() -> None:
    """Retry-After is kept to, beyond the longest delay of its own."""
    one = gate()
    failed(one, 0, retry_after_ms=30_000)
    assert one.wait_ms(0) == 30_000


def test_a_probe_that_never_says_anything_keeps_nobody_for_ever() -> None:
    """After a minute another one may probe."""
    one = gate()
    failed(one, 0)
    assert one.wait_ms(100) == 0
    assert one.wait_ms(100 + PROBE_MS_MAX) == 0


def test_a_paused_destination_waits_for_somebody() -> None:
    """No time opens it; what is taken meanwhile (it was under way) changes nothing."""
    one = gate()
    one.paused = "maintenance"
    assert one.wait_ms(10**9) is None
    one.taken()
    assert (one.wait_ms(10**9), one.waiting) == (None, "paused: maintenance")
    one.paused = None
    assert one.wait_ms(10**9) == 0
