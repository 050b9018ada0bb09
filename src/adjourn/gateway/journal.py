"""The gateway's journal: one file of records, a checksum and a JSON object a line. A record that was appended survives
the process at once, and a power cut from the next flush on."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from zlib import crc32

import msgspec

from adjourn.errors import ConfigInvalid
from adjourn.eventlog import get_logger
from adjourn.gateway.sessions import Head, Record, Sessions

_log = get_logger("adjourn.gateway")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode

REWRITE_BYTES_MIN = 16_000_000
"""It is rewritten when it is this long and four times as long as after it was written last."""

Fsync = Literal["background", "always", "never"]


class Journal:
    """Of one gateway: a second one with the same name is refused."""

    def __init__(self, path: Path, *, fsync: Fsync, fsync_interval_ms: int) -> None:
        """Raises ConfigInvalid if another process has it, OSError if it cannot be written."""
        self._path = path
        self._fsync = fsync
        self._interval_s = fsync_interval_ms / 1000
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigInvalid(
                f"another gateway uses {path}; give this one a --name, or stop the other", path="name"
            ) from None
        self._descriptor = -1
        self._bytes = self._bytes_rewritten = 0
        self._cut = False
        self.failing = ""
        """Why the last record could not be written; empty while all is well."""
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._swap = threading.Lock()
        self._flusher = threading.Thread(target=self._flush_often, name="adjourn-gateway-flush", daemon=True)

    def open(self) -> Sessions:
        """What it holds, damaged lines left out; and from now on it can be appended to."""
        sessions = self._read()
        self.rewrite(sessions)
        if self._fsync == "background":
            self._flusher.start()
        return sessions

    def _read(self) -> Sessions:
        lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        records = [record for line in lines if line and (record := _record_of(line)) is not None]
        if torn := sum(1 for line in lines if line) - len(records):
            _log.warning("gateway_journal_torn", file=str(self._path), lines=torn)
        head = records[0] if records else None
        sessions = Sessions(head if isinstance(head, Head) else Head(os.urandom(12).hex(), os.urandom(16).hex(), 0))
        for record in records:
            sessions.apply(record)
        return sessions

    def append(self, record: Record) -> bool:
        """Whether it was written. It is not raised: what passes through must go on passing."""
        line = _line_of(record)
        data = b"\n" + line if self._cut else line
        try:
            written = os.write(self._descriptor, data)
            if written != len(data):
                self._cut = True
                raise OSError(None, f"the disk took {written} of {len(data)} bytes")
            if self._fsync == "always":
                os.fdatasync(self._descriptor)
        except OSError as error:
            if not self.failing:
                _log.error("gateway_journal_failed", file=str(self._path), error=error.strerror or str(error))
            self.failing = error.strerror or str(error)
            return False
        self._cut = False
        self._bytes += len(data)
        self._dirty.set()
        return True

    @property
    def due(self) -> bool:
        """Whether it should be rewritten: it has grown, or lacks what could not be written."""
        grown = self._bytes > max(REWRITE_BYTES_MIN, 4 * self._bytes_rewritten)
        return grown or bool(self.failing)

    def rewrite(self, sessions: Sessions) -> None:
        """Replace it by a short one that says the same. Raises OSError, and the old one stays."""
        new = self._path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = _write_all(descriptor, sessions.snapshot())
            os.fsync(descriptor)
            os.replace(new, self._path)
        except BaseException:
            os.close(descriptor)
            raise
        with self._swap:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = descriptor
        self._bytes = self._bytes_rewritten = size
        self._cut, self.failing = False, ""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def flush(self) -> None:
        """From any thread. What was appended before survives a power cut."""
        with self._swap:
            if self._descriptor >= 0:
                os.fdatasync(self._descriptor)

    def close(self) -> None:
        self._stop.set()
        self._dirty.set()
        if self._flusher.is_alive():
            self._flusher.join()
        if self._descriptor >= 0:
            try:
                self.flush()
            except OSError as error:
                _log.error("gateway_journal_failed", file=str(self._path), error=error.strerror)
            os.close(self._descriptor)
            self._descriptor = -1
        os.close(self._lock)

    def _flush_often(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self._stop.wait(self._interval_s)
            try:
                self.flush()
            except OSError as error:
                _log.error("gateway_journal_failed", file=str(self._path), error=error.strerror)


def _line_of(record: Record) -> bytes:
    data = _encode(record)
    return b"%08x %b\n" % (crc32(data), data)


def _record_of(line: bytes) -> Record | None:
    data = line[9:]
    if line[:9] != b"%08x " % crc32(data):
        return None
    try:
        return _decode(data)
    except msgspec.DecodeError:
        return None


def _write_all(descriptor: int, records: Iterable[Record]) -> int:
    size = 0
    for record in records:
        line = memoryview(_line_of(record))
        size += len(line)
        while line:
            line = line[os.write(descriptor, line) :]
    return size
