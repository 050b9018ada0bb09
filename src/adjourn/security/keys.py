"""API keys: `adj_` and 32 random base-62 characters (190 bits), stored as their SHA-256 alone."""

from __future__ import annotations

import hashlib
import re
import secrets

import msgspec

from adjourn.database import Reader, Row, Tx
from adjourn.errors import ConfigInvalid, NotFound
from adjourn.security.roles import MAY, Permission, Role
from adjourn.typed import convert

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_COLUMNS = "id, tenant, name, role, created_ms, revoked_ms"


class Key(msgspec.Struct, frozen=True):
    """A key without its secret."""

    id: str
    tenant: str
    name: str
    role: Role
    created_ms: int
    revoked_ms: int | None = None

    def may(self, permission: Permission) -> bool:
        return permission in MAY[self.role]


def new_secret() -> str:
    return "adj_" + "".join(secrets.choice(_ALPHABET) for _ in range(32))


def digest(secret: str) -> bytes:
    # The secret has 190 random bits: a slow hash would protect nothing more.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def is_tenant(name: str) -> bool:
    """Whether a tenant may be called so."""
    return _TENANT.fullmatch(name) is not None


def check_new(tenant: str, name: str, role: str) -> Role:
    """Raises ConfigInvalid for a tenant, name or role that cannot be."""
    if not is_tenant(tenant):
        raise ConfigInvalid(
            f"tenant {tenant!r} cannot be used; take 1 to 128 letters, digits, '_', '.' or '-'", path="tenant"
        )
    if len(name) > 200 or any(ord(c) < 32 for c in name):
        raise ConfigInvalid("a key's name has at most 200 characters and no control characters", path="name")
    for known in MAY:
        if role == known:
            return known
    raise ConfigInvalid(f"unknown role {role!r}; take one of: {', '.join(MAY)}", path="role")


def insert(tx: Tx, key: Key, secret_digest: bytes) -> None:
    tx.run(
        "INSERT INTO keys (id, tenant, name, role, digest, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (key.id, key.tenant, key.name, key.role, secret_digest, key.created_ms),
    )


def find(reader: Reader, secret_digest: bytes) -> Key | None:
    rows = reader.rows(f"SELECT {_COLUMNS} FROM keys WHERE digest = ?", (secret_digest,))
    return _key(rows[0]) if rows else None


def select(reader: Reader, tenant: str | None) -> list[Key]:
    if tenant is None:
        return [_key(row) for row in reader.rows(f"SELECT {_COLUMNS} FROM keys ORDER BY id")]
    return [_key(row) for row in reader.rows(f"SELECT {_COLUMNS} FROM keys WHERE tenant = ? ORDER BY id", (tenant,))]


def revoke(tx: Tx, key_id: str, tenant: str | None, now_ms: int) -> None:
    """Raises NotFound. Revoking twice keeps the first time."""
    sql = "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?"
    changed = (
        tx.run(sql, (now_ms, key_id)) if tenant is None else tx.run(f"{sql} AND tenant = ?", (now_ms, key_id, tenant))
    )
    if not changed:
        raise NotFound(f"there is no key {key_id}; list them with: adjourn keys list")


def _key(row: Row) -> Key:
    return convert(
        {"id": row[0], "tenant": row[1], "name": row[2], "role": row[3], "created_ms": row[4], "revoked_ms": row[5]},
        Key,
    )
