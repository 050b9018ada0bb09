"""What a disk would hold if the power failed now: the proof that a commit which was acknowledged was also synced.

SIGKILL cannot show it: the page cache survives the process. `PowerCut` records every write that SQLite has not yet
synced, and writes out the files as they would be found after the power came back.
"""

from __future__ import annotations

import enum
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from adjourn.testing.sqlite_vfs import OK, Interposer, SqliteFile

SECTOR_BYTES = 512

# How much of the cache the disk writes at once, in sectors: one sector tears pages, larger pieces reorder them whole.
_PIECES = (1, 8, 64)


class _State(enum.Enum):
    PENDING = enum.auto()
    SYNCED = enum.auto()
    # Its sync failed. Linux then marks the page clean, so no later sync writes it again: it may be gone, or not.
    LOST = enum.auto()


@dataclass(slots=True)
class _Change:
    """`data` written at `offset`; without data, the file truncated to `offset` bytes."""

    offset: int
    data: bytes | None
    state: _State = _State.PENDING


@dataclass(slots=True)
class _Tracked:
    inode: int
    base: bytearray  # what is on the disk for certain
    changes: list[_Change] = field(default_factory=list[_Change])  # what came after, oldest first

    def size(self) -> int:
        size = len(self.base)
        for change in self.changes:
            size = _size_after(size, change)
        return size

    def settle(self) -> None:
        """Move what is certain into the base. A lost change keeps later ones waiting: it may lie underneath them."""
        count = 0
        while count < len(self.changes) and self.changes[count].state is _State.SYNCED:
            _apply(self.base, self.changes[count])
            count += 1
        del self.changes[:count]


class PowerCut(Interposer):
    """Tracks what SQLite has written and synced under `directory`; `image` gives what a power cut now would leave.

    Install it before the database is opened: what a file holds when it is first opened counts as durable, and so do the
    creation and the deletion of files. Files that SQLite does not open in this process are not part of an image; the
    `-shm` file never is.
    """

    outermost: ClassVar[bool] = True

    def __init__(self, directory: Path | str) -> None:
        super().__init__(directory)
        self._lock = threading.Lock()
        self._tracked: dict[Path, _Tracked] = {}

    def image(self, target: Path | str, *, keep: Literal["none", "random"], seed: int = 0) -> None:
        """Write into `target` (new or empty) what the disk would hold if the power failed now.

        `none` keeps synced bytes alone. `random` adds a part of what was never synced, chosen by `seed`: torn at 512
        bytes, in any order, with each sector as it stood at some moment since its last sync. May be called from any
        thread, also from a callback inside a sync. Raises FileExistsError if `target` holds anything.
        """
        target = Path(target)
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise FileExistsError(f"{target} is not empty; give each image a directory of its own")
        rng = random.Random(seed)
        with self._lock:
            files = {
                path.relative_to(self.directory): _synced(each) if keep == "none" else _survivors(each, rng)
                for path, each in sorted(self._tracked.items())
            }
        for name, content in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)

    def opened(self, file: SqliteFile) -> None:
        inode = os.stat(file.path).st_ino
        with self._lock:
            known = self._tracked.get(file.path)
            # Replaced behind SQLite's back (a restored backup): what is there now is the truth.
            if known is None or (known.inode, known.size()) != (inode, file.size()):
                self._tracked[file.path] = _Tracked(inode, bytearray(file.read(0, file.size())))

    def deleted(self, path: Path) -> None:
        with self._lock:
            self._tracked.pop(path, None)

    def write(self, file: SqliteFile, offset: int, data: bytes, proceed: Callable[[int], int]) -> int:
        tracked = self._of(file)
        code = proceed(len(data))
        if code != OK:
            # A failed write may have written a part: a full disk takes what still fits.
            data = file.read(offset, max(0, min(len(data), file.size() - offset)))
        if data:
            with self._lock:
                tracked.changes.append(_Change(offset, data))
        return code

    def truncate(self, file: SqliteFile, size: int, proceed: Callable[[], int]) -> int:
        tracked = self._of(file)
        code = proceed()
        if code == OK:
            with self._lock:
                tracked.changes.append(_Change(size, None))
        return code

    def sync(self, file: SqliteFile, proceed: Callable[[], int]) -> int:
        tracked = self._of(file)
        with self._lock:
            # Only what was written before the sync began is promised by it.
            waiting = [change for change in tracked.changes if change.state is _State.PENDING]
        code = proceed()
        with self._lock:
            for change in waiting:
                if change.state is _State.PENDING:
                    change.state = _State.SYNCED if code == OK else _State.LOST
            tracked.settle()
        return code

    def _of(self, file: SqliteFile) -> _Tracked:
        if file.path not in self._tracked:
            self.opened(file)
        return self._tracked[file.path]


def _size_after(size: int, change: _Change) -> int:
    return change.offset if change.data is None else max(size, change.offset + len(change.data))


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _apply(content: bytearray, change: _Change) -> None:
    _resize(content, _size_after(len(content), change))
    if change.data is not None:
        content[change.offset : change.offset + len(change.data)] = change.data


def _synced(tracked: _Tracked) -> bytes:
    """The base and what was synced after it; nothing that was not."""
    content = bytearray(tracked.base)
    for change in tracked.changes:
        if change.state is _State.SYNCED:
            _apply(content, change)
    return bytes(content)


def _survivors(tracked: _Tracked, rng: random.Random) -> bytes:
    """The base, what was synced after it, and a random part of the rest.

    The disk holds each piece of the file as the cache had it at some instant since its last sync, and the file's size
    as of some other instant. So each piece, and the size, gets its own number of changes that it has seen.
    """
    changes = tracked.changes
    seen_least = max((i + 1 for i, change in enumerate(changes) if change.state is _State.SYNCED), default=0)
    seen_by_size = rng.randint(seen_least, len(changes))
    piece_bytes = rng.choice(_PIECES) * SECTOR_BYTES
    seen_by_piece: dict[int, int] = {}
    content = bytearray(tracked.base)
    size = len(content)
    for i, change in enumerate(changes):
        lost = change.state is _State.LOST and rng.random() < 0.5
        if i < seen_by_size and not lost:
            size = _size_after(size, change)
            if change.data is None:
                _resize(content, size)
        for start, data in _pieces(change, piece_bytes):
            piece = start // piece_bytes
            if piece not in seen_by_piece:
                seen_by_piece[piece] = rng.randint(seen_least, len(changes))
            if i < seen_by_piece[piece] and not (change.state is _State.LOST and rng.random() < 0.5):
                _apply(content, _Change(start, data))
    _resize(content, size)
    return bytes(content)


def _pieces(change: _Change, piece_bytes: int) -> Sequence[tuple[int, bytes]]:
    """A write, cut where the pieces of the file meet."""
    if change.data is None:
        return []
    pieces: list[tuple[int, bytes]] = []
    at = 0
    while at < len(change.data):
        length = piece_bytes - (change.offset + at) % piece_bytes
        pieces.append((change.offset + at, change.data[at : at + length]))
        at += length
    return pieces
