"""What became of each event of a stretch of the log, packed: one letter and a length a run. Pure.

`d` delivered, `f` filtered, `s` sampled out, `p` parked, `x` dead letter, `c` discarded, `l` lost with a damaged block.
"""

from __future__ import annotations

import re
from typing import Literal, cast

Fate = Literal["d", "f", "s", "p", "x", "c", "l"]

NAMES: dict[str, str] = {
    "d": "delivered",
    "f": "filtered",
    "s": "sampled_out",
    "p": "parked",
    "x": "dead_lettered",
    "c": "discarded",
    "l": "lost",
}
_RUN = re.compile(rb"([dfspxcl])(\d*)")


def packed(fates: str) -> bytes:
    """`dddsd` → `d3sd`"""
    return b"".join(
        found[0][0].encode() + (str(len(found[0])).encode() if len(found[0]) > 1 else b"")
        for found in re.finditer(r"(.)\1*", fates)
    )


def fate_at(runs: bytes, index: int) -> Fate:
    """Of the event at `index`. Raises IndexError."""
    for letter, length in _RUN.findall(runs):
        index -= int(length or 1)
        if index < 0:
            return cast(Fate, letter.decode())
    raise IndexError("there are fewer events in these runs")


def joined(first: bytes, second: bytes) -> bytes:
    """The runs of two stretches that follow one another; where they meet, equal letters become one run."""
    *before, (letter, length) = _RUN.findall(first)
    (following, more), *after = _RUN.findall(second)
    if letter != following:
        return first + second
    run = letter + str(int(length or 1) + int(more or 1)).encode()
    return b"".join([b"".join(pair) for pair in before] + [run] + [b"".join(pair) for pair in after])
