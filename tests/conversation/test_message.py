"""Bodies of messages: small as they are, large ones compressed, and what cannot be read is said loudly."""

from __future__ import annotations

import random

import msgspec
import pytest
from tests.conversation.rigs import call, result, text

from adjourn.conversation.message import COMPRESSED_BYTES_MIN, PLAIN, ZSTD, Draft, canonical, pack, read_body
from adjourn.errors import BodyInvalid, MessageUnreadable
from adjourn.runner import Part


def test_a_body_comes_back_as_it_went_in() -> None:
    """Parts of every type and metadata survive, with every character and every number as it was."""
    parts = [
        Part(type="text", text='ein Wort – 词 🙂 \x00 \\ "'),
        Part(type="reasoning", text="because"),
        Part(type="image", url="https://example.com/a.png", media_type="image/png"),
        Part(type="attachment", url="file:///a.pdf", media_type="application/pdf"),
        call("c1", '{"n": 12345678901234567890, "x": [1.50, null]}'),
        result("c1", '"no"', is_error=True),
    ]
    draft = Draft(role="assistant", parts=parts, metadata={"a": {"b": [1, True, None, "é"]}})
    body = read_body(*pack(draft), "msg_1")
    assert msgspec.json.encode(body.parts) == msgspec.json.encode(parts)
    assert bytes(body.parts[4].arguments) == bytes(parts[4].arguments)
    assert body.metadata == draft.metadata


def test_large_bodies_are_compressed_where_that_helps(rng: random.Random) -> None:
    """Below the bound nothing is; above it what shrinks is, and what does not stays plain; all of them come back."""
    noise = "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(COMPRESSED_BYTES_MIN))
    small, large = text("a" * 900), text("a" * 100_000)
    assert pack(small)[0] == PLAIN
    codec, packed = pack(large)
    assert codec == ZSTD
    assert len(packed) < 1_000
    for draft in (small, large, text(noise)):
        codec, packed = pack(draft)
        assert read_body(codec, packed, "msg_1").parts[0].text == draft.parts[0].text
        assert len(packed) <= len(msgspec.json.encode({"parts": draft.parts}))


@pytest.mark.parametrize("arguments", [b"", b"{", b"{}}", b"\xff", b"{'a': 1}"])
def test_nothing_is_written_that_cannot_be_read(arguments: bytes) -> None:
    """Arguments that are not JSON are refused when they are written, not found when a conversation is read."""
    part = Part(type="tool_call", id="c1", name="look", arguments=msgspec.Raw(arguments))
    with pytest.raises(BodyInvalid, match="not JSON"):
        pack(Draft(role="assistant", parts=[part]))


@pytest.mark.parametrize(
    ("codec", "body", "what"),
    [
        (7, b"{}", "codec 7.*upgrade"),
        (16, b"{}", "codec 16.*upgrade"),
        (ZSTD, b"{}", "msg_9 is damaged"),
        (PLAIN, b"{", "msg_9 is damaged"),
        (PLAIN, b'{"parts": [{"type": "dance"}]}', "msg_9 is damaged"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_message(codec: int, body: bytes, what: str) -> None:
    """A damaged body, or one of a codec that is not known, is never an empty message."""
    with pytest.raises(MessageUnreadable, match=what):
        read_body(codec, body, "msg_9")


def test_two_bodies_that_say_the_same_are_the_same() -> None:
    """The order of names and blanks do not count; 1, 1.0 and true are not the same."""
    assert canonical(b'{"a": 1, "b": {"d": 2, "c": 3}}') == canonical(b'{"b":{"c":3,"d":2},"a":1}')
    assert len({canonical(b"[1]"), canonical(b"[1.0]"), canonical(b"[true]")}) == 3
