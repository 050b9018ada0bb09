"""The bytes of a block: what goes in comes out, and no damaged byte ever does."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.errors import BlockCorrupt
from adjourn.events import Record
from adjourn.logs import block as blocks
from adjourn.testing.exercise_log import event

i64 = st.integers(-(2**63), 2**63 - 1)
hashes = st.binary(min_size=8, max_size=8)
records = st.builds(
    Record,
    tenant=st.sampled_from(["org", "other", "", "é🦀"]),
    session_id=st.just("s"),
    event_id=st.just("e"),
    body=st.binary(max_size=300),
    id_hash=hashes,
    content_hash=hashes,
    received_ms=i64,
    cost_nanousd=st.none() | i64,
    price_ref=st.sampled_from(["", "sent", "genai-prices/1:openai/gpt-4o"]),
    dedupe_hash=st.just(b"") | hashes,
)


def encoded(entries: list[Record], partition: int = 0, first: int = 0) -> blocks.Block:
    return blocks.encode(partition, first, entries, blocks.pack_keys(entries))


@given(entries=st.lists(records, min_size=1, max_size=30), partition=st.integers(0, 99), first=st.integers(0, 2**62))
def test_a_block_comes_back_as_it_was(entries: list[Record], partition: int, first: int) -> None:
    """Events, offsets and identities survive the round trip, whatever they hold."""
    b = encoded(entries, partition, first)
    found = blocks.decode(b)
    assert [(e.tenant, e.body, e.received_ms, e.cost_nanousd, e.price_ref) for e in found] == [
        (r.tenant, r.body, r.received_ms, r.cost_nanousd, r.price_ref) for r in entries
    ]
    assert [(e.partition, e.offset) for e in found] == [(partition, first + n) for n in range(len(entries))]
    assert (b.min_ts, b.max_ts) == (min(r.received_ms for r in entries), max(r.received_ms for r in entries))
    assert blocks.identities(b.keys, b.count) == [r.dedupe_hash or r.id_hash for r in entries]
    for number, record in enumerate(entries):
        assert number in blocks.places(b.keys, b.count, record.id_hash)


@given(
    entries=st.lists(records, min_size=1, max_size=8),
    field=st.sampled_from(["body", "keys", "checksum"]),
    data=st.data(),
)
def test_a_flipped_byte_is_damage(entries: list[Record], field: str, data: st.DataObject) -> None:
    """Any change to any byte, and any cut or growth, raises BlockCorrupt and never gives other events."""
    b = encoded(entries)
    old: bytes = getattr(b, field)
    place = data.draw(st.integers(0, len(old) - 1))
    flipped = old[:place] + bytes([old[place] ^ data.draw(st.integers(1, 255))]) + old[place + 1 :]
    for damaged in (flipped, old[:place], old + b"\0"):
        with pytest.raises(BlockCorrupt):
            blocks.decode(msgspec.structs.replace(b, **{field: damaged}))


@given(
    entries=st.lists(records, min_size=1, max_size=8),
    field=st.sampled_from(["partition", "first_offset", "count", "codec", "min_ts", "max_ts"]),
    value=i64,
)
def test_a_changed_number_is_damage(entries: list[Record], field: str, value: int) -> None:
    """A row whose numbers are not those it was written with raises BlockCorrupt, whatever they are now."""
    b = encoded(entries)
    changed = msgspec.structs.replace(b, **{field: value})
    if changed == b:
        return
    with pytest.raises(BlockCorrupt):
        blocks.decode(changed)


@given(body=st.binary(max_size=200), codec=st.sampled_from([blocks.PLAIN, blocks.DICTIONARY_1]), compress=st.booleans())
def test_nonsense_with_a_true_checksum_is_damage(body: bytes, codec: int, compress: bool) -> None:
    """Bytes that no encoder wrote raise BlockCorrupt even if their checksum fits."""
    import zstandard

    body = zstandard.ZstdCompressor().compress(body) if compress else body
    bare = blocks.Block(0, 0, 3, 0, 0, codec, body, b"k" * 48, b"")
    with pytest.raises(BlockCorrupt):
        blocks.decode(msgspec.structs.replace(bare, checksum=blocks.checksum(bare)))


@given(st.lists(st.lists(records, min_size=1, max_size=5), min_size=1, max_size=6))
def test_joined_keys_are_those_of_all(parts: list[list[Record]]) -> None:
    """The keys of joined blocks, of 16 and of 24 bytes an event, hold the same identities and places as one block's."""
    flat = [record for part in parts for record in part]
    joined = blocks.join_keys([encoded(part) for part in parts])
    assert joined == blocks.pack_keys(flat)
    assert blocks.identities(joined, len(flat)) == [r.dedupe_hash or r.id_hash for r in flat]


def test_keys_that_do_not_fit_their_count_hold_nothing() -> None:
    """Keys of another length than their count says are not cut into wrong identities."""
    keys = blocks.pack_keys([event("a"), event("b")])
    for count in (-1, 0, 1, 3, 4, 1000):
        assert blocks.identities(keys, count) == []


def test_small_blocks_use_the_dictionary(capsys: pytest.CaptureFixture[str]) -> None:
    """A block below 32 KB is compressed with the dictionary and is the smaller for it; a large one is plain."""
    rng = random.Random(3)
    sizes: dict[int, float] = {}
    for count in (1, 10, 100, 2000):
        entries = [event(f"evt_{rng.getrandbits(60):x}", text=rng.randbytes(40).hex()) for _ in range(count)]
        b = encoded(entries)
        raw = sum(len(e.body) for e in entries)
        assert b.codec == (blocks.DICTIONARY_1 if raw < 30_000 else blocks.PLAIN)
        sizes[count] = round((len(b.body) + len(b.keys)) / count, 1)
    with capsys.disabled():
        print(f"bytes an event by events a block: {sizes}")
