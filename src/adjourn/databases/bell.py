"""How a lane's thread sleeps until there is work: a condition would hand its lock over as well, and that is two more
switches between threads for every batch."""

from __future__ import annotations

import queue
from collections.abc import Callable


class Bell:
    """One thread sleeps, any thread rings."""

    def __init__(self) -> None:
        self._asleep = False
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def sleep_until(self, ready: Callable[[], bool]) -> None:
        """`ready` becomes true before `ring` is called. Asleep first, then a look: whoever comes in between rings."""
        while not ready():
            self._asleep = True
            if not ready():
                self._rings.get()
            self._asleep = False

    def ring(self) -> None:
        if self._asleep:
            self._rings.put(None)
