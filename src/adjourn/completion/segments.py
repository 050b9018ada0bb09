"""A stream's records on disk, and reading them back while they are written or after their writer died.

A stream is what one process wrote in one life: segments `<producer>-<first sequence>.jsonl`. A line is one record:

    {"crc":"9c1e88d2","n":17,"event":{"event_type":"session.completed", ...}}

`crc` is CRC-32 over the event's bytes followed by the digits of `n`; `n` counts the producer's records from 1, growing
but not always dense: a write that failed leaves its number unused. `locks.py` says who may read a stream.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from adjourn.completion.locks import (
    close_file,
    open_file,
    producers,
    register_forkable,
    release_lock,
    segment_paths,
    take_lock,
    unlink_file,
)
from adjourn.errors import AdjournError, StorageFull, Unavailable

READ_BYTES = 256 * 1024
IDLE_SECONDS = 1.0

CUT_MARK = b"#cut"
"""Ends a line whose write was cut short. Without it, a record that lacked only its newline would come back to life
when the next write supplies one, although its caller was told that it was refused."""

_HEAD = b'{"crc":"'
_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PLACE_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_EVENT = b',"event":'


# --- records: bytes in, values out


def encode_record(sequence: int, event: bytes) -> bytes:
    number = b"%d" % sequence
    return b'{"crc":"%08x","n":%b,"event":%b}\n' % (crc32(number, crc32(event)), number, event)


def decode_record(line: bytes) -> tuple[int, bytes] | str:
    """`(sequence, event)` of one line without its newline, or the reason why it is not a record."""
    if line.endswith(CUT_MARK):
        return "cut short while it was written"
    event_at = line.find(_EVENT, 23, 60)
    if not line.startswith(_HEAD) or line[16:22] != b'","n":' or event_at < 0 or not line.endswith(b"}"):
        return "not a spool record"
    number = line[22:event_at]
    event = line[event_at + len(_EVENT) : -1]
    if line[8:16] != b"%08x" % crc32(number, crc32(event)):
        return "the checksum does not match"
    if not number.isdigit():
        return "not a spool record"
    return int(number), event


# --- reading


@dataclass(slots=True, eq=False)
class Segment:
    path: str
    bytes: int = 0
    records: int = 0
    sealed: bool = True
    """Nothing will be appended to it any more."""
    reading: bool = False
    end: int | None = None
    """Once it is read to its end: how many lines of the stream were read by then."""


class Chunk(NamedTuple):
    producer: str
    records: list[tuple[int, bytes]]
    """(sequence, the event's JSON), in order."""
    torn: list[tuple[bytes, str]]
    """(the bytes of a line that is no record, why): to be quarantined before the chunk is acknowledged."""
    end: int
    """What to hand to `ack` when every record and every torn line of this and earlier chunks is safe."""


class Stream:
    """One producer's records, in order, from where this reader stopped. Nothing of its position is on disk: after a
    crash the next reader begins at the first remaining segment, and the log knows (producer, sequence) again."""

    def __init__(self, producer: str, segments: deque[Segment], lock: threading.Lock) -> None:
        self.producer = producer
        self._segments = segments
        self._lock = lock  # guards `_segments`, which a writer may share; held for moments only
        self._turn = threading.Lock()  # one reader at a time
        self._closed = False
        self._segment: Segment | None = None
        self._descriptor = -1
        self._offset = 0
        self._unfinished = b""
        self._lines: deque[bytes] = deque()
        self._lines_taken = 0
        self._lines_acked = 0
        self._sequence = 0
        register_forkable(self)

    @property
    def finished(self) -> bool:
        """All was acknowledged and deleted, or the stream was given up."""
        return self._closed

    def read(self, records_max: int, bytes_max: int) -> Chunk:
        """The next records, at most so many (but one, if there is one, however long it is). Empty: nothing new now."""
        records: list[tuple[int, bytes]] = []
        torn: list[tuple[bytes, str]] = []
        with self._turn:
            room = bytes_max
            while room > 0 and len(records) + len(torn) < records_max and (self._lines or self._fill()):
                line = self._lines.popleft()
                room -= len(line)
                record = decode_record(line)
                if isinstance(record, tuple) and record[0] <= self._sequence:
                    record = f"record {record[0]} comes after record {self._sequence}"
                if isinstance(record, tuple):
                    self._sequence = record[0]
                    records.append(record)
                else:
                    torn.append((line.removesuffix(CUT_MARK), record))
            if not records and not torn and not self._closed:
                self._delete_acknowledged()
                self._rest()
            return Chunk(self.producer, records, torn, self._lines_taken - len(self._lines))

    def ack(self, end: int) -> None:
        """Everything up to `Chunk.end` is safe elsewhere; segments that hold nothing else are deleted."""
        with self._turn:
            if self._closed:
                return  # what remains on disk may be another's by now
            self._lines_acked = max(self._lines_acked, min(end, self._lines_taken - len(self._lines)))
            self._delete_acknowledged()
            self._rest()

    def close(self) -> None:
        """Give the stream up. What was not acknowledged stays on disk for whoever takes it next."""
        with self._turn:
            if not self._closed:
                self._close()

    def reset_after_fork(self) -> None:
        # It is the parent's stream: in the child it reads nothing and deletes nothing.
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._closed = True
        self._segments = deque[Segment]()
        self._segment = None
        self._descriptor = -1
        self._lines.clear()

    def _fill(self) -> bool:
        """Take the next lines from disk. False if there are none now."""
        while not self._closed and (self._segment or self._open_next()):
            segment = self._segment
            assert segment is not None
            # Asked before reading: what a sealed segment does not show then, it never will.
            sealed = segment.sealed
            block = os.pread(self._descriptor, READ_BYTES, self._offset)
            if block:
                self._offset += len(block)
                *lines, self._unfinished = (self._unfinished + block).split(b"\n")
            elif sealed:
                lines = [self._unfinished + CUT_MARK] if self._unfinished else []
            else:
                return False
            self._lines_taken += len(lines)
            self._lines.extend(lines)
            if not block:
                segment.end = self._lines_taken
                self._leave_segment()
                self._delete_acknowledged()
            if lines:
                return True
        return False

    def _open_next(self) -> bool:
        with self._lock:
            for segment in self._segments:
                if segment.end is not None:
                    continue
                segment.reading = True
                try:
                    self._descriptor = open_file(segment.path, os.O_RDONLY)
                except FileNotFoundError:  # an operator removed it
                    segment.end = self._lines_taken
                    continue
                self._segment = segment
                return True
        return False

    def _leave_segment(self) -> None:
        if self._descriptor >= 0:
            close_file(self._descriptor)
        self._segment, self._descriptor, self._offset, self._unfinished = None, -1, 0, b""

    def _delete_acknowledged(self) -> None:
        while True:
            with self._lock:
                segment = self._segments[0] if self._segments else None
            if segment is None or segment.end is None or segment.end > self._lines_acked:
                return
            unlink_file(segment.path)  # outside the lock: freeing a large file takes milliseconds, and captures wait
            with self._lock:
                self._segments.popleft()
                self._deleted(segment)

    def _drained(self) -> bool:
        """All that was read is acknowledged, and nothing of it is left in memory."""
        return not self._lines and not self._unfinished and self._lines_acked == self._lines_taken

    def _close(self) -> None:
        self._leave_segment()
        self._lines_taken -= len(self._lines)
        self._lines.clear()
        self._closed = True

    def _deleted(self, segment: Segment) -> None:
        """Called under `_lock` after a segment was deleted."""

    def _rest(self) -> None:
        """Called after an acknowledgement, and after a read that had nothing to give."""


class LiveStream(Stream):
    """The stream that this process is writing."""

    def __init__(
        self,
        producer: str,
        segments: deque[Segment],
        lock: threading.Lock,
        *,
        seal_bytes: int,
        seal_if_drained: Callable[[int], None],
        deleted: Callable[[Segment], None],
    ) -> None:
        """Shares `segments` and `lock` with its writer, which gives the two functions."""
        super().__init__(producer, segments, lock)
        self._seal_if_drained = seal_if_drained
        self._tell_deleted = deleted
        self._seal_bytes = seal_bytes
        self._quiet_lines = 0
        self._quiet_since = time.monotonic()

    def _rest(self) -> None:
        """Seal the open segment once all of it is acknowledged and it is large, or quiet for a while: what is deleted
        needs not be read again after a crash."""
        now = time.monotonic()
        if self._quiet_lines != self._lines_taken:
            self._quiet_lines, self._quiet_since = self._lines_taken, now
        segment = self._segment
        if segment is None or segment.sealed or self._offset == 0 or not self._drained():
            return
        if self._offset >= self._seal_bytes or now - self._quiet_since >= IDLE_SECONDS:
            self._seal_if_drained(self._offset)

    def _deleted(self, segment: Segment) -> None:
        self._tell_deleted(segment)

    def _close(self) -> None:
        if self._drained():
            self._fill()  # the writer has sealed the last segment: pass its end, so that it is deleted
        super()._close()


class AdoptedStream(Stream):
    """The stream of a dead process, held by this one."""

    def __init__(self, directory: str, producer: str, descriptor: int, segments: list[Segment]) -> None:
        super().__init__(producer, deque(segments), threading.Lock())
        self._directory = directory
        self._lock_descriptor = descriptor

    def _deleted(self, segment: Segment) -> None:
        if not self._segments and not self._closed:
            self._close()

    def _close(self) -> None:
        super()._close()
        release_lock(self._directory, self.producer, self._lock_descriptor, remove=not self._segments)


class SpoolReader:
    """The streams that this process may read: its own live one, and those that it adopted from dead processes."""

    def __init__(self, directory: str | os.PathLike[str], *, own: Callable[[], Stream | None] | None = None) -> None:
        """`own` gives the live stream of this process's writer: `SpoolReader(d, own=spool.live_stream)`."""
        self._directory = os.fspath(directory)
        self._own = own
        self._adopted: dict[str, AdoptedStream] = {}
        register_forkable(self)

    def claim(self) -> list[Stream]:
        """Every stream to be read now, own first. Looks for orphans each time: one scan and a lock try per stranger."""
        own = self._own() if self._own is not None else None
        streams: list[Stream] = [own] if own is not None and not own.finished else []
        self._adopted = {name: stream for name, stream in self._adopted.items() if not stream.finished}
        held = {stream.producer for stream in streams} | self._adopted.keys()
        for producer in producers(self._directory) - held:
            stream = self._adopt(producer)
            if stream is not None:
                self._adopted[producer] = stream
        return [*streams, *self._adopted.values()]

    def knows_own(self, streams: Sequence[Stream]) -> bool:
        """Whether the own live stream, if it has begun, is among `streams`."""
        own = self._own() if self._own is not None else None
        return own is None or own.finished or own in streams

    def close(self) -> None:
        """Release what was adopted; idempotent. The own stream is its writer's to close."""
        for stream in self._adopted.values():
            stream.close()
        self._adopted = {}

    def reset_after_fork(self) -> None:
        self._adopted = {}

    def _adopt(self, producer: str) -> AdoptedStream | None:
        try:
            descriptor = take_lock(self._directory, producer)
        except OSError:
            return None  # another user's, or nothing can be created now: the next claim tries again
        if descriptor is None:
            return None
        # Listed under the lock: before it, another adopter may have been deleting.
        found = segment_paths(self._directory, producer)
        if not found:
            release_lock(self._directory, producer, descriptor, remove=True)
            return None
        os.ftruncate(descriptor, 0)
        segments = [Segment(path) for path in found]
        return AdoptedStream(self._directory, producer, descriptor, segments)


def make_directory(path: str) -> None:
    """Raises Unavailable, StorageFull."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise storage_error(error) from error


def storage_error(error: OSError) -> AdjournError:
    """Why the spool cannot be written, and what to do about it."""
    if error.errno in _FULL_ERRORS:
        return StorageFull(f"nothing was written to the spool ({error.strerror}); free some space or raise the quota")
    remedy = "check the disk"
    if error.errno in _PLACE_ERRORS:
        remedy = "let this user write there, or name another place: capture.spool_dir, or data_dir"
    return Unavailable(f"nothing was written to the spool ({error.strerror}: {error.filename}); {remedy}")
