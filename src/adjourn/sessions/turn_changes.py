"""What a turn changes in the database: it begins, tells, holds more money, and is settled; each in one transaction.

Of two that begin a turn of one session one succeeds: the row is locked, and says which turn runs. From then on every
write of the turn names the epoch that it began with, and does nothing where another one stands there. What is refused
is returned, not raised: an error would run the whole batch again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from adjourn.database import Reader, Tx
from adjourn.errors import (
    AdjournError,
    BudgetReached,
    KeyReused,
    LimitReached,
    SessionEnded,
    StatusRefused,
    TooBusy,
    TurnRunning,
)
from adjourn.runner import Said, TurnEvent
from adjourn.sessions import limits, money, rows, trigger_rows, turn_rows
from adjourn.sessions.budgets import Totals, budgets, opened_budgets
from adjourn.sessions.change import Change
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.lifecycle import Ending, limited
from adjourn.sessions.refusals import agent_of, no_price, not_found, refused, too_poor
from adjourn.sessions.rows import Compose
from adjourn.sessions.session import Session, SessionKey, Spent
from adjourn.sessions.turn import Message, SessionEvent, TurnError, TurnResult
from adjourn.sessions.turn_rows import Kept, TurnRow


class Talk(Protocol):
    """The conversation's part in a turn; handed in by the node. `after` is the session's last message."""

    def ask(self, tx: Tx, key: SessionKey, *, after: int, message: Message, turn_id: str | None, now_ms: int) -> int:
        """Append what a caller says; the place where it stands: before `after`, if the same one is there already."""
        ...

    def answer(
        self, tx: Tx, key: SessionKey, *, after: int, events: Sequence[TurnEvent], agent: str, turn_id: str, now_ms: int
    ) -> int:
        """Append what a runner said in a turn; how many messages that are."""
        ...

    def history(self, reader: Reader, key: SessionKey, before: int) -> list[Said]:
        """What was said before a place, as a runner is told of it."""
        ...

    def share(self, tx: Tx, key: SessionKey, source_id: str, seq_max: int) -> int:
        """Begin a conversation with the messages of another one, up to a place; where it goes on after them."""
        ...

    def forget(self, tx: Tx, key: SessionKey, limit: int) -> bool:
        """Delete some of its messages; whether there may be more."""
        ...


ANSWER_KEPT_LENGTH = 8_192
"""Of the last answer, in the session's row; the whole of it is in the conversation."""


BEGINS_MS = 1_000
BY_LIMIT = ("turn_timeout_ms", BudgetReached.code, LimitReached.code)
"""What a turn has failed with that a limit has ended."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A turn to begin, as far as it is known outside the transaction."""

    key: SessionKey
    turn_id: str
    message: Message
    idempotency: bytes | None
    node: str
    now_ms: int
    queue_max: int
    trigger: str = ""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """`fresh`: this call made it; else the same call was made before. A turn that is fresh and running is the caller's
    to run."""

    session: Session
    turn: TurnRow
    fresh: bool
    left_nanousd: int | None = None
    """What the budgets over it hold still; None: there is none."""


Worst = Callable[[Session, Message], int | None]
"""What a turn may cost at most, in nano-USD; None: its model has no price."""


def begin(tx: Tx, asked: Asked, compose: Compose, talk: Talk, worst: Worst, totals: Totals) -> Begun | AdjournError:
    """Begin a turn, queue it, or say which one it is. Fails with DebitRefused as `hold_more` does."""
    session = rows.load(tx, asked.key)
    if session is None:
        return not_found(asked.key)
    # Behind the lock: the same call may have come to another node at the same time.
    if asked.idempotency is not None:
        before = turn_rows.by_idempotency(tx, asked.key.tenant, asked.idempotency)
        if before is not None:
            return _again(session, asked, before)
    turn = TurnRow(
        tenant=asked.key.tenant,
        session_id=asked.key.session_id,
        number=turn_rows.next_number(tx, asked.key),
        turn_id=asked.turn_id,
        status="running",
        idempotency=asked.idempotency,
        asked=turn_rows.asked_of(asked.message),
        created_ms=asked.now_ms,
    )
    refusal = refused(session, asked.message, asked.node)
    if isinstance(refusal, TurnRunning) and asked.message.queue:
        return _queue(tx, session, turn, asked.queue_max)
    if refusal is not None:
        return refusal
    return _start(tx, session, turn, asked, compose, talk, worst, totals)


def begin_queued(tx: Tx, asked: Asked, compose: Compose, talk: Talk, worst: Worst, totals: Totals) -> Begun | None:
    """Begin the turn that waits for longest; None where none does, or where it cannot begin now. One that a limit
    refuses has failed, and the next is looked at."""
    session = rows.load(tx, asked.key)
    while session is not None and session.turn_id is None and session.ended_ms is None:
        turn = turn_rows.first_queued(tx, asked.key)
        if turn is None:
            return None
        asked = msgspec.structs.replace(asked, turn_id=turn.turn_id, message=turn.message)
        waiting = msgspec.structs.replace(session, queued=0)
        refusal = refused(waiting, asked.message, asked.node)
        if isinstance(refusal, StatusRefused):  # another node has its runner: that one begins it
            return None
        started = refusal or _start(tx, session, turn, asked, compose, talk, worst, totals)
        if isinstance(started, Begun):
            return started
        session = _fail_queued(tx, session, turn, started, asked.now_ms, compose)
    return None


class Told(msgspec.Struct, frozen=True):
    """What a turn has told that is not in the database yet."""

    key: SessionKey
    epoch: int
    turn_id: str
    events: Sequence[SessionEvent]
    so_far: TurnResult


def flush(tx: Tx, told: Sequence[Told]) -> None:
    """Keep what turns have told so far; nothing of those that are not their owner's now."""
    for each in told:
        session = _mine(tx, each.key, each.epoch, each.turn_id)
        events = [] if session is None else _unkept(session, each.events)
        if events:
            rows.keep_events(tx, each.key, events)
            tx.run("UPDATE sessions SET events = ? WHERE tenant = ? AND id = ?", (events[-1].seq, *each.key))
            turn_rows.keep_so_far(tx, each.key.tenant, each.turn_id, each.so_far)


def hold_more(tx: Tx, key: SessionKey, epoch: int, turn_id: str, nanousd: int, totals: Totals) -> int:
    """Take another tranche from every budget over a turn, or what the poorest still has; how much that is. Fails with
    DebitRefused where others take it in the same batch."""
    session = _mine(tx, key, epoch, turn_id)
    accounts = [] if session is None else budgets(tx, session, totals)
    taken = max(0, min([nanousd, *(balance for _, balance in accounts)])) if accounts else 0
    if taken:
        for account, _ in accounts:
            tx.debit(account, taken)
        turn_rows.holds_more(tx, key.tenant, turn_id, taken)
    return taken


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a turn went, by the node that ran it."""

    result: TurnResult
    """`usage` is this turn's alone."""
    by_agent: dict[str, Spent]
    said: Sequence[TurnEvent]
    untold: Sequence[SessionEvent]
    """Its events that `flush` has not kept yet."""
    agent: str
    ending: Ending | None = None
    """How the session is to end with it, whatever its pattern says."""
    keep_open: bool
    """Whether this node holds its runner open afterwards."""


def settle(
    tx: Tx, key: SessionKey, epoch: int, outcome: Outcome, compose: Compose, talk: Talk, totals: Totals
) -> Session | None:
    """A turn has ended: its messages, its usage, its money, where it leaves the session, and the completion if that has
    ended with it; None where it is no longer its owner's, and nothing is written."""
    result = outcome.result
    session = _mine(tx, key, epoch, result.turn_id)
    turn = turn_rows.find(tx, key.tenant, result.turn_id)
    if session is None or turn is None:
        return None
    change = Change(session, result.ended_ms)
    change.events = _unkept(session, outcome.untold)
    if change.events:
        change.session.events = change.events[-1].seq
    change.session.stopping = ""
    _use(change.session, outcome)
    change.session.messages += talk.answer(
        tx,
        key,
        after=session.messages,
        events=outcome.said,
        agent=outcome.agent,
        turn_id=result.turn_id,
        now_ms=result.ended_ms,
    )
    if turn.reservation == "held":
        for account, _ in budgets(tx, session, totals):
            tx.debit(account, (result.cost_nanousd or 0) - turn.reserved_nanousd, forced=True)
    _leave(change, outcome)
    if change.session.ended_ms is not None:
        drop_queued(tx, change)
    saved = rows.save(tx, change, compose)
    kept = Kept(turn=result, session=saved if turn.idempotency is not None else None)
    turn_rows.ended(tx, turn, kept, "settled" if turn.reservation == "held" else "")
    return saved


def drop_queued(tx: Tx, change: Change) -> None:
    """The session has ended: what waits will not be run, and whoever waits is told. Its triggers fire no more."""
    session = change.session
    if PATTERNS[session.pattern].starts_turns:
        trigger_rows.stop(tx, session.tenant, session.id)
    if session.queued:
        for turn in turn_rows.all_queued(tx, session.key):
            error = TurnError(code=SessionEnded.code, message=f"session {session.id} ended before this turn began")
            _end_unbegun(tx, change, turn, error)
        session.queued = 0


# --- inside ----------------------------------------------------------------------------------------------------------


def _again(session: Session, asked: Asked, before: TurnRow) -> Begun | AdjournError:
    if before.key != asked.key or before.message != turn_rows.message_of(asked.message):
        return KeyReused(
            f"this Idempotency-Key came before, with another message (turn {before.turn_id} of session "
            f"{before.session_id}); send each message with a key of its own"
        )
    return Begun(session=session, turn=before, fresh=False)


def _queue(tx: Tx, session: Session, turn: TurnRow, queue_max: int) -> Begun | AdjournError:
    if session.queued >= queue_max:
        fact = f"{session.queued} messages wait in session {session.id}, as many as may"
        return TooBusy(f"{fact}; send again when its turn has ended, or raise hosting.queue_max", retry_after_ms=1000)
    turn.status = "queued"
    turn_rows.insert(tx, turn)
    session.queued += 1
    tx.run("UPDATE sessions SET queued = ? WHERE tenant = ? AND id = ?", (session.queued, *session.key))
    return Begun(session=session, turn=turn, fresh=True)


def _start(
    tx: Tx,
    session: Session,
    turn: TurnRow,
    asked: Asked,
    compose: Compose,
    talk: Talk,
    worst: Worst,
    totals: Totals,
) -> Begun | AdjournError:
    accounts = opened_budgets(tx, session, totals)
    left: int | None = None
    queued = turn.status == "queued"
    if accounts:
        most = worst(session, asked.message)
        if most is None:
            return no_price(session)
        left = min(balance for _, balance in accounts)
        turn.reserved_nanousd = money.first_tranche(most, left)
        if turn.reserved_nanousd <= 0 and most > 0:
            return too_poor(session, min(accounts, key=lambda each: each[1]), totals.over(session))
        turn.reservation = "held"
        for account, _ in accounts:
            tx.debit(account, turn.reserved_nanousd)
    change = Change(session, asked.now_ms)
    now = change.session
    now.turn_id, now.node, now.active_ms = turn.turn_id, asked.node, asked.now_ms
    now.epoch += 1
    now.queued -= queued
    now.spent.turns += 1
    place = talk.ask(
        tx, session.key, after=session.messages, message=asked.message, turn_id=turn.turn_id, now_ms=asked.now_ms
    )
    now.messages = max(place, session.messages)
    change.move("active", "message")
    began = {"number": turn.number, "agent": agent_of(session, asked.message), "trigger": asked.trigger}
    change.tell("turn_began", began, turn.turn_id)
    now.due_ms = limits.due_ms(now)
    turn.status, turn.began_ms, turn.first_event = "running", asked.now_ms, change.events[0].seq
    (turn_rows.began if queued else turn_rows.insert)(tx, turn)
    rows.save(tx, change, compose)
    return Begun(session=now, turn=turn, fresh=True, left_nanousd=left)


def _fail_queued(
    tx: Tx, session: Session, turn: TurnRow, error: AdjournError, now_ms: int, compose: Compose
) -> Session | None:
    change = Change(session, now_ms)
    _end_unbegun(tx, change, turn, TurnError(code=error.code, message=error.message))
    change.session.queued -= 1
    return rows.save(tx, change, compose)


def _end_unbegun(tx: Tx, change: Change, turn: TurnRow, error: TurnError) -> None:
    now_ms = change.now_ms
    result = TurnResult(
        turn_id=turn.turn_id, number=turn.number, status="failed", error=error, began_ms=now_ms, ended_ms=now_ms
    )
    change.tell("turn_ended", result, turn.turn_id)
    turn_rows.ended(tx, turn, Kept(turn=result), "")


def _unkept(session: Session, events: Sequence[SessionEvent]) -> list[SessionEvent]:
    """Without those that are there already: they were written, and whoever wrote them was never told so."""
    return [event for event in events if event.seq > session.events]


def _mine(tx: Tx, key: SessionKey, epoch: int, turn_id: str) -> Session | None:
    session = rows.load(tx, key)
    held = session is not None and (session.epoch, session.turn_id) == (epoch, turn_id) and session.ended_ms is None
    return session if held else None


def _use(session: Session, outcome: Outcome) -> None:
    result = outcome.result
    # The turn itself was counted when it began, so that no limit is passed by two at once.
    session.spent = money.added(session.spent, msgspec.structs.replace(result.usage, turns=0))
    by_agent = dict(session.described.by_agent)
    for name, used in outcome.by_agent.items():
        by_agent[name] = money.added(by_agent.get(name, Spent()), used)
    final = result.text if result.status == "done" else session.described.final_message
    session.described = msgspec.structs.replace(
        session.described, by_agent=by_agent, final_message=final[:ANSWER_KEPT_LENGTH]
    )
    session.active_ms = max(session.active_ms, result.ended_ms)


def _leave(change: Change, outcome: Outcome) -> None:
    """Where the turn leaves the session."""
    session, result = change.session, outcome.result
    session.turn_id = None
    change.tell("turn_ended", result, result.turn_id)
    hosting = PATTERNS[session.pattern]
    after = hosting.after_turn if result.status == "done" else hosting.after_failed_turn
    reached = limits.reached(session, session.described.limits)
    if outcome.ending is not None:
        change.end(outcome.ending)
    elif reached is not None and result.error is not None and result.error.code in BY_LIMIT:
        change.end(limited(reached))
    elif after in ("completed", "error"):
        change.end(after_turn(after, result))
    elif reached is not None:
        change.end(limited(reached))
    else:
        change.move(after, "turn_ended")
    if session.ended_ms is not None or not outcome.keep_open:
        session.node = None
    # This node begins what waits; if it cannot, the sweep does.
    waits = session.queued > 0 and session.ended_ms is None
    session.due_ms = result.ended_ms + BEGINS_MS if waits else limits.due_ms(session)


def after_turn(status: str, result: TurnResult) -> Ending:
    """The end of a session that ends with its first turn."""
    error = result.error
    if status == "completed":
        return Ending(to="completed", outcome="success", reason="completed", final_message=result.text[:65_536])
    if result.status == "interrupted":
        return Ending(to="terminated", outcome="user_terminated", reason="interrupted")
    code = error.code if error is not None else "turn_failed"
    message = error.message if error is not None else ""
    outcome = "timeout" if code in BY_LIMIT else "error"
    return Ending(to="error", outcome=outcome, reason="turn_failed", error_code=code, final_message=message[:65_536])
