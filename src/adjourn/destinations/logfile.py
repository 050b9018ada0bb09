"""The `logfile` destination: one JSON object a line and event, in a rotated file or through Python's logging.

A line is the body as it was sent with Adjourn's facts spliced in before its last brace: nothing is re-encoded.
A batch is one write and one fdatasync. After a crash a batch may be written again: readers drop what repeats
(tenant, session_id, event_id).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from adjourn.clock import rfc3339
from adjourn.destination import Batch, Refusal
from adjourn.destinations.worker import Worker
from adjourn.errors import ConfigInvalid, DestinationOutage
from adjourn.events import StoredEvent

LOGGER_NAME = "adjourn.sessions"
TIMEOUT_S = 60.0

_REMEDIES = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "raise the quota of Adjourn's user, or free some space",
    errno.EFBIG: "raise the limit on file sizes, or lower rotate_bytes",
    errno.EACCES: "let Adjourn's user write there",
    errno.EPERM: "let Adjourn's user write there",
    errno.EROFS: "mount its disk writable, or set another log_path",
    errno.EISDIR: "log_path names a directory; name a file in it",
    errno.ENOTDIR: "a part of log_path is a file; name a directory",
    errno.EEXIST: "a part of log_path is a file; name a directory",
    errno.EIO: "check the disk and the kernel's log",
}

encode = msgspec.json.encode

# Events of one batch were mostly received in the same few milliseconds.
_received = lru_cache(maxsize=256)(rfc3339)


class Facts(msgspec.Struct, gc=False, omit_defaults=True):
    """What Adjourn knows of an event beside its body: the object `adjourn` at the end of each line."""

    tenant: str
    received_at: str
    cost_usd: str | None
    price_ref: str | None
    partition: int
    offset: int
    level: str | None = None
    sent: msgspec.Raw | None = None
    """The sender's own top-level field `adjourn`, if there was one."""


class Sink(Protocol):
    """Where lines go. All calls come from one thread and raise OSError."""

    def open(self) -> None: ...

    def write(self, lines: Sequence[bytes]) -> None: ...

    def probe(self) -> None: ...

    def close(self) -> None: ...


class LogfileDestination:
    """With `path`, a file, durable when `send` returns; without it, the logger `adjourn.sessions` at `level`."""

    def __init__(self, *, name: str, path: str | None, level: str | None, rotate_bytes: int, rotate_keep: int) -> None:
        number = logging.getLevelNamesMapping().get((level or "info").upper())
        if number is None:
            raise ConfigInvalid(
                f"destination '{name}': {level!r} is not a log level; use debug, info, warning, error or critical",
                path="log_level",
            )
        self._name = name
        self._level = level.lower() if level is not None and path is not None else None
        self._sink: Sink = LoggingSink(number) if path is None else FileSink(path, rotate_bytes, rotate_keep)
        self._where = f"log file {path}" if path is not None else f"logger {LOGGER_NAME}"
        # A write that hangs in the kernel cannot be interrupted: the worker refuses further batches until it ends.
        self._worker = Worker(name, timeout_s=TIMEOUT_S, interrupt=lambda: None)

    async def open(self) -> None:
        await self._worker.run(self._guarded, self._sink.open)

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        return await self._worker.run(self._send, batch)

    async def probe(self) -> None:
        await self._worker.run(self._guarded, self._sink.probe)

    async def close(self) -> None:
        await self._worker.stop(self._sink.close)

    def _send(self, batch: Batch) -> list[Refusal]:
        lines: list[bytes] = []
        refusals: list[Refusal] = []
        for index, event in enumerate(batch.events):
            try:
                lines.append(line(event, self._level))
            except (ValueError, msgspec.MsgspecError, RecursionError) as error:
                reason = f"the event is not a JSON object: {error}; correct it and send it again"
                refusals.append(Refusal(index=index, code="event_invalid", reason=reason))
        if lines:
            self._guarded(lambda: self._sink.write(lines))
        return refusals

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            # After any failure the file's state is unknown: the next call opens it anew.
            self._sink.close()
            remedy = _REMEDIES.get(error.errno or 0, "check the path and its disk")
            fact = f"destination '{self._name}': {self._where}: {error.strerror or error}"
            raise DestinationOutage(f"{fact}; {remedy}") from error


class FileSink:
    """Append-only, rotated by size: `path` → `path.1` → … → `path.<keep>`. One writer a path.

    `rotate_bytes` 0 leaves rotation to others, such as logrotate: a file that was moved away is opened anew."""

    def __init__(self, path: str, rotate_bytes: int, rotate_keep: int) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._rotate_keep = rotate_keep
        self._fd = -1
        self._torn = False

    def open(self) -> None:
        if self._fd >= 0 and self._moved_away():
            self.close()
        if self._fd >= 0:
            return
        directory = os.path.dirname(os.path.abspath(self._path))
        os.makedirs(directory, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        _sync_directory(directory)
        size = os.fstat(self._fd).st_size
        # A crash may have left half a line: the next one must not continue it.
        self._torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def write(self, lines: Sequence[bytes]) -> None:
        self.open()
        data = b"".join(lines)
        size = os.fstat(self._fd).st_size
        if self._rotate_bytes > 0 and size > 0 and size + len(data) > self._rotate_bytes:
            self._rotate()
            size = 0
        if self._torn:
            data = b"\n" + data
        try:
            _write_whole(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, size)  # the batch is sent again: half of it must not stay
            raise
        os.fdatasync(self._fd)
        self._torn = False

    def probe(self) -> None:
        self.open()
        if os.fstatvfs(self._fd).f_bavail == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _rotate(self) -> None:
        self.close()
        # From the oldest to the newest: a crash between two renames leaves a gap in the numbers and loses nothing.
        for number in range(self._rotate_keep, 0, -1):
            older = f"{self._path}.{number}"
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            if os.path.exists(newer):
                os.replace(newer, older)
        if self._rotate_keep == 0:
            os.unlink(self._path)
        self.open()

    def _moved_away(self) -> bool:
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._fd))


class LoggingSink:
    """One record an event. As durable as the handlers are: `logging` keeps their errors to itself."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._logger = logging.getLogger(LOGGER_NAME)
        self._own_handler: logging.Handler | None = None

    def open(self) -> None:
        # Without these two, logging's defaults drop everything below WARNING without a word.
        if not self._logger.isEnabledFor(self._level) and self._logger.level == logging.NOTSET:
            self._logger.setLevel(self._level)
        if not self._logger.hasHandlers():
            self._own_handler = logging.StreamHandler()
            self._logger.addHandler(self._own_handler)

    def write(self, lines: Sequence[bytes]) -> None:
        self.probe()
        for one in lines:
            self._logger.log(self._level, "%s", str(one, "utf-8").rstrip("\n"))

    def probe(self) -> None:
        self.open()
        if not self._logger.isEnabledFor(self._level):
            fact = f"it lets nothing of level {logging.getLevelName(self._level)} pass; lower its level"
            raise OSError(errno.EPERM, fact)

    def close(self) -> None:
        if self._own_handler is not None:
            self._logger.removeHandler(self._own_handler)
            self._own_handler = None


def line(event: StoredEvent, level: str | None = None) -> bytes:
    """The event's line, with its newline. Raises ValueError or MsgspecError if the body is not a JSON object."""
    body = event.body
    sent: msgspec.Raw | None = None
    if b'"adjourn"' in body:
        body, sent = _take_out_own_field(body)
    if b"\n" in body or b"\r" in body:
        body = msgspec.json.format(body, indent=-1)  # takes out white space alone: values keep their digits
    body = body.strip()
    str(body, "utf-8")  # a line that is not UTF-8 would stop whoever reads the file
    if body[:1] != b"{" or body[-1:] != b"}" or len(body) < 3:
        raise ValueError("it does not begin with { and end with }")
    cost = event.cost_nanousd
    facts = Facts(
        tenant=event.tenant,
        received_at=_received(event.received_ms),
        cost_usd=None if cost is None else _usd(cost),
        price_ref=event.price_ref or None,
        partition=event.partition,
        offset=event.offset,
        level=level,
        sent=sent,
    )
    return b'%b,"adjourn":%b}\n' % (body[:-1], encode(facts))


def _take_out_own_field(body: bytes) -> tuple[bytes, msgspec.Raw | None]:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    sent = fields.pop("adjourn", None)
    return (body, None) if sent is None else (encode(fields), sent)


def _usd(cost_nanousd: int) -> str:
    """`42_800_000` → `0.042800000`: always nine places, never through a float."""
    whole, rest = divmod(abs(cost_nanousd), 1_000_000_000)
    return f"{'-' if cost_nanousd < 0 else ''}{whole}.{rest:09d}"


def _write_whole(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
