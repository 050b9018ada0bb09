"""What is checked before a session is created: its runner, its limits, its price, and whether there is room for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from adjourn.clock import Clock
from adjourn.database import Database
from adjourn.errors import LimitReached, RunnerRefused
from adjourn.ids import new_id
from adjourn.runner import Runner
from adjourn.sessions import limits, money, queries
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.refusals import no_price
from adjourn.sessions.session import NewSession, Session, describe
from adjourn.sessions.turn import Message
from adjourn.settings import HostingSettings

COUNT_EVERY_S = 1.0
_encode = msgspec.json.Encoder().encode


class Admission:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: HostingSettings,
        runners: Mapping[str, Runner],
        rate_of: Callable[[Session], money.Rate],
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._runners = runners
        self._rate_of = rate_of
        self._live: dict[str, int] = {}
        self._counted_s: float | None = None

    def admitted(self, tenant: str) -> None:
        """One more lives."""
        self._live[tenant] = self._live.get(tenant, 0) + 1

    async def check_room(self, tenant: str) -> None:
        """Raises LimitReached. What other nodes begin and end is seen within `COUNT_EVERY_S`."""
        now_s = self._clock.monotonic()
        if self._counted_s is None or now_s - self._counted_s >= COUNT_EVERY_S:
            self._counted_s = now_s
            self._live = await self._database.read(queries.live_counts)
        here, mine = sum(self._live.values()), self._live.get(tenant, 0)
        for count, name, whose in (
            (here, "max_sessions", "this server has"),
            (mine, "max_sessions_per_tenant", f"tenant {tenant} has"),
        ):
            most = getattr(self._settings, name)
            if most is not None and count >= most:
                fact = f"{whose} {count} live sessions, as many as it may"
                raise LimitReached(f"{fact}; end some, or raise hosting.{name}", path=name)

    def session_of(self, tenant: str, new: NewSession, root_id: str | None, idempotency_key: str) -> Session:
        now_ms = self._clock.wall_ms()
        name = new.runner or self._settings.default_runner
        runner = self._runners.get(name)
        if runner is None:
            known = ", ".join(sorted(self._runners))
            raise RunnerRefused(f"there is no runner {name[:100]}; take one of {known}", path="runner")
        if new.config.agents and not PATTERNS[new.pattern].several_agents:
            fact = f"a session of pattern {new.pattern} has one agent"
            raise RunnerRefused(f"{fact}; leave agents away, or take single_container", path="config.agents")
        try:
            runner.check(new.config)
        except RunnerRefused as error:
            raise RunnerRefused(error.message, path=f"config.{error.path}" if error.path else "config") from None
        session_id = _new_id(tenant, idempotency_key, now_ms)
        session = describe(
            new,
            tenant=tenant,
            session_id=session_id,
            root_id=root_id or session_id,
            runner=name,
            event_id=new_id("evt", now_ms),
            now_ms=now_ms,
        )
        session.described = msgspec.structs.replace(
            session.described,
            limits=limits.bounded(new.limits, self._settings),
            retention_ms=limits.retention_ms(new.pattern, self._settings),
        )
        budgeted = session.described.limits.max_budget_usd is not None
        if budgeted and money.worst_of_turn(session, Message(), self._rate_of(session)) is None:
            raise no_price(session)
        return session


def _new_id(tenant: str, idempotency_key: str, now_ms: int) -> str:
    """The same call gets the same id, however often it is sent: one that sorts by the time of nothing."""
    if not idempotency_key:
        return new_id("sess", now_ms)
    text = f"{len(tenant)}:{tenant}{idempotency_key}"
    return f"sess_{hashlib.blake2b(text.encode(), digest_size=15, person=b'adjourn.create').hexdigest()}"


def asked(session: Session) -> bytes:
    """What its creator asked for, to tell a call that is sent again from another one with the same key."""
    told = session.described
    return _encode(
        (
            (session.pattern, session.role, session.kind, session.interface, session.user_id, session.runner),
            (session.parent_id, session.resumed_from, told.workspace, told.resources),
            (told.config, told.price),
        )
    )
