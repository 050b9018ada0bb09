"""Signatures: verified by the reference library and by ed25519 itself, and refused secrets that are never shown."""

from __future__ import annotations

import base64
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from adjourn.destinations.webhook_signing import public_key_of, signer_of
from adjourn.errors import ConfigInvalid


def secret(key: bytes, prefix: str = "whsec_") -> str:
    return prefix + base64.b64encode(key).decode()


def test_the_published_example() -> None:
    """The example of the Standard Webhooks libraries gives its published signature."""
    sign = signer_of(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    body = b'{"test": 2432232314}'
    assert sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(min_size=24, max_size=64), st.text())
def test_the_reference_library_verifies_any_body(key: bytes, text: str) -> None:
    """Whatever the body holds, the reference library verifies it with the same secret, and no other body."""
    body, now_s = text.encode("utf-8", "replace"), int(time.time())
    headers = {
        "webhook-id": "evt_1-ab",
        "webhook-timestamp": str(now_s),
        "webhook-signature": signer_of([secret(key)])("evt_1-ab", now_s, body),
    }
    Webhook(secret(key)).verify(body, headers, json_parse=False)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(secret(key)).verify(body + b" ", headers, json_parse=False)


@pytest.mark.parametrize("with_public_half", [False, True])
def test_ed25519_verifies_with_the_public_key(with_public_half: bool) -> None:
    """A `whsk_` in either length signs what its `whpk_` verifies."""
    private = Ed25519PrivateKey.generate()
    key = private.private_bytes_raw() + (private.public_key().public_bytes_raw() if with_public_half else b"")
    signature = signer_of([secret(key, "whsk_")])("evt_1", 1_700_000_000, b"{}")
    public = public_key_of(secret(key, "whsk_"))
    assert public.startswith("whpk_")
    assert signature.startswith("v1a,")
    verifier = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    verifier.verify(base64.b64decode(signature.removeprefix("v1a,")), b"evt_1.1700000000.{}")


def test_all_keys_sign_in_order() -> None:
    """Rotation: one signature for each secret, split by spaces."""
    old, new = secret(b"o" * 24), secret(b"n" * 24)
    both = signer_of([new, old])("i", 1, b"b")
    assert both == f"{signer_of([new])('i', 1, b'b')} {signer_of([old])('i', 1, b'b')}"


@pytest.mark.parametrize(
    ("given_secret", "fact"),
    [
        ("aGlkZGVu", "no known prefix"),
        ("whsec_hidden!", "not base64"),
        (secret(b"hidden"), "6 bytes long"),
        (secret(b"h" * 65), "65 bytes long"),
        (secret(b"h" * 33, "whsk_"), "33 bytes long"),
        (secret(b"h" * 64, "whsk_"), "belongs to another key"),
        (secret(b"h" * 32, "whpk_"), "no known prefix"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_shown(given_secret: str, fact: str) -> None:
    """A slip is told by its place and kind, and never repeated."""
    with pytest.raises(ConfigInvalid, match=fact) as caught:
        signer_of([secret(b"k" * 24), given_secret])
    assert caught.value.path == "signing_secrets[1]"
    assert "hidden" not in caught.value.message
    assert given_secret not in caught.value.message
