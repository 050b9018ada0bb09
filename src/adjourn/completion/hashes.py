"""The hashes by which the log knows events: keyed with the installation's secret and fed with the tenant, so that
nobody else can make two of them collide."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=1024)
def hashers(secret: bytes, tenant: str) -> list[Callable[[], hashlib.blake2b]]:
    """For event ids, session ids and contents: keyed and already fed with the tenant, because a copy is half the price
    of a new one. Each has its own person, so that a session's id never hashes like an event's."""
    name = tenant.encode()
    prefix = len(name).to_bytes(4, "big") + name
    persons = (b"adjourn.event", b"adjourn.session", b"adjourn.content")
    return [hashlib.blake2b(prefix, digest_size=8, key=secret, person=person).copy for person in persons]


def event_id_hash(secret: bytes, tenant: str, event_id: str) -> bytes:
    """`Record.id_hash` of an event's id, to look it up by."""
    hasher = hashers(secret, tenant)[0]()
    hasher.update(event_id.encode("utf-8", "surrogatepass"))
    return hasher.digest()


def content_hash(secret: bytes, tenant: str, body: bytes) -> bytes:
    """`Record.content_hash` of a body as it was sent."""
    hasher = hashers(secret, tenant)[2]()
    hasher.update(body)
    return hasher.digest()
