"""Values by type, in many threads at once."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from adjourn import typed

MANY_THREADS = """
import sys, threading
from typing import Literal
import msgspec
from adjourn import typed

sys.setswitchinterval(1e-6)
for _ in range(1500):
    class Key(msgspec.Struct, frozen=True):
        id: str
        role: Literal["reader", "writer", "admin", "relay"]
        made: int | None = None

    def convert() -> None:
        barrier.wait()
        assert typed.convert({"id": "a", "role": "admin", "made": 1}, Key) == Key("a", "admin", 1)

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=convert) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


class Point(msgspec.Struct):
    x: int
    y: int = 0


def test_threads_that_use_a_type_for_the_first_time_do_not_crash() -> None:
    """Four threads that meet at a type nobody has used yet all get their values; msgspec alone ends the process."""
    done = subprocess.run([sys.executable, "-c", MANY_THREADS], capture_output=True, timeout=110)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_not_of_the_type_is_refused() -> None:
    """Rows and JSON become values of the type; what does not fit is refused and not bent."""
    assert typed.convert({"x": 1}, Point) == Point(1)
    assert typed.decoder(Point).decode(b'{"x": 1, "y": 2}') == Point(1, 2)
    assert typed.decoder(Point) is typed.decoder(Point)
    with pytest.raises(msgspec.ValidationError):
        typed.convert({"x": "1"}, Point)
