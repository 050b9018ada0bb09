"""Signatures of Standard Webhooks: over `id.timestamp.body`, one for each key, so that keys can be rotated.

`whsec_` + base64 of 24–64 bytes signs with HMAC-SHA256 (`v1`); `whsk_` + base64 of an ed25519 key, 32 bytes of seed or
seed and public key (64), signs with ed25519 (`v1a`), which the receiver verifies with the `whpk_` of `public_key_of`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from adjourn.errors import ConfigInvalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Sign = Callable[[bytes], str]

_FORMS = "give whsec_ and the base64 of 24 to 64 bytes, or whsk_ and that of an ed25519 key"


def signer_of(secrets: Sequence[str]) -> Callable[[str, int, bytes], str]:
    """(id, unix seconds, body) → the value of `webhook-signature`, the signatures in the order of the secrets.
    Raises ConfigInvalid, which does not show them."""
    keys = [_key(secret, number) for number, secret in enumerate(secrets)]

    def sign(message_id: str, timestamp_s: int, body: bytes) -> str:
        content = f"{message_id}.{timestamp_s}.".encode() + body
        return " ".join([key(content) for key in keys])

    return sign


def public_key_of(secret: str) -> str:
    """The `whpk_` that verifies what this `whsk_` signs. Raises ConfigInvalid."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = _private_key(_decoded(secret, "whsk_", 0), 0).public_key()
    return "whpk_" + base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def _key(secret: str, number: int) -> Sign:
    if secret.startswith("whsk_"):
        return _ed25519(_decoded(secret, "whsk_", number), number)
    key = _decoded(secret, "whsec_", number)
    if not 24 <= len(key) <= 64:
        raise _invalid(number, f"is {len(key)} bytes long")

    def sign(content: bytes) -> str:
        return "v1," + binascii.b2a_base64(hmac.digest(key, content, "sha256"), newline=False).decode()

    return sign


def _ed25519(key: bytes, number: int) -> Sign:
    private = _private_key(key, number)

    def sign(content: bytes) -> str:
        return "v1a," + binascii.b2a_base64(private.sign(content), newline=False).decode()

    return sign


def _private_key(key: bytes, number: int) -> Ed25519PrivateKey:
    # Here, since it costs megabytes and few sign this way.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if len(key) not in (32, 64):
        raise _invalid(number, f"is {len(key)} bytes long, and an ed25519 key has 32 or, with its public half, 64")
    private = Ed25519PrivateKey.from_private_bytes(key[:32])
    if len(key) == 64 and private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) != key[32:]:
        raise _invalid(number, "has a public half that belongs to another key")
    return private


def _decoded(secret: str, prefix: str, number: int) -> bytes:
    if not secret.startswith(prefix):
        raise _invalid(number, "has no known prefix")
    try:
        return base64.b64decode(secret.removeprefix(prefix), validate=True)
    except ValueError:
        raise _invalid(number, "is not base64") from None


def _invalid(number: int, fact: str) -> ConfigInvalid:
    return ConfigInvalid(f"signing_secrets[{number}] {fact}; {_FORMS}", path=f"signing_secrets[{number}]")
