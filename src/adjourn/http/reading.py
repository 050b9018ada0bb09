"""A request's body, for every door that reads it itself: bounded as it comes, as it is inflated, and in what all the
bodies of one door hold at once. How long a sender may take for one is bounded by `protocol.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Self

from adjourn.errors import TooBusy
from adjourn.http.compression import ENCODINGS, FEWER_EVENTS, decompress, too_large
from adjourn.http.raw import Receive

BODIES_BYTES_MAX = 64 * 1024 * 1024
"""All bodies of one door that are being read or taken at once; past it, new ones are told to come back."""
INFLATE_INLINE_BYTES = 131_072


class Gone(Exception):
    """The client hung up before its body was whole: nobody to answer, nothing to take."""


class BodyReader:
    """Of one door."""

    def __init__(self, bytes_max: int, *, encodings: Sequence[str] = ENCODINGS, remedy: str = FEWER_EVENTS) -> None:
        """`remedy`: what a sender of more than `bytes_max` can do."""
        self.bytes_held = 0
        self._bytes_max = bytes_max
        self._encodings = encodings
        self._remedy = remedy

    def has_room(self, size: int) -> bool:
        return self.bytes_held + size <= BODIES_BYTES_MAX

    async def read(self, headers: Mapping[str, str], receive: Receive, held: Held) -> bytes:
        """The whole body, inflated; counted in `held`. Raises Gone, BodyTooLarge as soon as that is known, BodyInvalid,
        MediaTypeUnsupported, TooBusy."""
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._bytes_max):
            raise too_large(self._bytes_max, self._remedy)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._bytes_max:
                raise too_large(self._bytes_max, self._remedy)
            held.add(len(part))
            parts.append(part)
            if not message.get("more_body", False):
                break
        body = b"".join(parts)
        encoding = headers.get("content-encoding", "")
        if encoding:
            body = await self._inflated(body, encoding)
            held.add(len(body))
        return body

    async def _inflated(self, body: bytes, encoding: str) -> bytes:
        """Big bodies in a thread: inflating releases the interpreter lock."""
        if len(body) < INFLATE_INLINE_BYTES:
            return decompress(body, encoding, self._bytes_max, self._encodings)
        return await asyncio.to_thread(decompress, body, encoding, self._bytes_max, self._encodings)


class Held:
    """What one request holds of its door's room, until the request is done with."""

    __slots__ = ("_reader", "_size")

    def __init__(self, reader: BodyReader) -> None:
        self._reader = reader
        self._size = 0

    def add(self, size: int) -> None:
        """One body alone is always let in, however small the room is. Raises TooBusy."""
        self._size += size
        self._reader.bytes_held += size
        if self._reader.bytes_held > BODIES_BYTES_MAX and self._reader.bytes_held > self._size:
            raise TooBusy("too many bodies are being read at once; send again in a second", retry_after_ms=1000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.bytes_held -= self._size
