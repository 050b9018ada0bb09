"""SQLite's write-ahead log as a file: where SQLite stops believing it, and what it silently leaves behind there.

Every frame carries a checksum over all before it. At the first that does not fit, SQLite takes the log to end, as after
a crash in the middle of a write, and says nothing. But a crash leaves at most the last transaction unfinished: a whole
one that others follow was synced and acknowledged, and is lost by damage.
See https://sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import msgspec

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
MAGIC = 0x377F0682  # plus 1 where the checksums are over big-endian words
LOOKS_MAX = 5

_WORDS_MASK = 0xFFFFFFFF


class CutOff(msgspec.Struct, frozen=True):
    """`frame` of `frames` is damaged; `commits` transactions that end behind it are not read any more."""

    frame: int
    frames: int
    commits: int


class _Frame(msgspec.Struct, frozen=True):
    commit: bool
    salts: bytes
    intact: bool
    """So are all frames before it."""
    follows: bool
    """It was written on top of the frame that stands before it, whether or not that one is intact."""


def cut_off(path: Path) -> CutOff | None:
    """None for a log that is whole, or merely unfinished, or not there. Only reads, and may be called while others
    write: a log that is begun anew meanwhile is looked at again, and so is a frame that may have been read half-written
    (damage stays where it is)."""
    before: CutOff | None = None
    for _ in range(LOOKS_MAX):
        try:
            with path.open("rb") as file:
                header = file.read(HEADER_BYTES)
                found = _cut_off(file, header) if len(header) == HEADER_BYTES else None
            if found is None:
                return None
            if header == _header(path):
                if before is not None and before.frame == found.frame:
                    return found
                before = found
        except FileNotFoundError:
            return None
    return None


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def _cut_off(file: BufferedReader, header: bytes) -> CutOff | None:
    intact = frames = 0
    commits: list[int] = []
    finished = False
    salts = header[16:24] if _checked(header) else b""
    for number, frame in enumerate(_frames(file, header), start=1):
        frames = number
        salts = salts or frame.salts
        if frame.intact:
            intact = number
        elif frame.salts == salts:  # others are of the log's last round, and were copied into the database
            # What was rolled back may still stand behind the last transaction; nothing was written on top of that yet.
            finished = finished or (commits[-1:] == [number - 1] and frame.follows)
            if frame.commit:
                commits.append(number)
    return CutOff(intact + 1, frames, len(commits)) if finished else None


def _frames(file: BufferedReader, header: bytes) -> Iterator[_Frame]:
    magic, _, page_bytes = struct.unpack_from(">3I", header)
    order = ">" if magic & 1 else "<"
    sums: tuple[int, ...] = struct.unpack_from(">2I", header, 24)
    intact = _checked(header)
    frame_bytes = FRAME_HEADER_BYTES + (page_bytes if intact else _page_bytes(Path(file.name)))
    while len(raw := file.read(frame_bytes)) == frame_bytes > FRAME_HEADER_BYTES:
        _, pages, *checksum = struct.unpack_from(">2I8x2I", raw)
        salts = raw[8:16]
        follows = _summed(order, _summed(order, sums, raw[:8]), raw[FRAME_HEADER_BYTES:]) == tuple(checksum)
        sums = tuple(checksum)
        intact = intact and follows and salts == header[16:24]
        yield _Frame(pages > 0, salts, intact, follows)


def _checked(header: bytes) -> bool:
    """Whether the log's header is as it was written."""
    (magic,) = struct.unpack_from(">I", header)
    order = ">" if magic & 1 else "<"
    return magic in (MAGIC, MAGIC + 1) and _summed(order, (0, 0), header[:24]) == struct.unpack_from(">2I", header, 24)


def _page_bytes(log: Path) -> int:
    """By the database itself, where the log's own header is not to be believed."""
    with log.with_name(log.name.removesuffix("-wal")).open("rb") as file:
        header = file.read(18)
    (found,) = struct.unpack_from(">H", header, 16) if len(header) == 18 else (0,)
    return 65_536 if found == 1 else found


def _summed(order: str, sums: tuple[int, ...], data: bytes) -> tuple[int, int]:
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & _WORDS_MASK
        second = (second + odd + first) & _WORDS_MASK
    return first, second
