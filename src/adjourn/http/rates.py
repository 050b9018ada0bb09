"""How often a key and a user may ask for sessions: token buckets, of this process alone.

A bucket is full at first and fills at its rate. Each request takes a token; one that finds none is refused and takes
nothing, neither of its key nor of its user: a user who asks too often uses up nothing of those who share the key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Literal
from urllib.parse import unquote

from litestar.connection import ASGIConnection

from adjourn.clock import Clock
from adjourn.errors import NotFound, RateLimited
from adjourn.node import Node
from adjourn.security.keys import Key
from adjourn.settings import ServerSettings

PATH = "/v1/sessions"
BUCKETS_MAX = 100_000
"""Of keys, and of users. Past it the one that was used longest ago is forgotten, which is to say full."""
USERS_MAX = 100_000
"""Sessions whose users are remembered."""

By = Literal["key", "user"]

_NS = 1_000_000_000


class Buckets:
    """By name, each as the time at which it would be full (the generic cell rate algorithm). In whole nanoseconds, so
    that whoever waits as long as it is told finds a token."""

    def __init__(self, per_s: float, burst: int | None = None, buckets_max: int = BUCKETS_MAX) -> None:
        """`burst`: how many tokens a bucket holds; without one, what a second brings, and one at least."""
        self.per_s = per_s
        self.burst = max(1, int(per_s)) if burst is None else burst
        self._token_ns = max(1, round(_NS / per_s))
        self._buckets_max = buckets_max
        self._full_ns: OrderedDict[Hashable, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_ns)

    def wait_ns(self, name: Hashable, now_ns: int) -> int:
        """Until there is a token; 0: there is one."""
        return max(0, self._full_ns.get(name, 0) - now_ns - (self.burst - 1) * self._token_ns)

    def take(self, name: Hashable, now_ns: int) -> None:
        full_ns = self._full_ns
        full_ns[name] = max(full_ns.get(name, 0), now_ns) + self._token_ns
        full_ns.move_to_end(name)
        for _ in range(2):  # more than are added; a full one is as good as none
            oldest = next(iter(full_ns))
            if full_ns[oldest] > now_ns and len(full_ns) <= self._buckets_max:
                break
            del full_ns[oldest]

    def give_back(self, name: Hashable) -> None:
        if name in self._full_ns:
            self._full_ns[name] -= self._token_ns


class Rates:
    """All of one server; off where the settings name no rate."""

    def __init__(self, settings: ServerSettings, clock: Clock) -> None:
        self._clock = clock
        per_key, per_user = settings.requests_per_key_per_s, settings.requests_per_user_per_s
        self._keys = None if per_key is None else Buckets(per_key, settings.requests_per_key_burst)
        self._users = None if per_user is None else Buckets(per_user, settings.requests_per_user_burst)
        self._user_of: OrderedDict[tuple[str, str], str] = OrderedDict()
        self.refused: dict[By, int] = {"key": 0, "user": 0}

    async def admit(self, node: Node, key: Key, session_id: str = "") -> None:
        """A request of that key, about that session. Raises RateLimited."""
        user_id = ""
        if self._users is not None and session_id:
            self._check("key", self._keys, key.id, _whose(key))  # before it may cost a look at the database
            user_id = await self._find_user(node, key.tenant, session_id)
        now_ns = self._check("key", self._keys, key.id, _whose(key))
        if user_id:
            self._check("user", self._users, (key.tenant, user_id), f"user {user_id[:100]}")
            self._take(self._users, (key.tenant, user_id), now_ns)
        self._take(self._keys, key.id, now_ns)

    def admit_user(self, key: Key, user_id: str | None) -> None:
        """The same request, whose body names a user, after `admit`. Raises RateLimited."""
        if self._users is None or not user_id:
            return
        name = (key.tenant, user_id)
        try:
            now_ns = self._check("user", self._users, name, f"user {user_id[:100]}")
        except RateLimited:
            if self._keys is not None:
                self._keys.give_back(key.id)
            raise
        self._users.take(name, now_ns)

    def _check(self, by: By, buckets: Buckets | None, name: Hashable, whose: str) -> int:
        """Now, in nanoseconds."""
        now_ns = round(self._clock.monotonic() * _NS)
        wait_ns = 0 if buckets is None else buckets.wait_ns(name, now_ns)
        if buckets is not None and wait_ns:
            self.refused[by] += 1
            wait_ms = -(-wait_ns // 1_000_000)
            raise RateLimited(
                f"{whose} has asked more than {buckets.per_s:g} times a second (and {buckets.burst} at once); send "
                f"again after {wait_ms} ms, or raise server.requests_per_{by}_per_s",
                retry_after_ms=wait_ms,
            )
        return now_ns

    def _take(self, buckets: Buckets | None, name: Hashable, now_ns: int) -> None:
        if buckets is not None:
            buckets.take(name, now_ns)

    async def _find_user(self, node: Node, tenant: str, session_id: str) -> str:
        """Of a hosted session, whose user never changes; empty where there is none."""
        found = self._user_of.get((tenant, session_id))
        if found is None:
            try:
                found = (await node.sessions.get(tenant, session_id)).user_id
            except NotFound:
                return ""
        self._user_of[tenant, session_id] = found
        self._user_of.move_to_end((tenant, session_id))
        if len(self._user_of) > USERS_MAX:
            self._user_of.popitem(last=False)
        return found


def _whose(key: Key) -> str:
    return f"key {key.id}" if key.id else "whoever has no key"


async def admit_request(connection: ASGIConnection[Any, Any, Any, Any], node: Node, key: Key) -> None:
    """What every guard asks, once it knows the key: of the routes of sessions alone. Raises RateLimited."""
    path: str = connection.scope["path"]
    if path == PATH or path.startswith(f"{PATH}/"):
        rates = rates_of(connection)
        await rates.admit(node, key, unquote(str(connection.path_params.get("session_id", ""))))


def rates_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Rates:
    rates = connection.app.state.rates
    assert isinstance(rates, Rates)
    return rates
