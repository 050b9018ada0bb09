"""A request's body, read within bounds."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping, Sequence

import pytest

from adjourn.errors import AdjournError, BodyInvalid, BodyTooLarge, MediaTypeUnsupported, TooBusy
from adjourn.http import reading
from adjourn.http.raw import Message, Receive
from adjourn.http.reading import BodyReader, Gone, Held

MAX = 1000


def sent(parts: Sequence[bytes | None]) -> Receive:
    """What a server hands over of a body in `parts`; None: the client hangs up."""
    messages: list[Message] = [
        {"type": "http.disconnect"} if part is None else {"type": "http.request", "body": part, "more_body": True}
        for part in parts
    ]
    messages[-1]["more_body"] = False
    following = iter(messages)

    async def receive() -> Message:
        return next(following)

    return receive


def read(reader: BodyReader, parts: Sequence[bytes | None], headers: Mapping[str, str] | None = None) -> bytes:
    with Held(reader) as held:
        return asyncio.run(reader.read(headers or {}, sent(parts), held))


@pytest.mark.parametrize("parts", [[b"x" * MAX], [b"x" * 999, b"", b"x"], [b""], [b"a", b"b"]])
def test_a_body_within_bounds_is_read_whole(parts: list[bytes]) -> None:
    """In one piece or in many, up to the last byte that is allowed; nothing stays held."""
    reader = BodyReader(MAX)
    assert read(reader, parts) == b"".join(parts)
    assert reader.bytes_held == 0


@pytest.mark.parametrize("length", ["1001", "9" * 5000])
def test_a_length_that_is_too_large_is_refused_unread(length: str) -> None:
    """Before anything of the body came, with what the sender can do."""
    with pytest.raises(BodyTooLarge, match="larger than 1000 bytes; send less"):
        read(BodyReader(MAX, remedy="send less"), [None], {"content-length": length})


@pytest.mark.parametrize("length", ["", "-1", "²", "1e3", "ten"])
def test_a_length_that_is_no_number_bounds_nothing(length: str) -> None:
    """The server below has judged it; here it says nothing, and what comes is counted."""
    assert read(BodyReader(MAX), [b"x"], {"content-length": length}) == b"x"


@pytest.mark.parametrize(
    ("parts", "headers", "error"),
    [
        ([b"x" * 600, b"x" * 600, None], {}, BodyTooLarge),
        ([gzip.compress(b"x" * 1001)], {"content-encoding": "gzip"}, BodyTooLarge),
        ([gzip.compress(b"x" * 200_000, 0)], {"content-encoding": "gzip"}, BodyTooLarge),
        ([b"no gzip"], {"content-encoding": "gzip"}, BodyInvalid),
        ([b"x"], {"content-encoding": "deflate"}, MediaTypeUnsupported),
    ],
    ids=["in pieces", "inflated", "a large one", "damaged", "another encoding"],
)
def test_what_cannot_be_read_leaves_nothing_held(
    parts: list[bytes | None], headers: dict[str, str], error: type[AdjournError]
) -> None:
    """Each way of being refused gives its room back."""
    reader = BodyReader(MAX)
    with pytest.raises(error):
        read(reader, parts, headers)
    assert reader.bytes_held == 0


def test_a_large_body_is_inflated_beside_the_event_loop() -> None:
    """Others have their turn while a thread inflates."""
    body = b"x" * 400_000
    packed = gzip.compress(body, 0)
    assert len(packed) > reading.INFLATE_INLINE_BYTES

    async def both() -> tuple[bytes, int]:
        reader, turns = BodyReader(500_000), 0
        with Held(reader) as held:
            task = asyncio.create_task(reader.read({"content-encoding": "gzip"}, sent([packed]), held))
            while not task.done():
                turns += 1
                await asyncio.sleep(0)
            assert reader.bytes_held == len(packed) + len(body)
            return task.result(), turns

    found, turns = asyncio.run(both())
    assert found == body
    assert turns > 2


def test_half_a_body_is_none() -> None:
    """A client that hangs up in the middle has sent nothing, and holds nothing."""
    reader = BodyReader(MAX)
    with pytest.raises(Gone):
        read(reader, [b"half", None])
    assert reader.bytes_held == 0


def test_all_bodies_of_a_door_share_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past it a new one is told to come back; one alone is let in, however small the room is."""
    monkeypatch.setattr(reading, "BODIES_BYTES_MAX", 10)
    reader = BodyReader(MAX)
    assert read(reader, [b"x" * 20]) == b"x" * 20
    with Held(reader) as other:
        other.add(8)
        assert (reader.has_room(2), reader.has_room(3)) == (True, False)
        assert read(reader, [b"xx"]) == b"xx"
        with pytest.raises(TooBusy):
            read(reader, [b"xxx"])
        with pytest.raises(TooBusy):
            read(reader, [gzip.compress(b"x")], {"content-encoding": "gzip"})
        assert reader.bytes_held == 8
    assert read(reader, [b"xxx"]) == b"xxx"
