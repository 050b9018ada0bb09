"""Which few events may have an id: an index of the log, built behind the writers, over what changes no more.

The log is cut into segments of `EVENTS` offsets. Once one is full, its id hashes are put into `SHARDS` rows, by their
first byte; a row has two bytes an event:

    body = CRC-32 | where each of 256 groups begins (257 × u32) | third byte of each hash | bucket of each

The second byte of a hash is its group; the bucket is the place in the segment, to a 256th. So a look-up reads one row a
segment and learns which stretches of the log to search; one in 8 segments names a stretch for nothing. What is not in
the index, the newest events above all, has to be searched whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adjourn.database import Database, Reader, Tx, Value
from adjourn.logs.append import as_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EVENTS = 131_072
SHARDS = 16
BUCKETS = 256
GROUPS = 256
_HEAD_BYTES = 4 + 4 * (GROUPS + 1)
_BLOCKS_AT_ONCE = 64

_KEYS_FROM = (
    "SELECT first_offset, count, keys FROM log_blocks WHERE partition = ? AND first_offset >= ? AND first_offset < ? "
    "ORDER BY first_offset LIMIT ?"
)


def shard_of(id_hash: bytes) -> int:
    return id_hash[0] % SHARDS


def stretches(body: bytes, first_offset: int, id_hash: bytes) -> list[tuple[int, int]] | None:
    """The stretches [from, to) of a segment that may hold the id, newest first; None if its row is damaged."""
    if len(body) < _HEAD_BYTES or zlib.crc32(memoryview(body)[4:]) != int.from_bytes(body[:4], "little"):
        return None
    count = (len(body) - _HEAD_BYTES) // 2
    start, end = struct.unpack_from("<2I", body, 4 + 4 * id_hash[1])
    thirds = body[_HEAD_BYTES + start : _HEAD_BYTES + end]
    buckets = body[_HEAD_BYTES + count + start : _HEAD_BYTES + count + end]
    width = EVENTS // BUCKETS
    places = {bucket for third, bucket in zip(thirds, buckets, strict=True) if third == id_hash[2]}
    return [(first_offset + place * width, first_offset + (place + 1) * width) for place in sorted(places)[::-1]]


async def index(database: Database, partition: int) -> bool:
    """Index the newest segment that is full and not indexed yet; False if there is none. Forgets what retention has
    deleted."""
    tail, missing = await database.read(_missing, partition)
    if missing is None:
        return False
    rows = await database.read(_packed, partition, missing)
    await database.write(_put, partition, missing, rows, tail)
    return True


def _missing(reader: Reader, partition: int) -> tuple[int, int | None]:
    ((tail, head),) = reader.rows("SELECT tail_offset, next_offset FROM log_heads WHERE partition = ?", (partition,))
    rows = reader.rows("SELECT first_offset FROM log_index WHERE partition = ? AND shard = 0", (partition,))
    there = {first for (first,) in rows}
    oldest, end = int(tail or 0) // EVENTS * EVENTS, int(head or 0) // EVENTS * EVENTS
    return oldest, next((first for first in range(end - EVENTS, oldest - 1, -EVENTS) if first not in there), None)


def _packed(reader: Reader, partition: int, segment: int) -> list[bytes]:
    """The rows of a segment, by shard."""
    import numpy as np

    codes: list[npt.NDArray[np.int32]] = []
    places: list[npt.NDArray[np.int64]] = []
    found = reader.rows(
        "SELECT first_offset FROM log_blocks WHERE partition = ? AND first_offset <= ? "
        "ORDER BY first_offset DESC LIMIT 1",
        (partition, segment),
    )
    following = int(found[0][0] or 0) if found else segment
    while rows := reader.rows(_KEYS_FROM, (partition, following, segment + EVENTS, _BLOCKS_AT_ONCE)):
        for first, count, keys in rows:
            start = int(first or 0)
            following = start + 1
            hashes = _hashes(as_bytes(keys), int(count or 0))
            code = (hashes[:, 0] % SHARDS << 16) | hashes[:, 1] << 8 | hashes[:, 2]
            place = np.arange(start - segment, start - segment + len(code))
            inside = (place >= 0) & (place < EVENTS)
            codes.append(code[inside])
            places.append(place[inside])
    return (
        _rows(np.concatenate(codes), np.concatenate(places)) if codes else _rows(np.empty(0, "i4"), np.empty(0, "i8"))
    )


def _hashes(keys: bytes, count: int) -> npt.NDArray[np.int32]:
    """A row an event; none if the keys are not those of `count` events."""
    import numpy as np

    if count <= 0 or len(keys) not in (16 * count, 24 * count):
        return np.empty((0, 3), "i4")
    return np.frombuffer(keys, "u1").reshape(count, -1)[:, :3].astype("i4")


def _rows(codes: npt.NDArray[np.int32], places: npt.NDArray[np.int64]) -> list[bytes]:
    import numpy as np

    order = codes.argsort(kind="stable")
    codes = codes[order]
    thirds = (codes & 255).astype("u1")
    buckets = (places[order] // (EVENTS // BUCKETS)).astype("u1")
    begins = np.searchsorted(codes, np.arange(SHARDS * GROUPS + 1) << 8)
    bodies: list[bytes] = []
    for shard in range(SHARDS):
        mine = begins[shard * GROUPS : (shard + 1) * GROUPS + 1]
        whole = slice(int(mine[0]), int(mine[-1]))
        packed = (mine - mine[0]).astype("<u4").tobytes() + thirds[whole].tobytes() + buckets[whole].tobytes()
        bodies.append(zlib.crc32(packed).to_bytes(4, "little") + packed)
    return bodies


def _put(tx: Tx, partition: int, segment: int, bodies: Sequence[bytes], tail: int) -> None:
    """Another node may have done it too."""
    tx.run("DELETE FROM log_index WHERE partition = ? AND first_offset < ?", (partition, tail))
    for shard, body in enumerate(bodies):
        values: tuple[Value, ...] = (partition, shard, segment, body)
        tx.run(
            "INSERT INTO log_index (partition, shard, first_offset, body) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (partition, shard, first_offset) DO NOTHING",
            values,
        )
