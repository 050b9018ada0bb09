"""Turns on the node that runs them: begin → run → settle, each durable before the next.

What a turn has told is in memory for those who follow it here, and in the database within a second for those who
follow it elsewhere. However a turn ends, it is settled; where the database is away that is tried until it works, or
until this node has lost its lease: then another one settles it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from adjourn.database import Fence
from adjourn.errors import AdjournError, DebitRefused, Fenced, TooBusy, Unavailable
from adjourn.eventlog import get_logger
from adjourn.ids import new_id
from adjourn.runner import Said, Turn, TurnFailed
from adjourn.sessions import money, rows, takeover, turn_changes
from adjourn.sessions.budgets import Totals
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.lifecycle import STOPPED, Ending, failed
from adjourn.sessions.live import Live, Stop
from adjourn.sessions.means import Means
from adjourn.sessions.notices import Notices
from adjourn.sessions.open_service import OpenRunners
from adjourn.sessions.owner_service import Owner
from adjourn.sessions.refusals import agent_of
from adjourn.sessions.session import Session, SessionKey
from adjourn.sessions.takeover import ending_of
from adjourn.sessions.tell_service import Tell
from adjourn.sessions.turn import Answer, Message, TurnError, TurnStatus, parts_of
from adjourn.sessions.turn_changes import Asked, Begun, Outcome
from adjourn.sessions.work_service import AGAIN_S, Work
from adjourn.typed import decoder

_log = get_logger("adjourn.sessions")

T = TypeVar("T")

GRACE_S = 2.0
"""How long a turn that was asked to end may take for it, before it is ended by force."""
FORCE_S = 5.0
HOLD_TRIES = 5
BUDGET_USED = "the budget is used up, or one above it; raise limits.max_budget_usd, or the total of the tenant"


class Turns:
    def __init__(self, means: Means, owner: Owner, opened: OpenRunners, notices: Notices) -> None:
        self.live: dict[SessionKey, Live] = {}
        self.opened = opened
        self.totals = Totals(means.settings)
        self.lost_turns = 0
        """That were run here and settled by another node."""
        self.settled: dict[TurnStatus, int] = dict.fromkeys(("done", "failed", "interrupted"), 0)
        self.settled_ms = 0
        self._database = means.database
        self._owner = owner
        self._clock = means.clock
        self._prices = means.prices
        self._notices = notices
        self._compose = means.compose
        self._talk = means.talk
        self._queue_max = means.settings.queue_max
        self._draining = False
        self._over = False
        """What is not settled now is for others."""
        self.work = Work()
        self.tell = Tell(means.database, means.clock, owner, self.live)

    # --- beginning -----------------------------------------------------------------------------------------------

    async def begin(
        self, key: SessionKey, root_id: str, message: Message, *, idempotency: bytes | None, trigger: str = ""
    ) -> Begun:
        """Durable on return; a turn that is fresh and running runs here. Raises what refuses it."""
        if self._draining:
            raise Unavailable("this node is stopping; send to another, or again in a moment", retry_after_ms=1_000)
        return await self.work.whole(self._begin(key, root_id, message, idempotency, trigger))

    async def _begin(
        self, key: SessionKey, root_id: str, message: Message, idempotency: bytes | None, trigger: str
    ) -> Begun:
        asked = self._asked(key, message, idempotency, trigger)
        begun = await self._write_begin(turn_changes.begin, asked, root_id)
        if isinstance(begun, AdjournError):
            raise begun
        if begun.fresh and begun.turn.status == "running":
            self._run(begun)
        return begun

    async def begin_queued(self, key: SessionKey, root_id: str) -> None:
        """Begin the turn that waits for longest, if one may."""
        if not self._draining and key not in self.live:
            await self.work.whole(self._begin_queued(key, root_id))

    async def _begin_queued(self, key: SessionKey, root_id: str) -> None:
        asked = self._asked(key, Message(prompt="queued"), None, "")
        begun = await self._write_begin(turn_changes.begin_queued, asked, root_id)
        self._notices.tell(key)
        if begun is not None:
            self._run(begun)

    async def _write_begin(self, begin: Callable[..., T], asked: Asked, root_id: str) -> T:
        args = (asked, self._compose, self._talk, self._worst, self.totals)
        fence = self._owner.fence
        for _ in range(HOLD_TRIES):
            try:
                return await self._database.write(begin, *args, key=root_id, fence=fence)
            except DebitRefused:  # others took it meanwhile, who share a budget; less may be left
                continue
            except Unavailable:  # it may have been written all the same, and then nobody else would run it
                self.work.insist(partial(self._run_begun, asked.key, root_id, fence), f"find out {asked.turn_id}")
                raise
        raise TooBusy("many turns begin at once that share what is left of a budget; send again", retry_after_ms=100)

    async def _run_begun(self, key: SessionKey, root_id: str, fence: Fence) -> None:
        begun = await self._database.write(takeover.running, key, fence.name, self.totals, key=root_id, fence=fence)
        if begun is not None:
            self._run(begun)

    def _asked(self, key: SessionKey, message: Message, idempotency: bytes | None, trigger: str) -> Asked:
        now_ms = self._clock.wall_ms()
        return Asked(
            key=key,
            turn_id=new_id("turn", now_ms),
            message=message,
            idempotency=idempotency,
            node=self._owner.name,
            now_ms=now_ms,
            queue_max=self._queue_max,
            trigger=trigger,
        )

    def _worst(self, session: Session, message: Message) -> int | None:
        return money.worst_of_turn(session, message, self.rate_of(session))

    def rate_of(self, session: Session) -> money.Rate:
        when = datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC)
        return money.rate_of(session.described.price, session.model, self._prices, when)

    # --- stopping ------------------------------------------------------------------------------------------------

    def stop_turn(self, key: SessionKey, stop: Stop, turn_id: str = "") -> bool:
        """Ask the session's turn to end, or only this one; whether one runs here. The first reason counts, unless a
        later one ends the session."""
        live = self.live.get(key)
        if live is not None and turn_id and live.turn.turn_id != turn_id:
            return True  # that one has ended
        if live is None or live.finished.is_set():
            return live is not None
        first = live.stopping is None
        if first or (stop.ending is not None and live.stopping is not None and live.stopping.ending is None):
            live.stopping = stop
        if first:
            self.work.start(self._interrupt(live), f"interrupt {key.session_id}")
        return True

    async def stop_asked(self, node: str) -> None:
        """Stop the turns that other nodes have asked for."""
        for key, turn_id, word in await self._database.read(rows.stopping_of, node):
            self.stop_turn(key, Stop(ending=ending_of(word)), turn_id)

    async def _interrupt(self, live: Live) -> None:
        with suppress(Exception):
            async with asyncio.timeout(GRACE_S):
                await self.opened.runner_of(live.session).interrupt(live.key.session_id)
        with suppress(TimeoutError):
            await asyncio.wait_for(live.finished.wait(), GRACE_S)
            return
        _force(live)

    async def drain(self, timeout_s: float) -> None:
        """Take no turns any more; let those that run end by themselves, then end them. Complete on return: nothing that
        was run here goes on."""
        self._draining = True
        until_s = asyncio.get_running_loop().time() + timeout_s - GRACE_S - 1
        await self._settled(until_s)
        for live in list(self.live.values()):
            ends = PATTERNS[live.session.pattern].after_death == "error"
            self.stop_turn(
                live.key,
                Stop(
                    ending=failed(STOPPED) if ends else None,
                    error=TurnError(code=STOPPED, message="its node was stopped; send again", retryable=True),
                ),
            )
        await self._settled(until_s + GRACE_S + 1 + FORCE_S)
        self._over = True
        await self.work.end(FORCE_S)
        await self.opened.close_all()

    async def _settled(self, until_s: float) -> None:
        waiting = [asyncio.ensure_future(live.settled.wait()) for live in self.live.values()]
        if waiting:
            left_s = max(0.0, until_s - asyncio.get_running_loop().time())
            _, pending = await asyncio.wait(waiting, timeout=left_s)
            for each in pending:
                each.cancel()

    async def lost(self) -> None:
        """The lease is lost: end everything here, and write nothing of it."""
        for live in list(self.live.values()):
            live.stopping = live.stopping or Stop()
            _force(live)
        await self.opened.close_all()

    # --- running -------------------------------------------------------------------------------------------------

    def _run(self, begun: Begun) -> None:
        session = begun.session
        before = self.live.get(session.key)
        if before is not None and before.turn.turn_id == begun.turn.turn_id:
            return
        if not self._owner.is_under(session.node):  # the lease was lost meanwhile: it is taken over
            return
        meter = money.Meter(self.rate_of(session), agent_of(session, begun.turn.message))
        worst = self._worst(session, begun.turn.message) if begun.turn.reservation == "held" else 0
        live = Live(session, begun.turn, meter, worst or 0, self._notices.tell)
        self.live[session.key] = live
        self._notices.tell(session.key)
        self.work.start(self._live(live, begun.left_nanousd, before), f"turn {begun.turn.turn_id}")

    async def _live(self, live: Live, left_nanousd: int | None, before: Live | None) -> None:
        loop = asyncio.get_running_loop()
        if before is not None:  # it has been settled, and lets go of its runner
            await before.settled.wait()
        limit_ms = live.session.described.limits.turn_timeout_ms
        too_long = None
        if limit_ms is not None:
            stop = Stop(
                error=TurnError(
                    code="turn_timeout_ms",
                    message=f"the turn took longer than {limit_ms} ms; ask for less, or raise it",
                )
            )
            too_long = loop.call_later(limit_ms / 1000, self.stop_turn, live.key, stop)
        try:
            await self._execute(live, left_nanousd)
        finally:
            live.finished.set()
            if too_long is not None:
                too_long.cancel()
            await self._settle(live)

    async def _execute(self, live: Live, left_nanousd: int | None) -> None:
        """Run the turn until its last event; whatever goes wrong becomes that."""
        try:
            async with asyncio.timeout(None) as live.timeout:
                await self.opened.open(live.session)
                await self._consume(live, left_nanousd)
        except TimeoutError:
            # Ended by force: whatever its runner still holds goes.
            if live.stopping is None:
                self._fail(live, "runner_error", "the runner gave up waiting; look at its log")
            await self.opened.close(live.key)
        except AdjournError as error:
            self._fail(live, error.code, error.message, retryable=error.status >= 500)
            await self.opened.close(live.key)
        except Exception as error:
            _log.exception("runner_failed", session=live.key.session_id, runner=live.session.runner)
            self._fail(live, "runner_error", f"the runner failed ({error}); the server's log has the trace")
            await self.opened.close(live.key)

    async def _consume(self, live: Live, left_nanousd: int | None) -> None:
        session, message = live.session, live.turn.message
        if live.stopping is not None:
            return
        asked = Turn(
            turn_id=live.turn.turn_id,
            said=Said(role=message.role, parts=parts_of(message), agent=live.agent),
            history=lambda: self._database.read(self._talk.history, session.key, session.messages),
            state=decoder(dict[str, object]).decode(session.state),
            options=message.options,
            budget_nanousd=left_nanousd,
        )
        events = self.opened.runner_of(session).turn(session.id, asked)
        async with aclosing(events):
            async for event in events:
                live.take(event, self._clock.wall_ms())
                if live.over:
                    break
                if more := live.needs_more():
                    await self._hold(live, more)
                if live.has_spent_all():
                    self._stop_for(live, "budget_reached", BUDGET_USED)
                    break
                if live.has_no_price():
                    model = live.meter.unpriced_model or live.session.model
                    self._stop_for(live, "price_unknown", f"model {model} has no price; declare the session's price")
                    break
                if not live.tokens_left():
                    self._stop_for(live, "limit_reached", "limits.max_tokens is used up; raise it")
                    break

    def _stop_for(self, live: Live, code: str, message: str) -> None:
        if live.stopping is None:
            live.stopping = Stop(error=TurnError(code=code, message=message))

    def _fail(self, live: Live, code: str, message: str, *, retryable: bool = False) -> None:
        if not live.over:
            live.take(TurnFailed(code=code, message=message, retryable=retryable), self._clock.wall_ms())

    async def _hold(self, live: Live, nanousd: int) -> None:
        """Hold more money for it, as far as every budget over it allows that."""
        args = (live.key, live.session.epoch, live.turn.turn_id, nanousd, self.totals)
        for _ in range(HOLD_TRIES):
            try:
                taken = await self._database.write(
                    turn_changes.hold_more, *args, key=live.session.root_id, fence=self._owner.fence
                )
            except DebitRefused:  # others took it meanwhile, who share the budget; less may be left
                continue
            live.held_nanousd = (live.held_nanousd or 0) + taken
            return

    # --- settling ------------------------------------------------------------------------------------------------

    async def _settle(self, live: Live) -> None:
        saved: Session | None = None
        try:
            async with live.flushing:
                saved = await self._settle_until_it_works(live)
        except Fenced:
            self.lost_turns += 1
        finally:
            stays = PATTERNS[live.session.pattern].stays_open and live.key in self.opened.held
            if saved is None or saved.node is None or not stays:
                await self.opened.close(live.key)
            if self.live.get(live.key) is live:
                del self.live[live.key]
            live.settled.set()
            self._notices.tell(live.key)
        if saved is not None and saved.queued and saved.ended_ms is None and not self._draining:
            try:
                await self.begin_queued(live.key, live.session.root_id)
            except AdjournError:  # the sweep may be another node's, which cannot begin what this one holds open
                again = partial(self.begin_queued, live.key, live.session.root_id)
                self.work.insist(again, f"begin what waits {live.key.session_id}")

    async def _settle_until_it_works(self, live: Live) -> Session | None:
        """Raises Fenced where this node has lost its lease."""
        stays = PATTERNS[live.session.pattern].stays_open and live.key in self.opened.held
        outcome = Outcome(
            result=live.result(self._clock.wall_ms()),
            by_agent=live.by_agent(),
            said=live.said,
            untold=list(live.to_tell),
            agent=live.agent,
            ending=self._ending(live),
            keep_open=stays,
        )
        tries = 0
        while True:
            args = (live.key, live.session.epoch, outcome, self._compose, self._talk, self.totals)
            try:
                saved = await self._database.write(
                    turn_changes.settle, *args, key=live.session.root_id, fence=self._owner.fence
                )
                if saved is not None:
                    result = outcome.result
                    self.settled[result.status] += 1
                    self.settled_ms += result.ended_ms - result.began_ms
                    live.answer = Answer(turn=outcome.result, session=saved)
                return saved
            except Fenced:
                raise
            except AdjournError as error:
                _log.warning("turn_not_settled", turn=live.turn.turn_id, error=error.message)
            except Exception:
                # It is settled all the same, or its session would never take another turn.
                _log.exception("turn_not_kept", turn=live.turn.turn_id)
                outcome = live.unkept(outcome)
            if self._over:
                return None
            await asyncio.sleep(AGAIN_S[min(tries, len(AGAIN_S) - 1)])
            tries += 1

    def _ending(self, live: Live) -> Ending | None:
        return live.stopping.ending if live.stopping is not None else None


def _force(live: Live) -> None:
    """End its runner's part now. One that has not begun sees that it is stopped; one that is over is let go of."""
    if live.timeout is not None and not live.finished.is_set():
        with suppress(RuntimeError):  # that part is over
            live.timeout.reschedule(asyncio.get_running_loop().time())
