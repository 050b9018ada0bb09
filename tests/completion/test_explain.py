"""Facts and remedies of bodies that cannot be read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjourn.completion.explain import explain_malformed, explain_type


@pytest.mark.parametrize(
    ("message", "code", "path"),
    [
        ("Expected `int | null`, got `str` - at `$.usage.input_tokens`", "type_invalid", "usage.input_tokens"),
        ("Expected `object`, got `array`", "type_invalid", ""),
        ("Object missing required field `session`", "field_missing", "session"),
        ("Object missing required field `session_id` - at `$.session`", "field_missing", "session.session_id"),
        ("Expected `int` >= 0 - at `$.usage.input_tokens`", "value_invalid", "usage.input_tokens"),
        ("Invalid enum value 'x - at `$.y`' - at `$.event_type`", "value_invalid", "event_type"),
    ],
)
def test_the_decoders_words_become_a_path_and_a_code(message: str, code: str, path: str) -> None:
    """The path is read from the end of the message, whatever a sender's value quotes before it."""
    refused = explain_type(message)
    assert (refused.code, refused.path) == (code, path)
    assert refused.fact
    assert refused.remedy


def test_a_word_that_is_not_known_is_answered_with_those_that_are() -> None:
    """The remedy for a wrong word lists the right ones."""
    refused = explain_type("Invalid enum value 'mail' - at `$.session.transport`")
    assert refused.remedy == "send one of http, sse, websocket, webrtc, sip"


@pytest.mark.parametrize(
    ("body", "code", "fact"),
    [
        (b"", "json_malformed", "empty"),
        (b"\xef\xbb\xbf{}", "encoding_invalid", "byte order mark"),
        (b"\xff\xfe{\x00}\x00", "encoding_invalid", "byte order mark"),
        (b'{"a":"\xff"}', "encoding_invalid", "byte 6 is 0xff"),
        (b'{"a":"\\ud83d"}', "encoding_invalid", "half of a surrogate pair"),
        (b'{"a":"\\ud83d\\ude00","b":"\\uDE00"}', "encoding_invalid", "half of a surrogate pair"),
        (b'{"a":"\\ud83d\\ude00"', "json_malformed", "not JSON"),
        (b"{,}", "json_malformed", "not JSON"),
    ],
)
def test_a_body_that_is_not_json_is_told_why(body: bytes, code: str, fact: str) -> None:
    """Encodings, byte order marks and cut characters are told apart from bad syntax."""
    refused = explain_malformed(body, ValueError("unexpected"))
    assert refused.code == code
    assert fact in refused.fact


@settings(max_examples=300)
@given(st.text(), st.binary(max_size=200))
def test_an_explanation_is_short_and_printable(text: str, body: bytes) -> None:
    """Whatever hostile text an explanation quotes, every part is printable and bounded: any store can keep it."""
    for refused in (
        explain_type(f"{text} - at `$.{text}`"),
        explain_type(text),
        explain_malformed(body, ValueError(text)),
    ):
        for part in (refused.path, refused.fact, refused.remedy):
            assert part.isprintable()
            assert len(part) <= 1000
