"""Reads a copy of an answer as it passes: decompressed, bounded, as JSON or as a stream of events.

What it cannot read (another encoding, another type, damage) it leaves unread; the answer passes all the same.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Protocol, cast

import msgspec

from adjourn.gateway.usage import Reading, decode_document

COPY_BYTES_MAX = 8_000_000
"""Of one answer, or of one event of a stream, decompressed."""
TAIL_BYTES = 16_384
"""Kept of an answer that is larger than that: `usage` stands at the end of embeddings, behind megabytes of vectors."""
PIECE_BYTES = 1_000_000
SLICE_BYTES = 1024

_USAGE = re.compile(rb'(?<!\\)"usage"\s*:\s*(?=\{)')

Decode = Callable[[bytes], Iterator[bytes]]


class AnswerCopy:
    """`take` what passes; `reading` is what it said so far. Raises nothing."""

    def __init__(self, content_type: str, encoding: str) -> None:
        kind = content_type.partition(";")[0].strip().lower()
        self.reading = Reading()
        self.streamed = kind == "text/event-stream"
        self._json = kind == "application/json" or kind.endswith("+json")
        self._decode = decoder(encoding) if self._json or self.streamed else None
        self._events = Events(COPY_BYTES_MAX)
        self._held = bytearray()
        self._tail: bytes | None = None
        self._read = False

    def take(self, data: bytes, *, last: bool) -> bool:
        """Whether something was said of tokens or of an error. `last`: nothing follows, as far as one can know."""
        if self._decode is None:
            return False
        said = False
        try:
            for piece in self._decode(data):
                if self.streamed:
                    said = self._event_data(self._events.feed(piece)) or said
                else:
                    self._hold(piece)
        except Exception:  # zlib, zstandard and brotli each have errors of their own
            self._decode = None
            return said
        return said if self.streamed else self._whole(last)

    def finish(self) -> bool:
        """Nothing follows. Whether that said something."""
        if self._decode is None:
            return False
        return self._event_data(self._events.end()) if self.streamed else self._whole(True)

    def _event_data(self, found: list[bytes]) -> bool:
        said = False
        for data in found:
            if data[:1] == b"{":
                try:
                    said = self.reading.take(decode_document(data)) or said
                except msgspec.DecodeError:
                    continue
        return said

    def _hold(self, piece: bytes) -> None:
        if self._tail is not None:
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
        elif len(self._held) + len(piece) > COPY_BYTES_MAX:
            self._tail = (bytes(self._held[-TAIL_BYTES:]) + piece)[-TAIL_BYTES:]
            self._held.clear()
        else:
            self._held += piece

    def _whole(self, last: bool) -> bool:
        """Read it once it is whole: before its end passes, so that what was answered is never unknown."""
        if self._read or not (last or (self._tail is None and self._held.rstrip().endswith(b"}"))):
            return False
        if self._tail is not None:
            self._read = True
            return self.reading.take_tail(_last_usage(self._tail))
        try:
            document = decode_document(self._held)
        except msgspec.DecodeError:
            return False
        self._read = True
        return self.reading.take(document)


def _last_usage(tail: bytes) -> object:
    found = list(_USAGE.finditer(tail))
    if not found:
        return None
    text = tail[found[-1].end() :].decode("utf-8", "replace")
    try:
        return cast(object, json.JSONDecoder().raw_decode(text)[0])
    except (ValueError, RecursionError):
        return None


class Events:
    """Server-sent events: bytes in, the data of each event out (html.spec.whatwg.org, "9.2.6 Interpreting an event
    stream"). An event larger than `bytes_max` is left out."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False

    def feed(self, piece: bytes) -> list[bytes]:
        if not piece:
            return []
        after_return, self._after_return = self._after_return, piece[-1:] == b"\r"
        if after_return and piece[:1] == b"\n":
            piece = piece[1:]
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in piece:
            self._keep(piece)
            return []
        lines = (bytes(self._rest) + piece).split(b"\n") if self._rest else piece.split(b"\n")
        self._rest.clear()
        found: list[bytes] = []
        for line in lines[:-1]:
            if line[:5] == b"data:":
                self._size += len(line)
                if self._size <= self._bytes_max:
                    self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if self._data and self._size <= self._bytes_max:
                    found.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
                self._size = 0
        self._keep(lines[-1])
        return found

    def end(self) -> list[bytes]:
        """Nothing follows. The standard drops an event that lacks the empty line at its end; a server that leaves that
        line out at the end of its stream still meant what it said."""
        return self.feed(b"\n\n")

    def _keep(self, part: bytes) -> None:
        if self._size + len(self._rest) + len(part) > self._bytes_max:
            self._size = self._bytes_max + 1
            self._data.clear()
            # Its first bytes still say what kind of line it is.
            self._rest = self._rest[:5] or bytearray(part[:5])
        else:
            self._rest += part


# --- content encodings


def decoder(encoding: str) -> Decode | None:
    """By the name in Content-Encoding; None for one that is not read. Pieces are bounded, so that a small answer cannot
    become a large memory."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return lambda data: iter((data,))
    if name in ("gzip", "x-gzip"):
        return _inflating(31)
    if name == "deflate":
        return _inflating(15)
    return {"zstd": _zstd, "br": _brotli}.get(name, lambda: None)()


def decoded(encoding: str, data: bytes, bytes_max: int) -> bytes | None:
    """A whole body, or None if it cannot be read or is larger."""
    decode = decoder(encoding)
    if decode is None:
        return None
    out = bytearray()
    try:
        for piece in decode(data):
            out += piece
            if len(out) > bytes_max:
                return None
    except Exception:  # zlib, zstandard and brotli each have errors of their own
        return None
    return bytes(out)


def _inflating(window_bits: int) -> Decode:
    stream = zlib.decompressobj(window_bits)

    def decode(data: bytes) -> Generator[bytes]:
        while data:
            piece = stream.decompress(data, PIECE_BYTES)
            data = stream.unconsumed_tail
            if piece:
                yield piece
            elif stream.eof:
                return

    return decode


def _zstd() -> Decode:
    import zstandard

    stream = zstandard.ZstdDecompressor().decompressobj()

    def decode(data: bytes) -> Generator[bytes]:
        # It has no bound of its own; a kilobyte can become some 30 MB, not more.
        for at in range(0, len(data), SLICE_BYTES):
            if piece := stream.decompress(data[at : at + SLICE_BYTES]):
                yield piece

    return decode


class _Brotli(Protocol):
    def process(self, data: bytes, *, output_buffer_limit: int) -> bytes: ...
    def can_accept_more_data(self) -> bool: ...
    def is_finished(self) -> bool: ...


def _brotli() -> Decode:
    import brotli  # pyright: ignore[reportMissingTypeStubs]  # it has none

    stream = cast(_Brotli, brotli.Decompressor())  # pyright: ignore[reportUnknownMemberType]  # as above

    def decode(data: bytes) -> Generator[bytes]:
        while True:
            piece = stream.process(data, output_buffer_limit=PIECE_BYTES)
            data = b""
            if piece:
                yield piece
            elif stream.can_accept_more_data() or stream.is_finished():
                return

    return decode
