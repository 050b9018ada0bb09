"""A block: the bytes in which a batch of events lies in the log. Pure; the file format is all here.

    body  = zstd( u32 length of head | head (MessagePack) | event bodies, one after the other )
    keys  = 16 bytes an event: id hash (8), content hash (8); or 24, if any event is held by another identity than its
            id: then that one's hash (8) is the third
    check = BLAKE2b-8 over partition, first offset, count, times, codec, keys and body

Columns of the head that hold one value for the whole block are stored once. `codec` says which dictionary the
compressor used: small blocks hardly compress without one.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Protocol, TypeVar

import msgspec
import zstandard

from adjourn.errors import BlockCorrupt
from adjourn.events import Record, StoredEvent

PLAIN = 1
DICTIONARY_1 = 2
DICTIONARY_BELOW_BYTES = 32_768
LEVEL = 1
EVENTS_PER_BLOCK = 4_096
BYTES_PER_BLOCK = 4 * 1024 * 1024

T = TypeVar("T")


class Entry(Protocol):
    """What a block keeps of an event; `Record` and `StoredEvent` both are one."""

    @property
    def tenant(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def received_ms(self) -> int: ...
    @property
    def cost_nanousd(self) -> int | None: ...
    @property
    def price_ref(self) -> str: ...


class _Head(msgspec.Struct, array_like=True):
    lengths: list[int]
    tenants: list[str]
    received_ms: list[int]
    costs: list[int | None]
    price_refs: list[str]


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A row of `log_blocks`."""

    partition: int
    first_offset: int
    count: int
    min_ts: int
    max_ts: int
    codec: int
    body: bytes
    keys: bytes
    checksum: bytes


_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


def encode(partition: int, first_offset: int, entries: Sequence[Entry], keys: bytes) -> Block:
    bodies = [e.body for e in entries]
    received = [e.received_ms for e in entries]
    head = _encode_head(
        _Head(
            lengths=[len(body) for body in bodies],
            tenants=_column([e.tenant for e in entries]),
            received_ms=_column(received),
            costs=_column([e.cost_nanousd for e in entries]),
            price_refs=_column([e.price_ref for e in entries]),
        )
    )
    raw = b"".join((struct.pack("<I", len(head)), head, *bodies))
    codec = DICTIONARY_1 if len(raw) < DICTIONARY_BELOW_BYTES else PLAIN
    body = _tools().compressors[codec].compress(raw)
    unchecked = Block(
        partition, first_offset, len(bodies), min(received), max(received), codec, body, keys, checksum=b""
    )
    return msgspec.structs.replace(unchecked, checksum=checksum(unchecked))


def decode(block: Block) -> list[StoredEvent]:
    """The events of a block, in order. Raises BlockCorrupt, saying what does not fit."""
    try:
        expected = checksum(block)
    except struct.error:  # a number that no block can have
        expected = b""
    if expected != block.checksum or not block.count:
        raise BlockCorrupt(_where(block, "its checksum does not fit its bytes"))
    try:
        raw = _tools().decompressors[block.codec].decompress(block.body)
        (size,) = struct.unpack_from("<I", raw)
        head = _decode_head(memoryview(raw)[4 : 4 + size])
    except (zstandard.ZstdError, msgspec.DecodeError, struct.error, KeyError) as error:
        raise BlockCorrupt(_where(block, f"it cannot be decoded: {error}")) from error
    return _events(block, raw, 4 + size, head)


def pack_keys(records: Sequence[Record]) -> bytes:
    if any(record.dedupe_hash for record in records):
        return b"".join([r.id_hash + r.content_hash + (r.dedupe_hash or r.id_hash) for r in records])
    return b"".join([r.id_hash + r.content_hash for r in records])


def join_keys(parts: Sequence[Block]) -> bytes:
    """The keys of adjacent blocks as those of one; widened where only some have the third column."""
    widths = {len(part.keys) // part.count for part in parts}
    if len(widths) == 1:
        return b"".join([part.keys for part in parts])
    return b"".join([_widened(part) for part in parts])


def _widened(part: Block) -> bytes:
    if len(part.keys) // part.count == 24:
        return part.keys
    return b"".join([part.keys[i : i + 16] + part.keys[i : i + 8] for i in range(0, len(part.keys), 16)])


def identities(keys: bytes, count: int) -> list[bytes]:
    """What the dedupe window holds each event by; nothing if the keys are not those of `count` events."""
    if count <= 0 or len(keys) not in (16 * count, 24 * count):
        return []
    width = len(keys) // count
    start = width - 8 if width == 24 else 0
    return [keys[i : i + 8] for i in range(start, len(keys), width)]


def id_hashes(keys: bytes, count: int) -> list[bytes]:
    """The hash of each event's id; nothing if the keys are not those of `count` events."""
    if count <= 0 or len(keys) not in (16 * count, 24 * count):
        return []
    return [keys[i : i + 8] for i in range(0, len(keys), len(keys) // count)]


def places(keys: bytes, count: int, id_hash: bytes) -> list[int]:
    """The events of a block whose id hashes so."""
    width = len(keys) // count
    return [i // width for i in range(0, len(keys), width) if keys.startswith(id_hash, i)]


def checksum(block: Block) -> bytes:
    """Over everything else in the row. Raises struct.error for a number that no block can have."""
    numbers = (block.partition, block.first_offset, block.count, block.min_ts, block.max_ts, block.codec)
    digest = hashlib.blake2b(struct.pack("<IQIqqI", *numbers), digest_size=8)
    digest.update(block.keys)
    digest.update(block.body)
    return digest.digest()


def _events(block: Block, raw: bytes, position: int, head: _Head) -> list[StoredEvent]:
    n = block.count
    columns = zip(
        head.lengths,
        _spread(head.tenants, n),
        _spread(head.received_ms, n),
        _spread(head.costs, n),
        _spread(head.price_refs, n),
        strict=True,
    )
    events: list[StoredEvent] = []
    partition, offset = block.partition, block.first_offset
    for length, tenant, received_ms, cost, price_ref in columns:
        end = position + length
        events.append(StoredEvent(partition, offset, tenant, raw[position:end], received_ms, cost, price_ref))
        position = end
        offset += 1
    if len(events) != n or position != len(raw):
        raise BlockCorrupt(_where(block, f"it holds {len(events)} events in {position} of {len(raw)} bytes"))
    return events


def _column(values: list[T]) -> list[T]:
    return values[:1] if values.count(values[0]) == len(values) else values


def _spread(values: list[T], n: int) -> list[T]:
    return values * n if len(values) == 1 else values


def _where(block: Block, why: str) -> str:
    return f"block {block.partition}/{block.first_offset} of {block.count} events is damaged: {why}"


class _Tools(threading.local):
    """zstd contexts must not be shared by threads; each thread makes its own once."""

    def __init__(self) -> None:
        words = zstandard.ZstdCompressionDict(_dictionary())
        self.compressors = {
            PLAIN: zstandard.ZstdCompressor(level=LEVEL, write_content_size=True),
            DICTIONARY_1: zstandard.ZstdCompressor(level=3, dict_data=words, write_content_size=True),
        }
        self.decompressors = {
            PLAIN: zstandard.ZstdDecompressor(),
            DICTIONARY_1: zstandard.ZstdDecompressor(dict_data=words),
        }


@cache
def _tools() -> _Tools:
    return _Tools()


@cache
def _dictionary() -> bytes:
    return resources.files("adjourn.data").joinpath("log_1.zdict").read_bytes()
