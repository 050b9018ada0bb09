"""Keys: made, listed, revoked, and checked on every request."""

from __future__ import annotations

from adjourn.clock import Clock
from adjourn.database import Database
from adjourn.errors import Forbidden, Unauthenticated
from adjourn.ids import new_id
from adjourn.security import keys
from adjourn.security.keys import Key
from adjourn.security.roles import Permission, roles_with

CACHE_S = 5.0
CACHE_KEYS = 10_000

ANONYMOUS = Key(id="", tenant="default", name="no key needed", role="admin", created_ms=0)
"""Who calls when `validation.require_authentication` is off."""


class Keys:
    def __init__(self, database: Database, clock: Clock, *, required: bool) -> None:
        self._database = database
        self._clock = clock
        self._required = required
        self._cache: dict[str, tuple[Key, float]] = {}

    async def create(self, *, tenant: str, name: str, role: str) -> tuple[Key, str]:
        """A new key and its secret, which cannot be read again."""
        checked = keys.check_new(tenant, name, role)
        now_ms = self._clock.wall_ms()
        key = Key(id=new_id("key", now_ms), tenant=tenant, name=name, role=checked, created_ms=now_ms)
        secret = keys.new_secret()
        await self._database.write(keys.insert, key, keys.digest(secret))
        return key, secret

    async def list(self, tenant: str | None = None) -> list[Key]:
        return await self._database.read(keys.select, tenant)

    async def revoke(self, key_id: str, tenant: str | None = None) -> None:
        """Takes effect here at once, on other nodes within `CACHE_S`."""
        await self._database.write(keys.revoke, key_id, tenant, self._clock.wall_ms())
        self._cache.clear()

    def known(self, authorization: str, permission: Permission) -> Key | None:
        """The caller, if it was checked within `CACHE_S`: what the hot path asks before it awaits anything."""
        hit = self._cache.get(authorization)
        if hit is not None and hit[1] > self._clock.monotonic() and hit[0].may(permission):
            return hit[0]
        return None

    async def check(self, authorization: str, permission: Permission, *, remedy: str = "") -> Key:
        """The caller of `Authorization: Bearer adj_…`. `remedy`: what to do where it may not, if not to use a key that
        may. Raises Unauthenticated, Forbidden."""
        key = self.known(authorization, permission) or await self._look_up(authorization)
        if not key.may(permission):
            raise Forbidden(
                f"key {key.id} has the role {key.role}, which lacks {permission}; "
                + (remedy or f"use a key with the role {' or '.join(roles_with(permission))}")
            )
        return key

    async def _look_up(self, authorization: str) -> Key:
        if not authorization and not self._required:
            return ANONYMOUS
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Unauthenticated(
                "this route needs a key; send it as 'Authorization: Bearer adj_…' (make one with: adjourn keys create)"
            )
        key = await self._database.read(keys.find, keys.digest(secret.strip()))
        if key is None:
            raise Unauthenticated("this key is not known here; list the keys with: adjourn keys list")
        if key.revoked_ms is not None:
            raise Unauthenticated(f"key {key.id} was revoked; make a new one with: adjourn keys create")
        if len(self._cache) >= CACHE_KEYS:
            self._cache.clear()
        self._cache[authorization] = (key, self._clock.monotonic() + CACHE_S)
        return key
