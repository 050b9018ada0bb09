"""Looking events up by their ids, one or many at once. In a reader's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from adjourn.database import Reader, Row
from adjourn.errors import BlockCorrupt, Unavailable
from adjourn.events import StoredEvent, decode_identity
from adjourn.logs import block as blocks
from adjourn.logs import index
from adjourn.logs.append import BLOCK_COLUMNS, as_block, as_bytes

BLOCKS_AT_ONCE = 16
SEARCH_EVENTS = 32_768
"""How much of what is not in the index is searched between two looks at the time."""

_KEYS_BEFORE = (
    "SELECT first_offset, count, keys FROM log_blocks WHERE partition = ? AND first_offset < ? AND max_ts >= ? "
    "ORDER BY first_offset DESC LIMIT ?"
)
# Not by its own offset: since its keys were read it may have been merged with those before it.
_BLOCK_OF = (
    f"SELECT {BLOCK_COLUMNS} FROM log_blocks WHERE partition = ? AND first_offset <= ? "
    "ORDER BY first_offset DESC LIMIT 1"
)
_BLOCKS_WITH = (
    f"SELECT {BLOCK_COLUMNS} FROM log_blocks WHERE partition = ? AND first_offset >= "
    "coalesce((SELECT max(first_offset) FROM log_blocks WHERE partition = ? AND first_offset <= ?), 0) "
    "AND first_offset < ? AND %s > 0 ORDER BY first_offset DESC"
)
_HAS = {"sqlite": "instr(keys, ?)", "postgresql": "position(? in keys)"}


def find(
    reader: Reader, id_hash: bytes, tenant: str, event_id: str, out_of_time: Callable[[], bool]
) -> StoredEvent | None:
    """Newest first in each partition. Raises Unavailable where so much is not in the index that time runs out."""
    sql = _BLOCKS_WITH % _HAS[reader.dialect]
    heads = reader.rows("SELECT partition, tail_offset, next_offset FROM log_heads ORDER BY 1")
    for partition, tail, head in [(int(a or 0), int(b or 0), int(c or 0)) for a, b, c in heads]:
        for low, high, indexed in _stretches(reader, partition, tail, head, id_hash):
            if not indexed and out_of_time():
                raise Unavailable(
                    f"the log's index of event ids is still being built: {high - tail} events of partition {partition} "
                    "are not searched yet; ask again in a few seconds",
                    retry_after_ms=5000,
                )
            for row in reader.rows(sql, (partition, partition, low, high, id_hash)):
                event = _in_row(row, id_hash, tenant, event_id)
                if event is not None:
                    return event
    return None


def _stretches(reader: Reader, partition: int, tail: int, head: int, id_hash: bytes) -> Iterator[tuple[int, int, bool]]:
    """Where the id may be: [from, to), and whether the index says so. Newest first."""
    rows = reader.rows(
        "SELECT first_offset, body FROM log_index WHERE partition = ? AND shard = ?",
        (partition, index.shard_of(id_hash)),
    )
    bodies = {int(first or 0): body for first, body in rows}
    for segment in range(head // index.EVENTS * index.EVENTS, tail - index.EVENTS, -index.EVENTS):
        body = bodies.get(segment)
        named = index.stretches(body, segment, id_hash) if isinstance(body, bytes) else None
        if named is not None:
            yield from [(low, high, True) for low, high in named]
            continue
        low, end = max(segment, tail), min(segment + index.EVENTS, head)
        for high in range(end, low, -SEARCH_EVENTS):
            yield max(low, high - SEARCH_EVENTS), high, False


def _in_row(row: Row, id_hash: bytes, tenant: str, event_id: str) -> StoredEvent | None:
    """The hash is compared first, then the id itself: a collision must not hide an event."""
    try:
        block = as_block(row)
        events = blocks.decode(block)
    except BlockCorrupt:
        return None
    for place in blocks.places(block.keys, block.count, id_hash):
        event = events[place]
        if event.tenant == tenant and decode_identity(event.body).event_id == event_id:
            return event
    return None


def find_all(
    reader: Reader, partition: int, tenant: str, wanted: Mapping[bytes, Sequence[str]], since_ms: int = 0
) -> dict[str, StoredEvent]:
    """`wanted`: event ids by their hash. Block by block, newest first, and no farther than until each is found: what is
    sent again was mostly sent a moment ago."""
    found: dict[str, StoredEvent] = {}
    missing = {event_id for ids in wanted.values() for event_id in ids}
    before = 2**62
    while missing:
        rows = reader.rows(_KEYS_BEFORE, (partition, before, since_ms, BLOCKS_AT_ONCE))
        for first, count, keys in rows:
            hashes = blocks.id_hashes(as_bytes(keys), int(count or 0))
            if not wanted.keys().isdisjoint(hashes):
                start = int(first or 0)
                offsets = [start + place for place, one in enumerate(hashes) if one in wanted]
                for event_id, event in _in_block(reader, partition, start, offsets, tenant):
                    if event_id in missing:
                        missing.discard(event_id)
                        found[event_id] = event
            before = int(first or 0)
        if len(rows) < BLOCKS_AT_ONCE:
            break
    return found


def _in_block(
    reader: Reader, partition: int, first_offset: int, offsets: Sequence[int], tenant: str
) -> list[tuple[str, StoredEvent]]:
    rows = reader.rows(_BLOCK_OF, (partition, first_offset))
    try:
        events = {event.offset: event for event in blocks.decode(as_block(rows[0]))} if rows else {}
    except BlockCorrupt:
        return []
    there = [events[offset] for offset in reversed(offsets) if offset in events]
    return [(decode_identity(event.body).event_id, event) for event in there if event.tenant == tenant]
