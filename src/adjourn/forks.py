"""What must not cross a fork: connections to SQLite files.

SQLite keeps in memory which locks its process holds. A child has that memory and not the locks: it would read and
write unlocked, and its parent's last close would take the write-ahead log away under it. So fork waits until each
connection is at rest and closes it; the parent opens it again when it is next used, and the child its own.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

WAIT_S = 5.0
"""How long fork waits for one connection, all in all: a stuck disk must not hang the program that forks."""

_guards: WeakValueDictionary[int, Guard] = WeakValueDictionary()
_numbers = itertools.count()
_registry = threading.RLock()
_held: list[Guard] = []


class Guard:
    """Of one connection: hold it (`with guard:`) while the connection is used. `rest` closes the connection, and is
    called with the guard held; `forget` drops in the child what else came along. Guards are taken oldest first."""

    def __init__(self, rest: Callable[[], None], forget: Callable[[], None]) -> None:
        self.rest = rest
        self.forget = forget
        self.lock = threading.RLock()
        with _registry:
            _guards[next(_numbers)] = self

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def _nothing() -> None:
    return


opening = Guard(_nothing, _nothing)
"""Held while a database is opened, migrated and checked: many connections, each for a moment."""


def _before() -> None:
    _registry.acquire()
    for guard in list(_guards.values()):
        if guard.lock.acquire(timeout=WAIT_S):
            _held.append(guard)
            guard.rest()


def _after_in_parent() -> None:
    while _held:
        _held.pop().lock.release()
    _registry.release()


def _after_in_child() -> None:
    for guard in list(_guards.values()):
        guard.forget()
    for guard in list(_guards.values()):
        guard.lock = threading.RLock()  # one that was not taken is held by a thread that is not here
    _held.clear()
    _registry.release()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
