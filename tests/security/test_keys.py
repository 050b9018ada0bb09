"""Secrets of keys, and what a key may be called."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.errors import ConfigInvalid
from adjourn.security import keys


def test_secrets_are_long_and_never_twice() -> None:
    """32 base-62 characters behind `adj_`."""
    made = {keys.new_secret() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"adj_[0-9A-Za-z]{32}", secret) for secret in made)


@given(st.text())
def test_any_text_has_a_digest(secret: str) -> None:
    """What a caller sends as a key is hashed whatever it is, so that it can be looked up and not be found."""
    assert len(keys.digest(secret)) == 32
    assert keys.digest(secret) == keys.digest(secret)


@pytest.mark.parametrize(
    ("tenant", "name", "role", "path"),
    [
        ("", "", "admin", "tenant"),
        ("a b", "", "admin", "tenant"),
        ("../x", "", "admin", "tenant"),
        ("x" * 129, "", "admin", "tenant"),
        ("acme\n", "", "admin", "tenant"),
        ("acme", "x" * 201, "admin", "name"),
        ("acme", "a\x00b", "admin", "name"),
        ("acme", "", "king", "role"),
        ("acme", "", "Admin", "role"),
    ],
)
def test_what_a_key_cannot_be_is_refused(tenant: str, name: str, role: str, path: str) -> None:
    """The refusal names which of the three is wrong."""
    with pytest.raises(ConfigInvalid) as refused:
        keys.check_new(tenant, name, role)
    assert refused.value.path == path


def test_good_names_are_taken() -> None:
    """Tenants like file names, roles of the table, names of any script."""
    assert keys.check_new("acme-1.eu_X", "Büro 東京", "auditor") == "auditor"
