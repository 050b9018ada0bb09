"""Copies of answers: any cut, any encoding, any size, any damage."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway import answers

from adjourn.gateway.copies import COPY_BYTES_MAX, PIECE_BYTES, AnswerCopy, Events, decoded, decoder
from adjourn.gateway.usage import Usage

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "br": brotli.compress,
}


def pieces(data: bytes, rng: random.Random, size_max: int) -> list[bytes]:
    found: list[bytes] = []
    while data:
        size = rng.randint(1, size_max)
        found.append(data[:size])
        data = data[size:]
    return found


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("kind", "body"), [
    (SSE, b"".join(answers.message_stream("m"))),
    (JSON, json.dumps(answers.message("m")).encode()),
])  # fmt: skip
def test_any_encoding_in_any_pieces(encoding: str, kind: str, body: bytes, rng: random.Random) -> None:
    """However it is encoded and cut, the copy says the same; and it says so before its last byte has passed."""
    for size_max in (1, 7, 1000):
        copy = AnswerCopy(kind, encoding)
        parts = pieces(ENCODINGS[encoding](body), rng, size_max)
        for number, part in enumerate(parts):
            copy.take(part, last=number == len(parts) - 1)
        assert copy.reading.usage == Usage(1125, 15, 1000, 100)
        assert copy.reading.finish_reason == "end_turn"


def test_whole_json_is_known_without_its_length() -> None:
    """The piece that ends a JSON answer is read before it passes, although nothing says that it is the last."""
    body = json.dumps(answers.chat("gpt-4o")).encode()
    copy = AnswerCopy(JSON, "")
    assert not copy.take(body[:100], last=False)
    assert copy.take(body[100:], last=False)
    assert not copy.take(b"\n", last=True)
    assert copy.reading.usage.input_tokens == 19


def test_a_huge_answer_is_read_from_its_end() -> None:
    """Of megabytes of vectors only the end is kept, which has the tokens."""
    vectors = 250_000
    body = json.dumps(answers.embeddings("e", vectors)).encode()
    assert len(body) > 2 * COPY_BYTES_MAX
    copy = AnswerCopy(JSON, "")
    for at in range(0, len(body), 60_000):
        copy.take(body[at : at + 60_000], last=at + 60_000 >= len(body))
    assert copy.reading.usage == Usage(8)
    quoting = json.dumps({"text": 'the last words were "usage": {"prompt_tokens": 5}'}).encode()
    copy = AnswerCopy(JSON, "")
    copy.take(b'{"a": "' + b"x" * COPY_BYTES_MAX + b'", "b": ' + quoting + b"}", last=True)
    assert copy.reading.usage == Usage(), "what a text quotes is no count"


@pytest.mark.parametrize(("kind", "encoding", "body"), [
    (JSON, "gzip", b"no gzip"), (JSON, "br", b"\xff" * 99), (JSON, "zstd", b"x"), (JSON, "deflate", b"\x00"),
    (JSON, "gzip, br", b"x"), (JSON, "rot13", b"x"), ("text/html", "", b"<html>}"), ("", "", b"{}"),
    (JSON, "", b"{"), (JSON, "", b"[" * 100_000), (JSON, "", b'[{"usage": 1}]'),
    (SSE, "", b"data: {\n\ndata: {}}\n\ndata: [\n\ndata\n\n:\n\n\n\n"), (SSE, "", b"\xff\xfe\n\n"),
])  # fmt: skip
def test_what_cannot_be_read_is_left_unread(kind: str, encoding: str, body: bytes) -> None:
    """Nothing is raised and nothing is made up."""
    copy = AnswerCopy(kind, encoding)
    copy.take(body, last=False)
    copy.take(b"", last=True)
    copy.finish()
    assert copy.reading.usage == Usage()


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br"])
def test_bombs_stay_small(encoding: str) -> None:
    """A hundred megabytes in a few kilobytes come out in pieces, and a whole body that large is not read."""
    data = ENCODINGS[encoding](b" " * 100_000_000)
    decode = decoder(encoding)
    assert decode is not None
    sizes = [len(piece) for piece in decode(data)]
    assert sum(sizes) == 100_000_000
    assert max(sizes) <= 40 * PIECE_BYTES
    assert decoded(encoding, data, COPY_BYTES_MAX) is None
    assert decoded(encoding, ENCODINGS[encoding](b"{}"), 10) == b"{}"


@given(st.lists(st.sampled_from([b"data: a", b"data:b", b"event: x", b": note", b"id: 1", b"", b"", b"data"])),
       st.sampled_from([b"\n", b"\r\n", b"\r"]), st.randoms())  # fmt: skip
def test_events_do_not_depend_on_cuts_or_line_ends(lines: list[bytes], ending: bytes, rng: random.Random) -> None:
    """Any stream gives the same events whichever way it is cut, and whichever line end it uses."""
    whole = b"".join(line + b"\n" for line in lines)
    cut = pieces(b"".join(line + ending for line in lines), rng, 5)
    events = Events(1000)
    assert [data for part in cut for data in events.feed(part)] == Events(1000).feed(whole)


def test_line_ends_may_change_within_a_stream() -> None:
    """A line that ends with CR LF before an empty one of LF alone ends its event, however it is cut."""
    stream = b"data: 1\r\n\ndata: 2\r\rdata: 3\n\r\n"
    for size in (1, 2, 3, 100):
        events = Events(1000)
        cut = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [data for part in cut for data in events.feed(part)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\r"])
def test_a_stream_that_ends_without_an_empty_line_is_read_to_its_end(ending: bytes) -> None:
    """What its last event says of tokens counts, as the client has got it."""
    copy = AnswerCopy(SSE, "")
    copy.take(b'data: {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}' + ending, last=False)
    assert copy.finish()
    assert (copy.reading.usage.input_tokens, copy.reading.usage.output_tokens) == (5, 7)


def test_an_event_that_is_too_large_is_left_out(rng: random.Random) -> None:
    """Those around it are read, and no more than the bound is held."""
    stream = b"data: 1\n\ndata: " + b"x" * 5000 + b"\n\n" + b"data: yy\n" * 300 + b"\ndata: 2\n\n"
    for size_max in (3, 100, 10_000):
        events = Events(1000)
        assert [data for part in pieces(stream, rng, size_max) for data in events.feed(part)] == [b"1", b"2"]
