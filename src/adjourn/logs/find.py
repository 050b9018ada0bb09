"""Looking events up by their ids, many at once. In a reader's thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adjourn.database import Reader
from adjourn.errors import BlockCorrupt
from adjourn.events import StoredEvent, decode_identity
from adjourn.logs import block as blocks
from adjourn.logs.append import BLOCK_COLUMNS, as_block, as_bytes

BLOCKS_AT_ONCE = 16

_KEYS_BEFORE = (
    "SELECT first_offset, count, keys FROM log_blocks WHERE partition = ? AND first_offset < ? AND max_ts >= ? "
    "ORDER BY first_offset DESC LIMIT ?"
)
# Not by its own offset: since its keys were read it may have been merged with those before it.
_BLOCK_OF = (
    f"SELECT {BLOCK_COLUMNS} FROM log_blocks WHERE partition = ? AND first_offset <= ? "
    "ORDER BY first_offset DESC LIMIT 1"
)


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
