"""Hosted sessions: create, send, end, delete. Their turns are `turns_service`'s, what is due is `sweep_service`'s.

What callers send is checked whole before anything is written; what is written is durable on return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import msgspec

from adjourn.clock import SteadyClock
from adjourn.errors import AdjournError, StatusRefused, TurnRunning
from adjourn.eventlog import get_logger
from adjourn.events import ID_LENGTH_MAX
from adjourn.ids import new_id
from adjourn.sessions import limits, money, rows, session_changes
from adjourn.sessions.budgets import move_totals
from adjourn.sessions.counting_service import Counting
from adjourn.sessions.create_service import Creator
from adjourn.sessions.end_service import Ends
from adjourn.sessions.follow_service import POLL_S, Follow
from adjourn.sessions.lifecycle import Ending, terminated
from adjourn.sessions.live import Stop
from adjourn.sessions.means import Means
from adjourn.sessions.notices import Notices
from adjourn.sessions.open_service import OpenRunners
from adjourn.sessions.owner_service import Owner
from adjourn.sessions.refusals import no_price, not_found
from adjourn.sessions.session import NewSession, Patch, Session, SessionKey
from adjourn.sessions.snapshot_service import Snapshots
from adjourn.sessions.sweep_service import Sweep
from adjourn.sessions.takeover import INTERRUPTED, TERMINATED
from adjourn.sessions.trigger_service import Triggers
from adjourn.sessions.turn import Amending, Answer, Completing, Message, SessionEvent, Snapshot, TurnResult
from adjourn.sessions.turn_rows import idempotency_of
from adjourn.sessions.turns_service import Turns

_log = get_logger("adjourn.sessions")


class Sessions:
    def __init__(self, means: Means) -> None:
        wall = means.clock
        means = msgspec.structs.replace(means, clock=SteadyClock(wall))
        self._means = means
        self._database = means.database
        self._clock = means.clock
        self._roots: dict[SessionKey, str] = {}
        notices = Notices()
        self.owner = Owner(
            means,
            lost=lambda: self.turns.lost(),
            not_alone=self._not_alone,
        )
        self.turns = Turns(means, self.owner, OpenRunners(means), notices)
        self.snapshots = Snapshots(means)
        self.triggers = Triggers(
            means.database, wall, self._fire, workspace=means.workspace, folders=means.settings.watch_folders
        )
        self._notices = notices
        self._follow = Follow(means.database, notices, self.turns.live)
        self._ends = Ends(means, self.owner, self.turns, self._follow, notices)
        self._creator = Creator(
            means,
            owner=self.owner,
            turns=self.turns,
            ends=self._ends,
            snapshots=self.snapshots,
            triggers=self.triggers,
        )
        self.sweep = Sweep(
            means,
            self.turns,
            notices,
            delete=self._ends.delete,
            besides=(lambda _: self.triggers.look(), Counting(means.database).look),
        )

    async def start(self) -> None:
        await self.owner.start()
        for total in self.turns.totals.every():
            while await self._database.write(move_totals, total, key=total.tenant):
                continue
        self.turns.tell.start()
        self.sweep.start()

    async def stop(self, timeout_s: float) -> None:
        """Let turns end, bounded; then end or park each session by its pattern, and give the lease up. Idempotent."""
        await self.sweep.stop()
        await self.triggers.stop(min(timeout_s, 1.0))
        await self.turns.drain(timeout_s)
        try:
            await self._ends.give_up()
        except AdjournError as error:  # others take over what is left
            _log.warning("sessions_not_given_up", error=error.message)
        await self.turns.tell.stop()
        await self.owner.stop()

    # --- one session ---------------------------------------------------------------------------------------------

    async def create(self, tenant: str, new: NewSession, *, idempotency_key: str = "") -> tuple[Session, bool]:
        """(the session, whether it was created by this call). Raises RunnerRefused, LimitReached, PriceUnknown,
        NotFound, SessionEnded, StatusRefused, TriggerInvalid, KeyReused."""
        await self._ready()
        return await self._creator.create(tenant, new, idempotency_key=idempotency_key)

    async def get(self, tenant: str, session_id: str) -> Session:
        """Raises NotFound."""
        key = _key(tenant, session_id)
        session = await self._database.read(rows.find, key)
        if session is None:
            raise not_found(key)
        return session

    async def patch(self, tenant: str, session_id: str, wanted: Patch) -> Session:
        """Raises NotFound, RevisionStale, LimitReached, PriceUnknown."""
        session = await self.get(tenant, session_id)
        merged = (
            None
            if wanted.limits is None
            else limits.bounded(limits.changed(session.described.limits, wanted.limits), self._means.settings, tenant)
        )
        budget = None if merged is None else limits.budget_nanousd(merged)
        if budget is not None and money.worst_of_turn(session, Message(), self.turns.rate_of(session)) is None:
            raise no_price(session)
        change = partial(
            session_changes.patch,
            key=session.key,
            wanted=wanted,
            merged=merged,
            budget_nanousd=budget,
            now_ms=self._clock.wall_ms(),
            compose=self._means.compose,
        )
        return await self._ends.change(session.root_id, change)

    async def delete(self, tenant: str, session_id: str, *, force: bool = False) -> None:
        """Its completion stays in the log. Raises NotFound; StatusRefused where it lives and is not forced."""
        session = await self.get(tenant, session_id)
        if session.ended_ms is None:
            if (living := await self._database.read(rows.living_under, session.key)) is not None:
                raise session_changes.holds_budget(session, living)
            if not force:
                fact = f"session {session.id} is {session.status} and has not ended"
                raise StatusRefused(f"{fact}; complete or terminate it first, or delete it with force=true")
            await self.terminate(tenant, session_id)
        await self._ends.delete(session.key)

    # --- turns ---------------------------------------------------------------------------------------------------

    async def begin(
        self, tenant: str, session_id: str, message: Message, *, idempotency_key: str = "", trigger: str = ""
    ) -> TurnResult:
        """A turn that has begun or waits, durably; what came of it, where the same call was made before. Raises
        NotFound, SessionEnded, TurnRunning, LimitReached, BudgetReached, PriceUnknown, KeyReused, TooBusy."""
        await self._ready()
        key = _key(tenant, session_id)
        # What a trigger calls its turns, no caller can.
        idempotency = idempotency_of(tenant, f"{session_id}\0{trigger}" if trigger else session_id, idempotency_key)
        begun = await self.turns.begin(key, await self._root(key), message, idempotency=idempotency, trigger=trigger)
        return begun.turn.result

    async def send(self, tenant: str, session_id: str, message: Message, *, idempotency_key: str = "") -> Answer:
        """Run a turn to its end. Raises what `begin` does; a turn that failed is an answer."""
        turn = await self.begin(tenant, session_id, message, idempotency_key=idempotency_key)
        return await self.answer(tenant, session_id, turn.turn_id)

    async def answer(self, tenant: str, session_id: str, turn_id: str) -> Answer:
        """What came of a turn, once it has ended. Raises NotFound."""
        live = self.turns.live.get(_key(tenant, session_id))
        if live is not None and live.turn.turn_id == turn_id:
            await live.settled.wait()
            if live.answer is not None:
                return live.answer
        turn = await self._follow.ended(_key(tenant, session_id), turn_id)
        kept = turn.kept
        return Answer(turn=kept.turn, session=kept.session or await self.get(tenant, session_id))

    async def append(self, tenant: str, session_id: str, message: Message) -> tuple[str, int]:
        """A message without a turn: (its id, its place). Raises NotFound, SessionEnded, TurnRunning."""
        key = _key(tenant, session_id)
        now_ms = self._clock.wall_ms()
        if message.message_id is None:
            message = msgspec.structs.replace(message, message_id=new_id("msg", now_ms))
        while True:
            session = await self.get(tenant, session_id)
            try:
                append = partial(
                    session_changes.append,
                    key=key,
                    message=message,
                    now_ms=now_ms,
                    compose=self._means.compose,
                    talk=self._means.talk,
                )
                place = await self._ends.change(session.root_id, append)
                break
            except TurnRunning:
                if not message.queue:
                    raise
                session = await self.get(tenant, session_id)
                if session.turn_id is not None:
                    await self._follow.ended(key, session.turn_id)
                elif session.queued:
                    await asyncio.sleep(POLL_S)
        assert message.message_id is not None
        return message.message_id, place

    async def interrupt(self, tenant: str, session_id: str) -> Session:
        """End the turn that runs; the session stays, where its pattern lets it. Nothing where none runs."""
        session = await self.get(tenant, session_id)
        if session.turn_id is not None:
            await self._ends.stop(session, Stop(), INTERRUPTED)
        return await self.get(tenant, session_id)

    # --- ends ----------------------------------------------------------------------------------------------------

    async def complete(self, tenant: str, session_id: str, completing: Completing) -> Session:
        """Raises NotFound, SessionEnded, TurnRunning."""
        session = await self.get(tenant, session_id)
        ending = Ending(
            to="completed",
            outcome=completing.outcome,
            reason="completed",
            error_code=completing.error_code,
            final_message=completing.final_message,
            final_state=completing.final_state or msgspec.Raw(b""),
        )
        return await self._ends.end(session, ending)

    async def terminate(self, tenant: str, session_id: str, *, reason: str = "") -> Session:
        """Stop it, its turn too; nothing where it is terminated already. Raises NotFound, SessionEnded."""
        session = await self.get(tenant, session_id)
        ending = terminated(reason or "terminated")
        while session.status != "terminated":
            if session.turn_id is None:
                try:
                    return await self._ends.end(session, ending)
                except AdjournError:
                    session = await self.get(tenant, session_id)
                    if session.turn_id is None:
                        raise
                    continue
            await self._ends.stop(session, Stop(ending=ending), TERMINATED)
            session = await self.get(tenant, session_id)
            if session.ended_ms is not None:
                break
        return session

    async def resume(self, tenant: str, session_id: str) -> Session:
        """An idle session becomes active; one that has ended is gone on with in a new one. Raises NotFound."""
        session = await self.get(tenant, session_id)
        if session.ended_ms is None:
            if session.status != "idle":
                return session
            wake = partial(
                session_changes.wake, key=session.key, now_ms=self._clock.wall_ms(), compose=self._means.compose
            )
            return await self._ends.change(session.root_id, wake)
        return (await self.create(tenant, await self._database.read(session_changes.again, session)))[0]

    async def amend(self, tenant: str, session_id: str, amending: Amending) -> Session:
        """Correct the completion of a session that has ended. Raises NotFound, TurnRunning where it lives."""
        session = await self.get(tenant, session_id)
        now_ms = self._clock.wall_ms()
        amend = partial(
            session_changes.amend,
            key=session.key,
            amending=amending,
            event_id=new_id("evt", now_ms),
            now_ms=now_ms,
            compose=self._means.compose,
        )
        return await self._ends.change(session.root_id, amend)

    async def snapshot(self, tenant: str, session_id: str) -> Snapshot:
        """Durable on return; a new session may begin from it. Raises NotFound, StatusRefused while a turn runs."""
        return await self.snapshots.take(await self.get(tenant, session_id))

    # --- what happens --------------------------------------------------------------------------------------------

    async def events(self, tenant: str, session_id: str, *, after: int = 0, limit: int = 100) -> list[SessionEvent]:
        """Raises NotFound."""
        session = await self.get(tenant, session_id)
        return await self._follow.page(session.key, after, limit)

    async def follow(self, tenant: str, session_id: str, *, after: int = 0) -> AsyncGenerator[SessionEvent, None]:
        """As they happen, from any node; ends when the session has ended and all is told. Raises NotFound."""
        session = await self.get(tenant, session_id)
        async with aclosing(self._follow.events(session.key, after)) as events:
            async for event in events:
                yield event

    # --- inside --------------------------------------------------------------------------------------------------

    async def _not_alone(self, node: str) -> None:
        """Other nodes may have asked this one to stop a turn, or taken up what it held."""
        await self.turns.stop_asked(node)
        await self.turns.opened.close_moved(node, self.turns.live)

    async def _fire(
        self, tenant: str, session_id: str, trigger_name: str, message: Message, *, idempotency_key: str
    ) -> TurnResult:
        return await self.begin(tenant, session_id, message, idempotency_key=idempotency_key, trigger=trigger_name)

    async def _ready(self) -> None:
        if not self._means.prices.loaded:
            await asyncio.to_thread(self._means.prices.load)

    async def _root(self, key: SessionKey) -> str:
        if self._database.partitions == 1:
            return key.session_id
        root = self._roots.get(key)
        if root is None:
            session = await self._database.read(rows.find, key)
            if session is None:  # it may be made yet
                return key.session_id
            root = session.root_id
            if len(self._roots) > 10_000:
                self._roots.clear()
            self._roots[key] = root
        return root


def _key(tenant: str, session_id: str) -> SessionKey:
    """Raises NotFound for what no session can be called."""
    key = SessionKey(tenant, session_id)
    if "\0" in session_id or len(session_id) > ID_LENGTH_MAX:
        raise not_found(SessionKey(tenant, session_id.replace("\0", "?")))
    return key
