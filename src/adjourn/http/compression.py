"""Bodies as their Content-Encoding has packed them, inflated: gzip, zstd, deflate. Pure, and bounded."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import zstandard

from adjourn.errors import BodyInvalid, BodyTooLarge, MediaTypeUnsupported

ENCODINGS = ("gzip", "zstd")
DEFLATE = "deflate"
"""What some of OpenTelemetry's exporters send; no other door reads it."""
FEWER_EVENTS = "send fewer events at once, or raise server.body_mb_max"
MEMBERS_MAX = 4096
"""Gzip members or zstd frames in one body; a million empty ones would take minutes."""
ZLIB_STEP_BYTES = 65_536
# A zstd block of 4 bytes makes 128 KiB: a step makes at most 16 MiB more than was allowed.
ZSTD_STEP_BYTES = 512
# RFC 9659: the largest window that a content encoding may ask for.
ZSTD_WINDOW_BYTES_MAX = 8 * 1024 * 1024

_WBITS = {"gzip": 31, DEFLATE: 15}


def decompress(body: bytes, encoding: str, bytes_max: int, encodings: Sequence[str] = ENCODINGS) -> bytes:
    """Raises BodyTooLarge before more than `bytes_max` were made of it, BodyInvalid, MediaTypeUnsupported."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in encodings:
        readable = f"send {', '.join(encodings)}, or none" if encodings else "send the body as it is"
        raise MediaTypeUnsupported(
            f"Content-Encoding {encoding[:50]!r} is not read here; {readable}", path="content-encoding"
        )
    try:
        return _unzstd(body, bytes_max) if encoding == "zstd" else _inflated(body, encoding, bytes_max)
    except (zlib.error, zstandard.ZstdError) as error:
        raise BodyInvalid(f"the body is not valid {encoding} ({error}); check Content-Encoding") from error


def too_large(bytes_max: int, remedy: str = FEWER_EVENTS) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {bytes_max} bytes; {remedy}")


def _inflated(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """All members, one after the other, as gzip allows. In steps, because what follows a member is copied."""
    parts: list[bytes] = []
    room, position, members = bytes_max, 0, 0
    while position < len(body):
        members = _counted(members)
        inflater = zlib.decompressobj(wbits=_WBITS[encoding])
        while not inflater.eof:
            step = inflater.unconsumed_tail or body[position : position + ZLIB_STEP_BYTES]
            if not step:
                raise _cut_off(encoding)
            position += 0 if inflater.unconsumed_tail else len(step)
            parts.append(inflater.decompress(step, room + 1))
            room -= len(parts[-1])
            if room < 0:
                raise too_large(bytes_max)
        position -= len(inflater.unused_data)
    return b"".join(parts)


def _unzstd(body: bytes, bytes_max: int) -> bytes:
    """All frames. Not by a stream reader: it takes a frame that was cut off for a whole one."""
    parts: list[bytes] = []
    room, position, frames = bytes_max, 0, 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    while position < len(body):
        frames = _counted(frames)
        frame = decompressor.decompressobj()
        while not frame.eof:
            step = body[position : position + ZSTD_STEP_BYTES]
            if not step:
                raise _cut_off("zstd")
            position += len(step)
            if part := frame.decompress(step):
                parts.append(part)
                room -= len(part)
                if room < 0:
                    raise too_large(bytes_max)
        position -= len(frame.unused_data)
    return b"".join(parts)


def _cut_off(encoding: str) -> BodyInvalid:
    return BodyInvalid(f"the {encoding} body ends too early; send it whole")


def _counted(members: int) -> int:
    if members == MEMBERS_MAX:
        raise BodyInvalid(f"the body is made of more than {MEMBERS_MAX} compressed pieces; compress it as a whole")
    return members + 1
