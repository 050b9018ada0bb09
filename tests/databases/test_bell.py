"""A thread that sleeps is woken by whatever was made ready before the ring, and never misses one."""

from __future__ import annotations

import threading
from collections import deque

from adjourn.databases.bell import Bell


def test_no_ring_is_missed() -> None:
    """Two threads that hand work to a third as fast as they can: all of it arrives, and the sleeper does not hang."""
    bell, work, done = Bell(), deque[int](), list[int]()
    count = 20_000

    def sleeper() -> None:
        while len(done) < 2 * count:
            bell.sleep_until(lambda: bool(work))
            done.append(work.popleft())

    def worker() -> None:
        for number in range(count):
            work.append(number)
            bell.ring()

    threads = [threading.Thread(target=target, daemon=True) for target in (sleeper, worker, worker)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(done) == sorted([*range(count), *range(count)])


def test_what_is_ready_needs_no_ring() -> None:
    """Who finds work does not sleep."""
    Bell().sleep_until(lambda: True)
