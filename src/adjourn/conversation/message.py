"""Messages as values, and how the body of one is kept: JSON, compressed where that makes it smaller.

codec  bits 0-3: how it is packed (0: as it is, 1: zstd); bits 4-15: how it is encrypted (0: not)
body   {"parts": [Part, …], "metadata": {…}}, without metadata where there is none
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

import msgspec
import zstandard

from adjourn.errors import BodyInvalid, MessageUnreadable
from adjourn.runner import Part, Role
from adjourn.typed import decoder

PLAIN, ZSTD = 0, 1
ZSTD_LEVEL = 3
COMPRESSED_BYTES_MIN = 1024

TokenSource = Literal["", "exact", "estimated", "reported"]
"""Who counted the tokens: nobody, a tokenizer of the model's own, one like it, the provider."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be appended. Without an `id` it gets one, and is a new message every time; with one, it is appended
    once, however often it comes."""

    role: Role
    parts: Sequence[Part]
    agent: str = ""
    metadata: Mapping[str, object] = {}
    id: str = ""
    turn_id: str | None = None
    tokens: int | None = None
    token_source: TokenSource = ""
    expires_ms: int | None = None


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a conversation. `seq` is its place there, from 1; `session_id` is where it was said, which may be a
    session that this one began from."""

    id: str
    session_id: str
    seq: int
    role: Role
    parts: Sequence[Part]
    agent: str
    metadata: Mapping[str, object]
    turn_id: str | None
    created_ms: int
    expires_ms: int | None
    tokens: int | None
    token_source: TokenSource


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    parts: tuple[Part, ...]
    metadata: dict[str, object] = {}


def pack(draft: Draft) -> tuple[int, bytes]:
    """(codec, body). Raises BodyInvalid for a part whose arguments or output are not JSON: what is written can be
    read."""
    body = msgspec.json.encode(Body(tuple(draft.parts), dict(draft.metadata)))
    try:
        decoder(Body).decode(body)
    except msgspec.DecodeError as error:
        raise BodyInvalid(
            f"a part's arguments or output are not JSON ({error}); give them as JSON text", path="parts"
        ) from error
    if len(body) >= COMPRESSED_BYTES_MIN:
        packed = _zstd().compressor.compress(body)
        if len(packed) < len(body):
            return ZSTD, packed
    return PLAIN, body


def unpack(codec: int, body: bytes, message_id: str) -> bytes:
    """The JSON of a body. Raises MessageUnreadable."""
    if codec == PLAIN:
        return body
    if codec != ZSTD:
        raise MessageUnreadable(
            f"message {message_id} is stored with codec {codec}, which this version does not know; upgrade Adjourn"
        )
    try:
        return _zstd().decompressor.decompress(body)
    except zstandard.ZstdError as error:
        raise _damaged(message_id, error) from error


def read_body(codec: int, body: bytes, message_id: str) -> Body:
    """Raises MessageUnreadable."""
    try:
        return decoder(Body).decode(unpack(codec, body, message_id))
    except msgspec.DecodeError as error:
        raise _damaged(message_id, error) from error


def canonical(body: bytes) -> bytes:
    """The same for two bodies that say the same: names of objects in order, and no blanks."""
    return msgspec.json.encode(msgspec.json.decode(body), order="sorted")


def _damaged(message_id: str, error: Exception) -> MessageUnreadable:
    return MessageUnreadable(
        f"message {message_id} is damaged in the database ({error}); restore it from a backup, or delete its session"
    )


class _Zstd(threading.local):
    """zstd contexts must not be shared by threads; each thread makes its own once."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


@cache
def _zstd() -> _Zstd:
    return _Zstd()
