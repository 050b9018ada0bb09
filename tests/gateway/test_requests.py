"""Which session a call belongs to, and the one change that may be made to a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adjourn.gateway.requests import Asked, Keys, id_of, is_api_call, is_model_call, read, with_usage

KEYS = Keys(b"salt")


def test_what_a_body_says() -> None:
    """Both styles' places for ids are read; what is of another type or unfit for an id is not."""
    assert read(b'{"model": "m", "metadata": {"session_id": "s", "user_id": "u"}, "user": "v"}') == Asked("m", "s", "u")
    assert read(b'{"user": "v", "conversation": {"id": "conv_1"}}') == Asked(user_id="v", conversation="conv_1")
    assert read(b'{"conversation": "conv_1", "previous_response_id": "resp_1"}') == Asked(
        conversation="conv_1", previous_response_id="resp_1"
    )
    assert read(b'{"model": 5, "metadata": {"session_id": " s", "user_id": 7}, "safety_identifier": "h"}') == Asked(
        user_id="h"
    )
    for unreadable in (None, b"", b"{", b"[]", b"[" * 100_000, b"\xff", b"--boundary\r\n"):
        assert read(unreadable) == Asked()


@pytest.mark.parametrize("wrong", [None, 5, "", " a", "a ", "a\nb", "a\x00", "\ud800", "x" * 257])
def test_only_what_can_be_an_id_is_one(wrong: Any) -> None:
    """An id that an event could not have would cost the session its completion."""
    assert id_of(wrong) == ""
    assert id_of("user_a b") == "user_a b"


def test_the_more_telling_name_wins() -> None:
    """Explicit id, conversation, user, then who calls: same name same session; another credential, another session."""

    def key(asked: Asked, session_id: str = "", credential: bytes = b"c", agent: bytes = b"a", ip: str = "1") -> str:
        return KEYS.of_call(credential, asked, session_id, agent, ip)[0]

    everything = Asked("m", "s", "u", "conv", "resp")
    assert key(everything, "s") == key(Asked(), "s", agent=b"b", ip="2") == KEYS.explicit(b"c", "s")
    assert key(everything) == key(Asked(conversation="conv"), ip="2")
    assert key(Asked(user_id="u")) == key(Asked(user_id="u", model="n"), ip="2")
    assert key(Asked()) == key(Asked(model="n"))
    assert len({key(Asked()), key(Asked(), ip="2"), key(Asked(), agent=b"b"), key(Asked(), credential=b"d")}) == 4
    assert len({key(everything, "s", credential=c) for c in (b"c", b"d")}) == 2
    _, previous = KEYS.of_call(b"c", Asked(previous_response_id="resp", user_id="u"), "", b"a", "1")
    assert previous == KEYS.response(b"c", "resp")


def test_credentials_are_the_same_in_any_header() -> None:
    """What matters is the key, not how a client writes it; and it cannot be read from the name."""
    bearer = KEYS.credential([(b"authorization", b"Bearer sk-1"), (b"x-other", b"1")])
    assert bearer == KEYS.credential([(b"x-api-key", b"sk-1")])
    assert len({bearer, KEYS.credential([]), KEYS.credential([(b"api-key", b"sk-2")])}) == 3
    assert bearer != Keys(b"other").credential([(b"x-api-key", b"sk-1")])
    assert b"sk-1" not in bearer


def test_what_is_a_call() -> None:
    """POST to a model is one, whatever stands before; everything else only passes."""
    for path in (
        "/v1/chat/completions",
        "/openai/deployments/x/chat/completions",
        "/v1/messages",
        "/api/v1/responses/",
    ):
        assert is_model_call("POST", path)
        assert not is_model_call("GET", path)
    for path in ("/v1/messages/count_tokens", "/v1/responses/resp_1/cancel", "/v1/files", "/v1/messages/batches", "/"):
        assert not is_model_call("POST", path)
    assert is_api_call("/v1/embeddings")
    assert not is_api_call("/v1/responses")


def test_the_wish_for_usage_changes_nothing_else() -> None:
    """Every other value keeps its bytes, its order and its precision."""
    body = b'{"model": "m",  "stream": true, "n":1.10, "seed": 12345678901234567890, "messages": [ {"a":"\\u00e9"} ]}'
    changed = with_usage(body)
    assert changed is not None
    assert json.loads(changed) == {**json.loads(body), "stream_options": {"include_usage": True}}
    assert b'"n":1.10' in changed
    assert b'[ {"a":"\\u00e9"} ]' in changed
    kept = with_usage(b'{"stream": true, "stream_options": {"include_obfuscation": false}}')
    assert json.loads(kept or b"")["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    asked = b'{"stream": true, "stream_options": {"include_usage": false}}'
    for body in (b'{"stream": false}', b"{}", b"[]", b"", asked, b'{"stream": true, "stream_options": 5}'):
        assert with_usage(body) is None
