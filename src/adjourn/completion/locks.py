"""Whose a stream is, and how much a spool directory holds: names of files, locks on them, and what fork does to both.

A stream's owner holds the flock of `<producer>.lock` for as long as it lives: it alone may append to it, read it and
delete it. The kernel releases the lock at the owner's death, and the next to ask adopts the stream. A lock file's
size, times RESERVATION_UNIT_BYTES, is what its owner may fill: a promise that others can stat.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from contextlib import suppress
from typing import NamedTuple, Protocol
from weakref import WeakSet

RESERVATION_UNIT_BYTES = 4096

_SEGMENT_NAME = re.compile(r"([0-9a-f]{24})-([0-9]{12,20})\.jsonl")
_LOCK_NAME = re.compile(r"([0-9a-f]{24})\.lock")


def segment_name(producer: str, first_sequence: int) -> str:
    return f"{producer}-{first_sequence:012d}.jsonl"


def lock_name(producer: str) -> str:
    return f"{producer}.lock"


def producers(directory: str) -> set[str]:
    """Every producer that has a file in the directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return set()
    matches = (_SEGMENT_NAME.fullmatch(name) or _LOCK_NAME.fullmatch(name) for name in names)
    return {match[1] for match in matches if match is not None}


def segment_paths(directory: str, producer: str) -> list[str]:
    """The producer's segments, oldest first."""
    matches = (_SEGMENT_NAME.fullmatch(name) for name in os.listdir(directory))
    own = sorted((match for match in matches if match is not None and match[1] == producer), key=lambda m: int(m[2]))
    return [os.path.join(directory, match.string) for match in own]


# --- descriptors: the child of a fork must close every one, or it keeps its dead parent's flock alive


class Forkable(Protocol):
    def reset_after_fork(self) -> None:
        """Forget the parent's files and locks. Runs in the child, where no other thread exists."""
        ...


descriptors = threading.RLock()
"""Held while a descriptor is opened or closed, and by fork: so a child knows each descriptor that it inherited."""

_open_descriptors: set[int] = set()
_forkables: WeakSet[Forkable] = WeakSet()


def open_file(path: str, flags: int) -> int:
    with descriptors:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        _open_descriptors.add(descriptor)
        return descriptor


def close_file(descriptor: int) -> None:
    with descriptors:
        _open_descriptors.discard(descriptor)
        os.close(descriptor)


def register_forkable(item: Forkable) -> None:
    with descriptors:
        _forkables.add(item)


def _after_fork_in_child() -> None:
    try:
        for descriptor in _open_descriptors:
            # This does not unlock: the open file description, and the lock on it, live on in the parent.
            with suppress(OSError):
                os.close(descriptor)
        _open_descriptors.clear()
        for item in list(_forkables):
            item.reset_after_fork()
    finally:
        descriptors.release()


os.register_at_fork(
    before=descriptors.acquire, after_in_parent=descriptors.release, after_in_child=_after_fork_in_child
)


# --- who owns a stream, and how much there is


def take_lock(directory: str, producer: str) -> int | None:
    """The descriptor of the producer's lock file, locked; None if another holds it or has just removed it."""
    path = os.path.join(directory, lock_name(producer))
    with descriptors:
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed the file between our open and our lock: then we hold a ghost.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        close_file(descriptor)
        return None


def release_lock(directory: str, producer: str, descriptor: int, *, remove: bool) -> None:
    """Remove first, then unlock: whoever opened the file before sees that the name is gone."""
    if remove:
        unlink_file(os.path.join(directory, lock_name(producer)))
    close_file(descriptor)


class Usage(NamedTuple):
    bytes: int
    segments: int
    charged_bytes: int
    """Bytes of segments, or what their owners have reserved where that is more."""


def measure(directory: str, *, without: str = "") -> Usage:
    """What the spool directory holds, leaving out the producer `without`."""
    written: dict[str, int] = {}
    reserved: dict[str, int] = {}
    segments = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            is_segment = _SEGMENT_NAME.fullmatch(entry.name)
            name = is_segment or _LOCK_NAME.fullmatch(entry.name)
            if name is None or name[1] == without:
                continue
            try:
                size = entry.stat().st_size
            except FileNotFoundError:
                continue
            if is_segment:
                segments += 1
                written[name[1]] = written.get(name[1], 0) + size
            else:
                reserved[name[1]] = size * RESERVATION_UNIT_BYTES
    charged = sum(max(written.get(producer, 0), reserved.get(producer, 0)) for producer in written | reserved)
    return Usage(sum(written.values()), segments, charged)


def unlink_file(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # an operator was faster
