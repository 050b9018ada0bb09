"""What Content-Encoding has packed, inflated within bounds."""

from __future__ import annotations

import gzip
import io
import time
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from adjourn.errors import BodyInvalid, BodyTooLarge, MediaTypeUnsupported
from adjourn.http.compression import DEFLATE, ENCODINGS, decompress

A, B = b'{"session":{"session_id":"a"}}', b'{"session":{"session_id":"b"}}'
MB = 1_000_000
ALL = (*ENCODINGS, DEFLATE)


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


PACK = {"gzip": gzip.compress, "zstd": zstd_streamed, DEFLATE: zlib.compress}


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (gzip.compress(A + B), "gzip"),
        (gzip.compress(A) + gzip.compress(b"") + gzip.compress(B), " GZIP "),
        (zstd(A + B), "zstd"),
        (zstd(A) + zstd(b"") + zstd_streamed(B), "zstd"),
        (b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd(A + B), "zstd"),
        (zlib.compress(A + B), "deflate"),
        (A + B, "identity"),
        (A + B, ""),
    ],
    ids=range(8),
)
def test_every_encoding_gives_back_what_was_packed(packed: bytes, encoding: str) -> None:
    """Members and frames are read one after the other; unknown sizes and skippable frames are no obstacle."""
    assert decompress(packed, encoding, MB, ALL) == A + B


@given(st.binary(max_size=300_000), st.integers(1, 4), st.sampled_from(["gzip", "zstd"]))
def test_what_is_packed_in_pieces_is_unpacked_whole(data: bytes, pieces: int, encoding: str) -> None:
    """Any bytes, in any number of members."""
    pack = gzip.compress if encoding == "gzip" else zstd_streamed
    step = -(-len(data) // pieces) or 1
    packed = b"".join(pack(data[i : i + step]) for i in range(0, max(1, len(data)), step))
    assert decompress(packed, encoding, len(data)) == data


@pytest.mark.parametrize("encoding", ALL)
def test_what_is_cut_off_or_damaged_is_refused(encoding: str) -> None:
    """A truncated body is never taken for a whole one, wherever it is cut; nor is garbage, or garbage behind it."""
    packed = PACK[encoding](A * 20)
    for end in range(1, len(packed)):
        with pytest.raises(BodyInvalid):
            decompress(packed[:end], encoding, MB, ALL)
    flipped = packed[:4] + b"\xff" + packed[5:] if encoding == "zstd" else packed[:20] + b"\xff\xff" + packed[22:]
    for body in (b"garbage", packed + b"garbage", b"\x00" * 100, flipped):
        with pytest.raises(BodyInvalid):
            decompress(body, encoding, MB, ALL)


@pytest.mark.parametrize("encoding", ALL)
def test_a_bomb_is_refused_quickly_in_bounded_memory(encoding: str) -> None:
    """A gigabyte in a few kilobytes costs no more than the limit."""
    bomb = PACK[encoding](b"\x00" * 20 * MB) * 50
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(BodyTooLarge):
            decompress(bomb, encoding, 16 * MB, ALL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MB
    assert time.process_time() - started < 5


@pytest.mark.parametrize("piece", [gzip.compress(b""), zstd(b"")], ids=["gzip", "zstd"])
def test_a_flood_of_empty_pieces_is_refused(piece: bytes) -> None:
    """Members that hold nothing are bounded by their number."""
    with pytest.raises(BodyInvalid, match="compressed pieces"):
        decompress(piece * 200_000, "gzip" if piece[:2] == b"\x1f\x8b" else "zstd", MB)


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
            decompress(body, "zstd", MB)


@pytest.mark.parametrize("encoding", ["br", "gzip, zstd", "deflate", "x" * 1000])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    """415, with those that are read."""
    with pytest.raises(MediaTypeUnsupported, match="gzip, zstd"):
        decompress(A, encoding, MB)
    with pytest.raises(MediaTypeUnsupported, match="send the body as it is"):
        decompress(A, encoding, MB, ())


@given(st.binary(max_size=400), st.sampled_from(ALL))
def test_any_bytes_are_inflated_or_refused(body: bytes, encoding: str) -> None:
    """No other error comes out."""
    try:
        decompress(body, encoding, MB, ALL)
    except (BodyInvalid, BodyTooLarge):
        pass
