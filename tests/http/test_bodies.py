"""Bodies: split into events."""

from __future__ import annotations

import json
import tracemalloc

import pytest
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


@given(st.binary(max_size=400), st.sampled_from(["", *bodies.LINES, "text/x"]))
def test_nothing_but_our_own_errors_comes_out(body: bytes, kind: str) -> None:
    """Whatever the bytes, they are split or refused."""
    try:
        bodies.split(body, kind, {})
    except (BodyInvalid, BodyTooLarge, MediaTypeUnsupported):
        pass
