"""Bodies: split into events, inflated within bounds."""

from __future__ import annotations

import gzip
import io
import json
import time
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from adjourn.errors import BodyInvalid, BodyTooLarge, MediaTypeUnsupported
from adjourn.http import bodies

A, B = b'{"session":{"session_id":"a"}}', b'{"session":{"session_id":"b"}}'
MB = 1_000_000


def raws(body: bytes, kind: str) -> list[bytes]:
    return bodies.split(body, kind, {}).raws


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (A + b"\n" + B, "application/x-ndjson"),
        (A + b"\n" + B + b"\n", "application/x-ndjson; charset=utf-8"),
        (b"\n" + A + b"\r\n\r\n" + B + b"\n\n", "Application/JSONL"),
        (b"[" + A + b"," + B + b"]", "application/json"),
        (b" [ " + A + b" ,\n" + B + b" ] ", ""),
        (A + b"\n" + B, "application/json"),
        (b"[" + A + b"," + B + b"]", "application/x-www-form-urlencoded"),
    ],
)
def test_two_events_are_found_in_every_shape(body: bytes, kind: str) -> None:
    """NDJSON, an array, and lines that were sent without their type hold the same events in the same order."""
    assert [raw.strip() for raw in raws(body, kind)] == [A, B]


@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)))
def test_a_long_array_is_cut_as_a_short_one(values: list[object]) -> None:
    """The splitter for long arrays finds the same items as the decoder that short ones go through."""
    body = json.dumps(values, ensure_ascii=False).encode()
    padded = b" " * bodies.SLICE_BYTES + body
    assert raws(padded, "application/json") == raws(body, "application/json")


def test_a_long_array_comes_in_slices() -> None:
    """Megabytes are split a little at a time, so that the event loop has its turn between."""
    body = b"[" + b",".join([A] * 40_000) + b"]"
    slices = [len(part.raws) for part in bodies.parts(body, "application/json", {})]
    assert sum(slices) == 40_000
    assert max(slices) * len(A) < 2 * bodies.SLICE_BYTES
    lines = [len(part.raws) for part in bodies.parts(b"\n".join([A] * 40_000), "application/x-ndjson", {})]
    assert sum(lines) == 40_000
    assert max(lines) * len(A) < 2 * bodies.SLICE_BYTES


@pytest.mark.parametrize("tail", [b"", b",", b",]", b"]]", b"] x", b"1 2]", b"}", b'"', b"nul]"])
def test_a_broken_long_array_is_refused_whole(tail: bytes) -> None:
    """However an array ends wrongly, nothing of it is taken."""
    body = b"[" + b",".join([A] * 10_000) + (b"," if tail[:1] not in b",]}" or not tail else b"") + tail
    with pytest.raises(BodyInvalid, match="not a JSON array"):
        raws(body, "application/json")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[" * 16 * MB, "application/json"),
        (b"[" * 1000 + b"]" * 1000, "application/json"),
        (b"[" + b"0," * 8 * MB + b"0]", "application/json"),
        (b"1\n" * 8 * MB, "application/x-ndjson"),
        (b"\n" * 16 * MB, "application/x-ndjson"),
        (b'{"a":' * 3 * MB, "application/json"),
    ],
    ids=["open brackets", "nested", "numbers", "lines", "blank lines", "open braces"],
)
def test_floods_of_brackets_and_items_cost_little(body: bytes, kind: str) -> None:
    """What is made to explode is refused or passed on as one bad event, in bounded memory."""
    tracemalloc.start()
    try:
        found = bodies.split(body, kind, {})
        assert len(found.raws) <= 1
    except (BodyInvalid, BodyTooLarge):
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 * len(body) + 16 * MB


def test_more_events_than_one_request_may_hold_are_refused() -> None:
    """The number of events is bounded, and not only their bytes."""
    assert len(raws(b"1\n" * bodies.EVENTS_MAX, "application/x-ndjson")) == bodies.EVENTS_MAX
    with pytest.raises(BodyTooLarge, match="50000 events"):
        raws(b"1\n" * (bodies.EVENTS_MAX + 1), "application/x-ndjson")
    with pytest.raises(BodyTooLarge):
        raws(b"[" + b"1," * bodies.EVENTS_MAX + b"1]", "application/json")


def test_an_unknown_type_is_refused_with_those_that_are_read() -> None:
    """415 says what to send instead."""
    with pytest.raises(MediaTypeUnsupported, match="application/x-ndjson") as refused:
        raws(A, "text/xml")
    assert refused.value.path == "content-type"


# --- compression -----------------------------------------------------------------------------------------------------


def zstd(data: bytes, level: int = 3, **options: int) -> bytes:
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(level, **options)
    )
    return compressor.compress(data)


def zstd_streamed(data: bytes) -> bytes:
    """Without its size in the header, as streams are."""
    target = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(target, closefd=False) as writer:
        writer.write(data)
    return target.getvalue()


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (gzip.compress(A + B), "gzip"),
        (gzip.compress(A) + gzip.compress(b"") + gzip.compress(B), " GZIP "),
        (zstd(A + B), "zstd"),
        (zstd(A) + zstd(b"") + zstd_streamed(B), "zstd"),
        (b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd(A + B), "zstd"),
        (A + B, "identity"),
        (A + B, ""),
    ],
    ids=range(7),
)
def test_every_encoding_gives_back_what_was_packed(packed: bytes, encoding: str) -> None:
    """Members and frames are read one after the other; unknown sizes and skippable frames are no obstacle."""
    assert bodies.decompress(packed, encoding, MB) == A + B


@given(st.binary(max_size=300_000), st.integers(1, 4), st.sampled_from(["gzip", "zstd"]))
def test_what_is_packed_in_pieces_is_unpacked_whole(data: bytes, pieces: int, encoding: str) -> None:
    """Any bytes, in any number of members."""
    pack = gzip.compress if encoding == "gzip" else zstd_streamed
    step = -(-len(data) // pieces) or 1
    packed = b"".join(pack(data[i : i + step]) for i in range(0, max(1, len(data)), step))
    assert bodies.decompress(packed, encoding, len(data)) == data


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_is_cut_off_or_damaged_is_refused(encoding: str) -> None:
    """A truncated body is never taken for a whole one, wherever it is cut; nor is garbage, or garbage behind it."""
    packed = (gzip.compress if encoding == "gzip" else zstd_streamed)(A * 20)
    for end in range(1, len(packed)):
        with pytest.raises(BodyInvalid):
            bodies.decompress(packed[:end], encoding, MB)
    flipped = packed[:20] + b"\xff\xff" + packed[22:] if encoding == "gzip" else packed[:4] + b"\xff" + packed[5:]
    for body in (b"garbage", packed + b"garbage", b"\x00" * 100, flipped):
        with pytest.raises(BodyInvalid):
            bodies.decompress(body, encoding, MB)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused_quickly_in_bounded_memory(encoding: str) -> None:
    """A gigabyte in a few kilobytes costs no more than the limit."""
    bomb = (gzip.compress if encoding == "gzip" else zstd)(b"\x00" * 10 * MB) * 100
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(BodyTooLarge):
            bodies.decompress(bomb, encoding, 16 * MB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MB
    assert time.process_time() - started < 5


@pytest.mark.parametrize("piece", [gzip.compress(b""), zstd(b"")], ids=["gzip", "zstd"])
def test_a_flood_of_empty_pieces_is_refused(piece: bytes) -> None:
    """Members that hold nothing are bounded by their number."""
    with pytest.raises(BodyInvalid, match="compressed pieces"):
        bodies.decompress(piece * 200_000, "gzip" if piece[:2] == b"\x1f\x8b" else "zstd", MB)


def test_windows_and_dictionaries_that_we_do_not_have_are_refused() -> None:
    """A frame may not ask for more memory than RFC 9659 grants, nor for a dictionary that nobody gave us."""
    wide = io.BytesIO()
    params = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    with zstandard.ZstdCompressor(compression_params=params).stream_writer(wide, closefd=False) as writer:
        writer.write(A)
    samples = [b'{"session":{"session_id":"%d"},"n":%d}' % (i, i * i) for i in range(2000)]
    dictionary = zstandard.train_dictionary(2048, samples)
    foreign = zstandard.ZstdCompressor(dict_data=dictionary).compress(A)
    for body in (wide.getvalue(), foreign):
        with pytest.raises(BodyInvalid):
            bodies.decompress(body, "zstd", MB)


@pytest.mark.parametrize("encoding", ["br", "gzip, zstd", "deflate", "x" * 1000])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    """415, with those that are read."""
    with pytest.raises(MediaTypeUnsupported, match="gzip, zstd"):
        bodies.decompress(A, encoding, MB)


@given(st.binary(max_size=400), st.sampled_from(["", "gzip", "zstd"]), st.sampled_from(["", *bodies.LINES, "text/x"]))
def test_nothing_but_our_own_errors_comes_out(body: bytes, encoding: str, kind: str) -> None:
    """Whatever the bytes, they are split or refused."""
    try:
        bodies.split(bodies.decompress(body, encoding, MB), kind, {})
    except (BodyInvalid, BodyTooLarge, MediaTypeUnsupported):
        pass
