from __future__ import annotations

import json
import pprint

import msgspec
import pytest

from adjourn.secret import Secret, mask, mask_header, reveal


def test_a_secret_shows_only_where_it_came_from() -> None:
    """repr, str, format, pprint and containers show the source; reveal alone gives the value."""
    secret = Secret("hidden", "env DB")
    assert str(secret) == f"{secret}" == "*** (env DB)"
    assert "hidden" not in repr(secret) + repr([secret]) + pprint.pformat({"a": secret}) + f"{secret!s:>20}"
    assert reveal(secret) == secret.reveal() == "hidden"
    assert reveal("plain") == "plain"


def test_no_encoder_takes_a_secret() -> None:
    """A secret that strays into a response or a record fails loudly instead of being written."""
    for encode in (msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, json.dumps):
        with pytest.raises(TypeError):
            encode(Secret("hidden", "env DB"))
    with pytest.raises(TypeError):
        vars(Secret("hidden", "env DB"))


def test_secrets_compare_by_value_and_source() -> None:
    """Equal means the same value from the same source, so that settings can be compared."""
    assert Secret("a", "s") == Secret("a", "s")
    assert len({Secret("a", "s"), Secret("a", "s"), Secret("b", "s"), Secret("a", "t")}) == 3


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://user:hidden@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://user:hid@de/n:x@host/db", "postgresql://user:***@host/db"),
        (
            "postgresql://host/db?user=u&password=hidden&sslmode=require",
            "postgresql://host/db?user=u&password=***&sslmode=require",
        ),
        ("host=h password='hid den' user=u", "host=h password=*** user=u"),
        ("host=h sslpassword = hidden", "host=h sslpassword = ***"),
        ("https://hidden@host/x", "https://***@host/x"),
        ("https://host/x?access_token=hidden&a=1", "https://host/x?access_token=***&a=1"),
        ("https://host/x?api_key=hidden", "https://host/x?api_key=***"),
        ("https://host/x?code=hidden&auth=hidden", "https://host/x?code=***&auth=***"),
        ("https://host/x#access_token=hidden", "https://host/x#access_token=***"),
        ("sqlite:///data/adjourn.db", "sqlite:///data/adjourn.db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
    ],
)
def test_literal_passwords_are_masked(text: str, masked: str) -> None:
    """Passwords, tokens and keys written into a URL or connection string are hidden; the rest stays readable."""
    assert mask(text) == masked
    assert mask(masked) == masked


def test_headers_are_masked_unless_harmless() -> None:
    """Any header may carry a credential: only the few that never do are shown."""
    assert mask_header("Authorization", "Bearer x") == mask_header("X-Custom", "x") == "***"
    assert mask_header("Content-Type", "application/json") == "application/json"
    assert mask_header("Accept", Secret("x", "env A")) == "*** (env A)"
