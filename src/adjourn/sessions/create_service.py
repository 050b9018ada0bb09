"""How a session is created: its runner, limits and price are checked, and whether there is room for it; then it is
written, and what it needs before its first turn is made ready."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import msgspec

from adjourn.errors import (
    AdjournError,
    KeyReused,
    LimitReached,
    NotFound,
    RunnerFailed,
    RunnerRefused,
    SessionEnded,
    StorageFull,
    TooBusy,
    Unavailable,
)
from adjourn.eventlog import get_logger
from adjourn.ids import new_id
from adjourn.sessions import limits, money, queries, rows, session_changes
from adjourn.sessions.end_service import Ends
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.lifecycle import failed
from adjourn.sessions.means import Means
from adjourn.sessions.owner_service import Owner
from adjourn.sessions.refusals import no_price
from adjourn.sessions.session import NewSession, Session, SessionKey, describe
from adjourn.sessions.session_changes import Creation
from adjourn.sessions.snapshot_service import Snapshots
from adjourn.sessions.trigger_service import Triggers
from adjourn.sessions.turn import Message
from adjourn.sessions.turn_rows import idempotency_of
from adjourn.sessions.turns_service import Turns

_log = get_logger("adjourn.sessions")

COUNT_EVERY_S = 1.0


class Creator:
    def __init__(
        self, means: Means, *, owner: Owner, turns: Turns, ends: Ends, snapshots: Snapshots, triggers: Triggers
    ) -> None:
        self._database = means.database
        self._clock = means.clock
        self._settings = means.settings
        self._runners = means.runners
        self._owner = owner
        self._turns = turns
        self._ends = ends
        self._snapshots = snapshots
        self._triggers = triggers
        self._compose = means.compose
        self._talk = means.talk
        self._live: dict[str, int] = {}
        """By tenant."""
        self._coming = Counter[tuple[str, bytes]]()
        """Those that are let in, and not created yet."""
        self._counted_s: float | None = None
        self._counting = asyncio.Lock()

    async def create(self, tenant: str, new: NewSession, *, idempotency_key: str = "") -> tuple[Session, bool]:
        """See `Sessions.create`."""
        self._triggers.check(tenant, new.pattern, new.triggers)
        root_id = None if new.parent_id is None else (await self._parent(tenant, new.parent_id)).root_id
        session = self._session_of(tenant, new, root_id, idempotency_key)
        source_seq = None
        if new.snapshot_id is not None:
            source_seq = await self._from_snapshot(session, new.snapshot_id)
        try:
            await self._check_room(_call_of(session))
        except LimitReached:
            # The same call may have taken the last place.
            standing = await self._standing(session)
            if standing is None:
                raise
            return _same(standing, session), False
        opens = PATTERNS[new.pattern].opens == "create" or new.snapshot_id is not None
        if opens:
            session.node, session.epoch = self._owner.name, 1
        creation = Creation(
            session=session,
            to="initializing" if opens else "active",
            sessions_per_user=limits.bound(self._settings, tenant, "max_sessions_per_user"),
            triggers=new.triggers,
            source_seq=source_seq,
        )
        self._coming[_call_of(session)] += 1
        try:
            work = self._write(creation, new.snapshot_id, opens)
            return await (self._turns.work.whole(work) if opens else work)
        finally:
            self._coming -= Counter((_call_of(session),))

    # --- inside --------------------------------------------------------------------------------------------------

    async def _write(self, creation: Creation, snapshot_id: str | None, opens: bool) -> tuple[Session, bool]:
        try:
            return await self._written(creation, snapshot_id, opens)
        except (Unavailable, TooBusy, StorageFull):  # as far as it has come it goes on, or it would never be active
            if opens:
                session = creation.session
                self._turns.work.insist(partial(self._go_on, session, snapshot_id), f"open {session.id}")
            raise

    async def _written(self, creation: Creation, snapshot_id: str | None, opens: bool) -> tuple[Session, bool]:
        session = creation.session
        args = (creation, self._compose, self._talk)
        created = await self._database.write(
            session_changes.create, *args, key=session.root_id, fence=self._owner.fence
        )
        if isinstance(created, AdjournError):
            raise created
        standing, fresh = created
        if not fresh:
            return _same(standing, session), False
        self._live[session.tenant] = self._live.get(session.tenant, 0) + 1
        return (await self._open(standing, snapshot_id) if opens else standing), True

    async def _standing(self, session: Session) -> Session | None:
        """The one that the same call has made before."""
        if session.idempotency is None:
            return None
        return await self._database.read(rows.by_idempotency, session.tenant, session.idempotency)

    async def _go_on(self, session: Session, snapshot_id: str | None) -> None:
        # A write, so that it comes behind the one whose outcome is not known.
        standing = await self._database.write(rows.load, session.key, key=session.root_id)
        if standing is not None and (standing.event_id, standing.status) == (session.event_id, "initializing"):
            await self._open(standing, snapshot_id)

    async def _parent(self, tenant: str, session_id: str) -> Session:
        parent = await self._database.read(rows.find, SessionKey(tenant, session_id))
        if parent is None:
            raise NotFound(f"there is no session {session_id[:100]} to be the parent; check the id", path="parent_id")
        return parent

    async def _check_room(self, call: tuple[str, bytes]) -> None:
        """Raises LimitReached. What other nodes begin and end is seen within `COUNT_EVERY_S`."""
        now_s = self._clock.monotonic()
        async with self._counting:
            if self._counted_s is None or now_s - self._counted_s >= COUNT_EVERY_S:
                self._live = await self._database.read(queries.live_counts)
                self._counted_s = now_s
        settings, tenant = self._settings, call[0]
        coming = [other[0] for other in self._coming if other != call]
        here = sum(self._live.values()) + len(coming)
        mine = self._live.get(tenant, 0) + coming.count(tenant)
        own = limits.bound(settings, tenant, "max_sessions_per_tenant", "max_sessions")
        for count, whose, name, most in (
            (here, "this server has", "max_sessions", limits.bound(settings, "", "max_sessions")),
            (mine, f"tenant {tenant} has", "max_sessions_per_tenant", own),
        ):
            if most is not None and count >= most.most:
                fact = f"{whose} {count} live sessions, as many as it may"
                raise LimitReached(f"{fact}; end some, or raise {most.setting}", path=name)

    def _session_of(self, tenant: str, new: NewSession, root_id: str | None, idempotency_key: str) -> Session:
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
        session_id = new_id("sess", now_ms)
        session = describe(
            new,
            tenant=tenant,
            session_id=session_id,
            root_id=root_id or session_id,
            runner=name,
            event_id=new_id("evt", now_ms),
            now_ms=now_ms,
            idempotency=idempotency_of(tenant, "sessions", idempotency_key),
        )
        session.described = msgspec.structs.replace(
            session.described,
            limits=limits.bounded(new.limits, self._settings, tenant),
            retention_ms=limits.retention_ms(new.pattern, self._settings),
        )
        budgeted = session.described.limits.max_budget_usd is not None or bool(self._turns.totals.over(session))
        if budgeted and money.worst_of_turn(session, Message(), self._turns.rate_of(session)) is None:
            raise no_price(session)
        return session

    async def _from_snapshot(self, session: Session, snapshot_id: str) -> int:
        """How far it shares the conversation; its state is the snapshot's, unless it has one of its own."""
        taken = await self._snapshots.get(session.tenant, snapshot_id)
        session.resumed_from = taken.snapshot.session_id
        if session.state == session_changes.NO_STATE:
            session.state = taken.state
        return taken.snapshot.messages

    async def _open(self, session: Session, snapshot_id: str | None) -> Session:
        """What a session that is initializing needs before its first turn: its workspace, its runner."""
        try:
            if snapshot_id is not None:
                await self._snapshots.restore(session, snapshot_id)
            if PATTERNS[session.pattern].opens == "create":
                await self._turns.opened.open(session)
        except Exception as error:
            await self._turns.opened.close(session.key)
            code, said = RunnerFailed.code, f"the runner failed ({error})"
            if isinstance(error, AdjournError):
                code, said = error.code, error.message
            else:
                _log.exception("runner_failed", session=session.id, runner=session.runner)
            await self._ends.end(session, failed(code, said))
            raise RunnerFailed(f"session {session.id} could not begin: {said}") from error
        opened = partial(
            session_changes.opened,
            key=session.key,
            epoch=session.epoch,
            now_ms=self._clock.wall_ms(),
            compose=self._compose,
        )
        try:
            now = await self._ends.change(session.root_id, opened)
        except SessionEnded:  # meanwhile, and what was just being opened was not closed with it
            await self._turns.opened.close(session.key)
            raise
        if now.node != session.node:  # nobody holds it open: it needs no runner yet, or was ended meanwhile
            await self._turns.opened.close(session.key)
        return now


def _same(standing: Session, wanted: Session) -> Session:
    """The session that stands where a call would have made one. Raises KeyReused where it asked for another."""
    if standing.described.fingerprint != wanted.described.fingerprint:
        raise KeyReused(
            f"this Idempotency-Key came before, with another session ({standing.id}); create each with its own"
        )
    return standing


def _call_of(session: Session) -> tuple[str, bytes]:
    """(tenant, what its calls have in common): calls that are sent again make one session together."""
    return session.tenant, session.idempotency or session.id.encode()
