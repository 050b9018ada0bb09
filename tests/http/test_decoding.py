"""A body as a value, and in words why it is none."""

from __future__ import annotations

import msgspec
import pytest

from adjourn.errors import BodyInvalid
from adjourn.http.decoding import decode, from_query


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    word: str = ""


class One(msgspec.Struct, tag="one", forbid_unknown_fields=True):
    many: list[Inner] = []
    free: dict[str, object] = {}


class Two(msgspec.Struct, tag="two", forbid_unknown_fields=True):
    number: int = 0


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    tag: tuple[str, ...] = ()
    limit: int = 1


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        (b'{"type": "one", "many": [{"wrod": "x"}]}', "many[0].wrod", "did you mean 'word'?"),
        (b'{"type": "tow"}', "type", "did you mean 'two'?"),
        (b'{"type": "two", "number": "x"}', "number", "got `str`"),
        (b'{"type": "one", "many": [{}, {"word": "a\\u0000"}]}', "many[1].word", "NUL"),
        (b"\xff", "", "malformed"),
        ("{", "", "truncated"),
    ],
)
def test_a_refusal_names_the_place_and_what_was_meant(body: bytes | str, path: str, said: str) -> None:
    """In unions of objects too, and in text as in bytes."""
    with pytest.raises(BodyInvalid) as refused:
        decode(body, One | Two)
    assert refused.value.path == path
    assert said in refused.value.message


def test_what_may_be_any_json_may_hold_any_text() -> None:
    """And a backslash before the letters of an escape is no NUL."""
    assert decode(b'{"type": "one", "free": {"a": "\\u0000"}}', One).free == {"a": "\0"}
    assert decode(b'{"word": "\\\\u0000"}', Inner).word == "\\u0000"


def test_an_address_gives_text_that_becomes_values() -> None:
    """A list takes each that is given; anything else is given once."""
    assert from_query([("tag", "a"), ("limit", "3"), ("tag", "b")], Asked) == Asked(tag=("a", "b"), limit=3)
    for pairs, path in (
        ([("limit", "1"), ("limit", "2")], "limit"),
        ([("limti", "1")], "limti"),
        ([("limit", "x")], "limit"),
    ):
        with pytest.raises(BodyInvalid) as refused:
            from_query(pairs, Asked)
        assert refused.value.path == path
