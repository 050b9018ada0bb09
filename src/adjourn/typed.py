"""Values of a type from what a database, a file or a sender gave.

msgspec works out a type when that is first used, and crashes the process if two threads do so for one type at the same
time (0.22.0; the interpreter changes threads in the middle). Here each is worked out once, by one thread.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
_lock = threading.Lock()


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """Of JSON; the same one every time."""
    found = _decoders.get(kind)
    if found is None:
        with _lock:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return cast("msgspec.json.Decoder[T]", found)


def convert(value: object, kind: type[T], *, from_attributes: bool = False, from_text: bool = False) -> T:
    """What is not of the type is refused, not bent; `from_text`: numbers and truth may come as text. Raises
    msgspec.ValidationError."""
    decoder(kind)
    return msgspec.convert(value, kind, strict=not from_text, from_attributes=from_attributes)
