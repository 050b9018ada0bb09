"""From a request's body to events: NDJSON, one object, an array. Pure, and bounded.

CloudEvents are read in `cloudevents.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from adjourn.completion.validate import Problem
from adjourn.errors import BodyInvalid, BodyTooLarge, MediaTypeUnsupported
from adjourn.http import cloudevents

NDJSON = "application/x-ndjson"
JSON = "application/json"
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_BATCH = "application/cloudevents-batch+json"
LINES = (NDJSON, "application/ndjson", "application/jsonl")
FORM = "application/x-www-form-urlencoded"
"""What `curl -d` says of any body; JSON in it is taken for JSON."""
EVENTS_MAX = 50_000
"""In one request. Megabytes of `0,` would otherwise be millions of items, each refused and kept by itself."""
SLICE_BYTES = 256 * 1024
"""How much is split before the event loop gets its turn."""

_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
# Integers stay text: Python refuses to convert some, and only where an item ends is of interest.
_decode_at = json.JSONDecoder(parse_int=str, parse_float=str, strict=False).raw_decode
_SPACE = re.compile(r"[ \t\r\n]*")


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def too_many() -> BodyTooLarge:
    return BodyTooLarge(f"the body holds more than {EVENTS_MAX} events; send fewer at once")


class Split(msgspec.Struct):
    """The events of a body, each as the bytes that were sent, and what is refused without looking into the event.

    `refused` hold their places among all items of the body; `raws` are the others, in order."""

    raws: list[bytes]
    refused: list[Problem]


def split(body: bytes, content_type: str, headers: Mapping[str, str]) -> Split:
    """All of `parts` at once: for bodies that are small. Raises what `parts` raises."""
    whole = Split([], [])
    for part in parts(body, content_type, headers):
        add(whole, part)
    return whole


def add(whole: Split, part: Split) -> None:
    """Raises BodyTooLarge past `EVENTS_MAX` events."""
    start = len(whole.raws) + len(whole.refused)
    whole.raws = whole.raws + part.raws if whole.raws else part.raws
    whole.refused += [msgspec.structs.replace(problem, index=problem.index + start) for problem in part.refused]
    if len(whole.raws) + len(whole.refused) > EVENTS_MAX:
        raise too_many()


def parts(body: bytes, content_type: str, headers: Mapping[str, str]) -> Iterator[Split]:
    """The events of a body, about `SLICE_BYTES` at a time. Raises BodyInvalid, BodyTooLarge, MediaTypeUnsupported.

    A line or item that is not an event is not this function's business: it is refused by itself, later."""
    kind = media_type(content_type)
    if kind == CLOUD_EVENT:
        yield _cloud([body])
    elif kind == CLOUD_BATCH:
        for items in _items(body):
            yield _cloud(items)
    elif "ce-specversion" in headers:
        # Binary mode: the content type is that of the data, which is judged as every event is.
        yield _one(cloudevents.from_binary(body, headers))
    elif kind in LINES:
        for lines in _lines(body):
            yield Split(lines, [])
    elif kind in (JSON, "") or (kind == FORM and body.lstrip()[:1] in (b"{", b"[")):
        for events in _json(body):
            yield Split(events, [])
    else:
        raise MediaTypeUnsupported(
            f"Content-Type {kind[:80]!r} is not read here; send {NDJSON}, {JSON}, {CLOUD_EVENT} or {CLOUD_BATCH}",
            path="content-type",
        )


def _one(event: bytes | Problem) -> Split:
    return Split([], [event]) if isinstance(event, Problem) else Split([event], [])


def _cloud(items: Sequence[bytes]) -> Split:
    found = Split([], [])
    for index, item in enumerate(items):
        event = cloudevents.from_structured(item, index)
        if isinstance(event, Problem):
            found.refused.append(event)
        else:
            found.raws.append(event)
    return found


def _lines(body: bytes) -> Iterator[list[bytes]]:
    for part in slices(body):
        lines = part.split(b"\n")
        if not lines[-1]:
            lines.pop()
        if b"" in lines or b"\r" in lines:
            lines = [line for line in lines if line.strip()]
        yield lines


def slices(body: bytes) -> Iterator[bytes]:
    """Whole lines, of about `SLICE_BYTES` together."""
    start = 0
    while start < len(body):
        end = body.find(b"\n", start + SLICE_BYTES) + 1 or len(body)
        yield body[start:end]
        start = end


def _json(body: bytes) -> Iterator[list[bytes]]:
    """One object or an array. curl without a content type sends neither header: NDJSON is known by its second line."""
    start = body.lstrip(b" \t\r\n")[:1]
    if start == b"[":
        yield from _items(body)
        return
    if not start:
        raise BodyInvalid("the body is empty; send one event, an array of events, or NDJSON")
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        # Not one JSON value. Lines of objects are taken for what they are, anything else is one bad event.
        first, _, second = body.partition(b"\n")
        if first.lstrip()[:1] == b"{" and second.lstrip()[:1] == b"{":
            yield from _lines(body)
            return
    yield [body]


def _items(body: bytes) -> Iterator[list[bytes]]:
    try:
        if len(body) <= SLICE_BYTES:
            yield [bytes(item) for item in _array(body)]
        else:
            yield from _long_array(body)
    except (ValueError, RecursionError, IndexError) as error:
        raise BodyInvalid(
            f"the body is not a JSON array ({_why(error)}); nothing of it was taken: send it corrected"
        ) from error


def _why(error: Exception) -> str:
    return "it ends too early" if isinstance(error, IndexError) else str(error)


def _long_array(body: bytes) -> Iterator[list[bytes]]:
    """In slices. As Latin-1, in which every byte is one character: places in the text are places in the body."""
    text = body.decode("latin-1")
    position = _past_space(text, 0)
    if text[position] != "[":
        raise ValueError("it begins otherwise")
    position = sliced = _past_space(text, position + 1)
    items: list[bytes] = []
    empty = text[position] == "]"
    while not empty:
        _, end = _decode_at(text, position)
        items.append(body[position:end])
        position = _past_space(text, end)
        if text[position] == "]":
            break
        if text[position] != ",":
            raise ValueError(f"an item is followed by {text[position]!r} at byte {position}")
        position = _past_space(text, position + 1)
        if position - sliced >= SLICE_BYTES:
            yield items
            items, sliced = [], position
    if _past_space(text, position + 1) != len(text):
        raise ValueError(f"something follows it at byte {position + 1}")
    yield items


def _past_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return position if space is None else space.end()
