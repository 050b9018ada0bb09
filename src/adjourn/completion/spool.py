"""The spool's writer: with one `write()`, `append` makes an event outlive its process, from any thread.

    spool = Spool("/var/lib/adjourn/spool")
    spool.append(b'{"event_type":"session.completed", ...}')      # → Position(producer, sequence)

What is appended survives the death of the process at once, and a power cut from the next flush on (`fsync`). Each
process, and each child after a fork, writes a stream of its own, begun at its first append. `segments.py` has the
format and reads it back; `locks.py` says whose a stream is.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import write
from typing import Literal, NamedTuple

from adjourn.completion.locks import (
    RESERVATION_UNIT_BYTES,
    close_file,
    measure,
    open_file,
    register_forkable,
    release_lock,
    segment_name,
    take_lock,
    unlink_file,
)
from adjourn.completion.segments import (
    CUT_MARK,
    LiveStream,
    Segment,
    Stream,
    encode_record,
    make_directory,
    storage_error,
)
from adjourn.errors import AdjournError, EventInvalid, SpoolClosed, SpoolFull, StorageFull, Unavailable

WhenFull = Literal["refuse", "drop_oldest"]
Fsync = Literal["background", "always", "never"]

_RESERVATION_BYTES = 256 * 1024
_CUT_LINE = CUT_MARK + b"\n"


class Position(NamedTuple):
    """Where an event stands in the spool. The pair is unique for ever; the log deduplicates by it."""

    producer: str
    sequence: int


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """captured + refused + torn = appends that were tried. Counted from this process's start, or its fork."""

    captured: int
    refused: int
    """Raised to the caller with nothing written."""
    torn: int
    """Raised to the caller after a part was written; that part goes to quarantine."""
    dropped: int
    """Captured, then deleted unread because the spool was full (`drop_oldest`)."""
    flush_failures: int
    bytes: int
    """In the directory now, all processes together."""
    segments: int


class Spool:
    """Thread-safe. Holds no file until the first append, and leaves none behind when all was acknowledged."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        bytes_max: int = 1 << 30,
        full: WhenFull = "refuse",
        fsync: Fsync = "background",
        fsync_interval_ms: int = 50,
        segment_bytes: int = 16 << 20,
        on_append: Callable[[], None] | None = None,
    ) -> None:
        """`bytes_max` bounds all segments in the directory, of all processes. `on_append` is called after each append,
        in its thread, and is a hint: what it raises is ignored. `drop_oldest` drops whole segments, but none that a
        reader has begun: when it has begun them all, `append` refuses."""
        self._directory = os.fspath(directory)
        self._bytes_max = bytes_max
        self._full: WhenFull = full
        self._fsync: Fsync = fsync
        self._fsync_interval_s = fsync_interval_ms / 1000
        # Several segments fit, so that dropping the oldest does not drop everything.
        self._segment_bytes = min(segment_bytes, max(1, bytes_max // 8))
        self._reservation_bytes = min(_RESERVATION_BYTES, max(1, bytes_max // 64))
        self._on_append = on_append
        self._closed = False
        make_directory(self._directory)
        self.reset_after_fork()
        register_forkable(self)

    def reset_after_fork(self) -> None:
        """Begin anew: the files, locks, counters and the flusher are the parent's."""
        self._lock = threading.Lock()
        self._producer = ""
        self._stream: LiveStream | None = None
        self._segments: deque[Segment] = deque()
        self._segment: Segment | None = None  # the one that is open for append
        self._descriptor = -1
        self._lock_descriptor = -1
        self._sequence = 0
        self._room = -1  # bytes that may be appended without a further look
        self._cut = False  # the open segment ends in a part of a record
        self._reserved_bytes = 0
        self._captured = self._refused = self._torn = self._dropped = self._flush_failures = 0
        self._dirty = False
        self._directory_dirty = False
        self._sealed_descriptors: list[int] = []  # to be flushed, then closed
        self._flusher: threading.Thread | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()

    def append(self, event: bytes) -> Position:
        """Write one event (a JSON object, without raw newlines). When this returns, SIGKILL cannot lose it.

        Raises SpoolFull, SpoolClosed, StorageFull, Unavailable (any other error of the disk), EventInvalid."""
        if b"\n" in event:
            raise EventInvalid("the event's JSON contains a raw newline; encode it compactly, on one line")
        with self._lock:
            sequence = self._sequence + 1
            line = encode_record(sequence, event)
            size = len(line)
            if size > self._room:
                line = self._make_room(size) + line
                size = len(line)
            segment = self._segment
            assert segment is not None
            # Counted before the write: Ctrl-C between the two may leave a number unused, but none is used twice.
            self._sequence = sequence
            self._room -= size
            segment.bytes += size
            try:
                written = write(self._descriptor, line)
            except OSError as error:
                raise self._write_failed(segment, size, error) from error
            if written != size:
                raise self._cut_short(segment, size, written)
            segment.records += 1
            self._captured += 1
            producer = self._producer
            if not self._dirty:
                self._make_durable()
        if self._on_append is not None:
            try:
                self._on_append()
            except Exception:
                # The event is captured: a hint that fails (a closed event loop) must not say otherwise.
                pass
        return Position(producer, sequence)

    def live_stream(self) -> Stream | None:
        """This process's own stream, to be read while it is written; None before the first append."""
        return self._stream

    def stats(self) -> SpoolStats:
        usage = measure(self._directory)
        with self._lock:
            return SpoolStats(
                captured=self._captured,
                refused=self._refused,
                torn=self._torn,
                dropped=self._dropped,
                flush_failures=self._flush_failures,
                bytes=usage.bytes,
                segments=usage.segments,
            )

    def close(self) -> None:
        """Refuse further appends, flush, and release the stream: what was not acknowledged, another may adopt."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._room = -1
            self._seal()
        self._stop.set()
        self._wake.set()
        if self._flusher is not None:
            self._flusher.join()
        self._flush()
        if self._stream is not None:
            self._stream.close()
            release_lock(self._directory, self._producer, self._lock_descriptor, remove=not self._segments)

    # --- room: the slow path of append, under the lock

    def _make_room(self, size: int) -> bytes:
        """Have an open segment with room for `size`, or raise. Returns what must be written before the record."""
        if self._closed:
            raise SpoolClosed("the spool was closed; capture before the runtime stops")
        try:
            if self._stream is None:
                self._begin_stream()
            if (filling := self._segment) and filling.bytes and filling.bytes + size > self._segment_bytes:
                self._seal()
            prefix = _CUT_LINE if self._cut else b""
            self._free_bytes(len(prefix) + size)
            if self._segment is None:
                prefix = b""
                self._segment = self._open_segment()
        except OSError as error:
            self._refused += 1
            raise storage_error(error) from error
        self._room = min(self._reserved_bytes - self._own_bytes(), self._segment_bytes - self._segment.bytes)
        return prefix

    def _free_bytes(self, size: int) -> None:
        while size > self._bytes_max or not self._reserve(size):
            if size > self._bytes_max or self._full == "refuse" or not self._drop_oldest():
                self._refused += 1
                raise SpoolFull(
                    f"the spool {self._directory} has no room for {size} bytes within its limit of {self._bytes_max}; "
                    "see that events leave it (is the log or the server reachable?), or raise the limit"
                )

    def _reserve(self, size: int) -> bool:
        """Announce what this process will fill, then look whether all announcements fit: of two processes at the limit
        both may step back, but never do both go on. No lock is shared, so a stopped process stops no other."""
        own = self._own_bytes()
        if own + size <= self._reserved_bytes:
            return True
        wanted = own + max(size, self._reservation_bytes)
        self._announce(wanted)
        others = measure(self._directory, without=self._producer).charged_bytes
        granted = min(wanted, self._bytes_max - others)
        fits = granted >= own + size
        self._announce(granted if fits else own)
        return fits

    def _announce(self, reserved_bytes: int) -> None:
        os.ftruncate(self._lock_descriptor, -(-reserved_bytes // RESERVATION_UNIT_BYTES))
        self._reserved_bytes = reserved_bytes

    def _own_bytes(self) -> int:
        return sum(segment.bytes for segment in self._segments)

    def _drop_oldest(self) -> bool:
        """Delete the oldest segment that no reader has begun. False if there is none."""
        for segment in self._segments:
            if segment.reading or not segment.records:
                continue
            if not segment.sealed:
                self._seal()
            unlink_file(segment.path)
            self._segments.remove(segment)
            self._dropped += segment.records
            self._segment_deleted(segment)
            return True
        return False

    def _begin_stream(self) -> None:
        descriptor = None
        while descriptor is None:  # as good as never twice: an adopter locked the new file before we did
            producer = os.urandom(12).hex()
            descriptor = take_lock(self._directory, producer)
            self._producer = producer
        self._lock_descriptor = descriptor
        self._stream = LiveStream(
            self._producer,
            self._segments,
            self._lock,
            seal_bytes=self._segment_bytes // 16,
            seal_if_drained=self._seal_if_drained,
            deleted=self._segment_deleted,
        )

    def _open_segment(self) -> Segment:
        path = os.path.join(self._directory, segment_name(self._producer, self._sequence + 1))
        self._descriptor = open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        segment = Segment(path, sealed=False)
        self._segments.append(segment)
        self._directory_dirty = True
        return segment

    def _seal(self) -> None:
        """End the open segment; the next append begins another."""
        if self._segment is None:
            return
        self._segment.sealed = True
        self._segment = None
        self._room = -1
        self._cut = False
        self._sealed_descriptors.append(self._descriptor)
        self._descriptor = -1
        if self._fsync == "background":
            self._make_durable()
        elif not self._closed:
            close_file(self._sealed_descriptors.pop())

    # --- failures of write, under the lock

    def _write_failed(self, segment: Segment, size: int, error: OSError) -> AdjournError:
        segment.bytes -= size
        self._refused += 1
        self._room = -1
        if error.errno == errno.EFBIG and segment.bytes:
            self._seal()  # this file is as long as the process may make one; a new one has room
        return storage_error(error)

    def _cut_short(self, segment: Segment, size: int, written: int) -> AdjournError:
        segment.bytes -= size - written
        self._room = -1  # the next append comes by `_make_room`, which ends the torn line first
        record_at = len(_CUT_LINE) if self._cut else 0
        self._cut = written != record_at
        if written > record_at:
            self._torn += 1
        else:
            self._refused += 1
        return StorageFull(f"the disk under {self._directory} took {written} of {size} bytes; free some space")

    # --- durability

    def _make_durable(self) -> None:
        """Under the lock, after a write that found nothing waiting to be flushed."""
        if self._fsync == "always":
            try:
                os.fdatasync(self._descriptor)
                self._sync_directory()
            except OSError as error:
                self._flush_failures += 1
                raise Unavailable(
                    f"the event was written to {self._directory} but could not be flushed ({error.strerror}); "
                    "it will be delivered unless the machine fails: check the disk"
                ) from error
            return
        self._dirty = True
        if self._fsync == "background":
            self._wake.set()
            if self._flusher is None and not self._closed:
                self._start_flusher()

    def _start_flusher(self) -> None:
        flusher = threading.Thread(target=self._flush_often, name="adjourn-spool-flush", daemon=True)
        try:
            flusher.start()
            self._flusher = flusher
        except RuntimeError:
            # The interpreter is going down, or the process has too many threads: the event is in the file all the same.
            self._flush_failures += 1

    def _flush_often(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            self._stop.wait(self._fsync_interval_s)
            self._flush()

    def _flush(self) -> None:
        """Called by the flusher, and by `close` after it has ended; so only one at a time closes descriptors."""
        with self._lock:
            self._dirty = self._fsync == "never"
            sealed, self._sealed_descriptors = self._sealed_descriptors, []
            current = [self._descriptor] if self._descriptor >= 0 else []
        for sync in [*(partial(os.fdatasync, descriptor) for descriptor in sealed + current), self._sync_directory]:
            try:
                sync()
            except OSError:
                self._flush_failures += 1
        for descriptor in sealed:
            close_file(descriptor)

    def _sync_directory(self) -> None:
        """A file whose name is lost in a power cut is lost with it."""
        if not self._directory_dirty:
            return
        self._directory_dirty = False
        descriptor = open_file(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            close_file(descriptor)

    # --- for the stream that reads it

    def _seal_if_drained(self, read_bytes: int) -> None:
        """End the open segment if `read_bytes` is all there is in it."""
        with self._lock:
            if self._segment is not None and os.fstat(self._descriptor).st_size == read_bytes:
                self._seal()

    def _segment_deleted(self, segment: Segment) -> None:
        """Under the lock: give back what the deleted segment had reserved."""
        self._announce(max(0, self._reserved_bytes - segment.bytes))
        self._room = -1
