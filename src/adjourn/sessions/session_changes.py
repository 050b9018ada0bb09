"""What changes a session outside its turns: it is created, patched, ended, found due, or taken over from a dead node;
each in one transaction. What is refused is returned, not raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from adjourn.database import Reader, Tx
from adjourn.errors import (
    AdjournError,
    LimitReached,
    NotFound,
    RevisionStale,
    SessionEnded,
    StatusRefused,
    TooBusy,
    TurnRunning,
)
from adjourn.events import Record
from adjourn.prices import nanousd_of
from adjourn.sessions import limits, money, queries, rows, totals, trigger_rows, turn_changes
from adjourn.sessions.change import Change
from adjourn.sessions.completions import amendment_event
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.lifecycle import Ending, Status, limited
from adjourn.sessions.refusals import not_found, refused
from adjourn.sessions.rows import Compose
from adjourn.sessions.session import Limits, NewSession, Patch, Session, SessionKey
from adjourn.sessions.takeover import INTERRUPTED
from adjourn.sessions.triggers import Trigger
from adjourn.sessions.turn import Amending, Message
from adjourn.sessions.turn_changes import Talk

NO_STATE = b"{}"
AGAIN_MS = 1_000
"""If a turn that waits could not begin."""
TREE_MS = 60_000
"""If an ended session cannot be deleted yet, since one that lives spends from its budget."""
DELETED = "deleted"
"""What `stopping` says of an ended session that is being deleted."""


Due = Literal["delete", "queued", "later", "ended", "max_idle_ms", "max_lifetime_ms"]
"""What is to be done about a session that is due: delete it, begin what waits, nothing now; it has been ended; or its
owner has been asked to end it, by this limit."""


class Creation(msgspec.Struct, frozen=True, kw_only=True):
    """A session to be created. It is initializing, and goes to `to` at once if that is another status."""

    session: Session
    to: Status
    sessions_per_user: limits.Bound | None
    triggers: Sequence[Trigger]
    source_seq: int | None
    """How far it shares the conversation of `resumed_from`; None: all of it, once that has ended."""


def create(tx: Tx, creation: Creation, compose: Compose, talk: Talk) -> tuple[Session, bool] | AdjournError:
    """(the session, whether it is new). With `resumed_from`, it begins with the conversation of that one, and with its
    state, unless it has one of its own."""
    session = creation.session
    before = None if session.idempotency is None else rows.by_idempotency(tx, session.tenant, session.idempotency)
    if before is not None:
        return before, False
    refusal = _no_room(tx, session, creation.sessions_per_user) or _into_tree(tx, session)
    if refusal is not None:
        return refusal
    change = Change(session, session.created_ms)
    if session.resumed_from is not None:
        source = rows.load(tx, SessionKey(session.tenant, session.resumed_from))
        if source is None or source.stopping == DELETED:
            return not_found(SessionKey(session.tenant, session.resumed_from))
        if source.ended_ms is None and creation.source_seq is None:
            return _still_lives(source)
        if session.state == NO_STATE:
            change.session.state = source.state
        seq = source.messages if creation.source_seq is None else creation.source_seq
        change.session.messages = talk.share(tx, session.key, source.id, seq)
    change.move(creation.to, "created")
    change.session.due_ms = limits.due_ms(change.session)
    if not rows.insert(tx, change, compose):  # another node has, meanwhile
        before = rows.by_idempotency(tx, session.tenant, session.idempotency or b"")
        return (before, False) if before is not None else TooBusy("the same call is being made; send it again")
    budget_nanousd = limits.budget_nanousd(session.described.limits)
    if budget_nanousd is not None:
        account = money.account_of(session.tenant, session.id)
        tx.run("INSERT INTO accounts (name, balance) VALUES (?, ?)", (account, budget_nanousd))
    if creation.triggers:
        trigger_rows.put(tx, session.tenant, session.id, creation.triggers, session.created_ms)
    return change.session, True


def opened(tx: Tx, key: SessionKey, epoch: int, now_ms: int, compose: Compose) -> Session | AdjournError:
    """What it needed before its first turn is there: it is active."""
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    if session.epoch != epoch or session.status != "initializing":
        return ended_before(session) if session.ended_ms is not None else session
    change = Change(session, now_ms)
    change.move("active", "opened")
    if not PATTERNS[session.pattern].stays_open:
        change.session.node = None
    change.session.due_ms = limits.due_ms(change.session)
    return rows.save(tx, change, compose)


def patch(
    tx: Tx,
    key: SessionKey,
    wanted: Patch,
    merged: Limits | None,
    budget_nanousd: int | None,
    now_ms: int,
    compose: Compose,
) -> Session | AdjournError:
    """`merged`: the new limits within the server's bounds; `budget_nanousd`: the new budget, if it has one."""
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    if session.revision != wanted.revision:
        return RevisionStale(
            f"session {session.id} is at revision {session.revision}, and this change was made for "
            f"{wanted.revision}; read it again, and send the change with the revision that it has now",
            path="revision",
        )
    change = Change(session, now_ms)
    now, told = change.session, session.described
    if budget_nanousd is not None and told.limits.max_budget_usd is None:
        running = rows.running_in(tx, key)
        if running is not None:  # it holds nothing of a budget that was not there when it began
            fact = f"a turn runs in session {running}, without the budget that session {session.id} is to get"
            return TurnRunning(f"{fact}; wait until it has ended, or interrupt it", path="limits.max_budget_usd")
    now.revision += 1
    now.name = session.name if wanted.name is None else wanted.name
    if wanted.state is not None:
        now.state = _encode(wanted.state)
    given = {name: value for name in _PATCHED if (value := getattr(wanted, name)) is not None}
    now.described = msgspec.structs.replace(told, **given)
    if merged is not None:
        now.described = msgspec.structs.replace(now.described, limits=merged)
        _move_budget(tx, session, budget_nanousd)
        now.due_ms = _due_ms(now, now_ms)
    if wanted.tags is not None:
        rows.put_tags(tx, now, told.tags)
    return rows.save(tx, change, compose)


def append(tx: Tx, key: SessionKey, message: Message, now_ms: int, compose: Compose, talk: Talk) -> int | AdjournError:
    """A message without a turn; the place where it stands."""
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    refusal = refused(session, message, session.node or "")
    if refusal is not None and not isinstance(refusal, LimitReached):
        return refusal
    place = talk.ask(tx, key, after=session.messages, message=message, turn_id=None, now_ms=now_ms)
    if place > session.messages:
        change = Change(session, now_ms)
        change.session.messages = place
        change.session.active_ms = max(session.active_ms, now_ms)
        change.session.due_ms = limits.due_ms(change.session)
        change.tell("message", {"seq": change.session.messages, "role": message.role})
        rows.save(tx, change, compose)
    return place


def wake(tx: Tx, key: SessionKey, now_ms: int, compose: Compose) -> Session | AdjournError:
    """An idle session becomes active without a turn."""
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    if session.status != "idle":
        return session if session.ended_ms is None else ended_before(session)
    change = Change(session, now_ms)
    change.move("active", "resumed")
    change.session.active_ms = now_ms
    change.session.due_ms = _due_ms(change.session, now_ms)
    return rows.save(tx, change, compose)


def again(reader: Reader, session: Session) -> NewSession:
    """A new session that goes on with one that has ended: with what is left of its budget, and in its tree while its
    parent lives."""
    told, bounds = session.described, session.described.limits
    if bounds.max_budget_usd is not None:
        name = money.account_of(session.tenant, session.id)
        found = reader.rows("SELECT balance FROM accounts WHERE name = ?", (name,))
        left = max(0, int(found[0][0] or 0)) if found else 0
        bounds = msgspec.structs.replace(bounds, max_budget_usd=money.usd_of(left))
    parent = rows.find(reader, SessionKey(session.tenant, session.parent_id)) if session.parent_id else None
    return NewSession(
        pattern=session.pattern,
        runner=session.runner,
        config=told.config,
        limits=bounds,
        price=told.price,
        role=session.role,
        kind=session.kind,
        interface=session.interface,
        user_id=session.user_id or None,
        name=session.name,
        description=told.description,
        workspace=told.workspace,
        tags=told.tags,
        capabilities=told.capabilities,
        constraints=told.constraints,
        resources=told.resources,
        metadata=told.metadata,
        parent_id=parent.id if parent is not None and parent.ended_ms is None else None,
        resumed_from=session.id,
        on_disconnect=told.on_disconnect,
    )


def mark_deleted(tx: Tx, key: SessionKey) -> Session | AdjournError | None:
    """An ended session that goes, in portions: nobody begins from it any more. None where there is none."""
    session = rows.load(tx, key)
    if session is None or session.ended_ms is None:
        return None
    if (living := rows.living_under(tx, key)) is not None:
        return holds_budget(session, living)
    tx.run("UPDATE sessions SET stopping = ? WHERE tenant = ? AND id = ?", (DELETED, *key))
    return session


def forget(tx: Tx, key: SessionKey) -> bool:
    """The row of an ended session, once all that belonged to it is gone."""
    session = rows.load(tx, key)
    if session is None or session.ended_ms is None:
        return False
    totals.add_to_totals(tx, session)
    return rows.forget(tx, session)


def end(tx: Tx, key: SessionKey, ending: Ending, now_ms: int, compose: Compose) -> Session | AdjournError:
    """End a session that runs no turn; one whose turn runs is TurnRunning: its owner must end it. One that has ended in
    error may still be terminated."""
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    if session.turn_id is not None:
        return TurnRunning(f"session {session.id} runs turn {session.turn_id} on node {session.node}")
    if session.ended_ms is not None and not (session.status == "error" and ending.to == "terminated"):
        return ended_before(session)
    change = Change(session, now_ms)
    change.end(ending)
    return _gone(tx, change, compose)


def ask_to_stop(tx: Tx, key: SessionKey, turn_id: str, stopping: str) -> Session | None:
    """Ask the node that runs this turn of it to end that."""
    session = rows.load(tx, key)
    if session is not None and session.turn_id == turn_id and session.stopping in ("", INTERRUPTED):
        tx.run("UPDATE sessions SET stopping = ? WHERE tenant = ? AND id = ?", (stopping, *key))
    return session


def look_due(tx: Tx, keys: Sequence[SessionKey], now_ms: int, wall_ms: int, compose: Compose) -> list[Due]:
    """Sessions that were found due at `now_ms`: what to do about each, once what can be done here is done. `wall_ms` is
    what is written down."""
    return [_look_due(tx, key, now_ms, wall_ms, compose) for key in keys]


def _look_due(tx: Tx, key: SessionKey, now_ms: int, wall_ms: int, compose: Compose) -> Due:
    session = rows.load(tx, key)
    if session is None or session.due_ms is None or session.due_ms > now_ms:
        return "later"
    if session.ended_ms is not None:
        if rows.living_under(tx, key) is None:
            return "delete"
        _look_again(tx, key, now_ms + TREE_MS)
        return "later"
    reached = limits.overdue(session, now_ms)
    if reached is None:
        _look_again(tx, key, _due_ms(session, now_ms))
        return "queued" if _waits(session) else "later"
    if session.turn_id is not None:
        # Whoever asked for its end before is not overruled.
        stopping = reached if session.stopping in ("", INTERRUPTED) else session.stopping
        tx.run(
            "UPDATE sessions SET stopping = ?, due_ms = ? WHERE tenant = ? AND id = ?", (stopping, now_ms + 1_000, *key)
        )
        return reached
    change = Change(session, wall_ms)
    change.end(limited(reached))
    _gone(tx, change, compose)
    return "ended"


def _waits(session: Session) -> bool:
    """Whether a turn waits that nobody has begun."""
    return session.queued > 0 and session.turn_id is None and session.ended_ms is None


def _due_ms(session: Session, now_ms: int) -> int | None:
    """Whatever else changes, what waits is looked at again."""
    return now_ms + AGAIN_MS if _waits(session) else limits.due_ms(session)


def _look_again(tx: Tx, key: SessionKey, due_ms: int | None) -> None:
    tx.run("UPDATE sessions SET due_ms = ? WHERE tenant = ? AND id = ?", (due_ms, *key))


def amend(
    tx: Tx, key: SessionKey, amending: Amending, event_id: str, now_ms: int, compose: Compose
) -> Session | AdjournError:
    """Correct the completion of a session that has ended."""
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    if session.ended_ms is None:
        return _still_lives(session)
    record = compose.event(session.tenant, amendment_event(session, amending, event_id, now_ms))
    if not isinstance(record, Record):
        return LimitReached(f"{record.message}; {record.remedy}", path=record.path)
    change = Change(session, now_ms)
    change.session.amendment_id = event_id
    change.tell("amended", {"event_id": event_id, "amends": session.event_id})
    saved = rows.save(tx, change, compose)
    tx.append([record])
    return saved


# --- inside ----------------------------------------------------------------------------------------------------------

_PATCHED = ("description", "tags", "capabilities", "constraints", "metadata", "on_disconnect")
_encode = msgspec.json.Encoder().encode


def holds_budget(session: Session, living: str) -> StatusRefused:
    return StatusRefused(f"session {living} lives under session {session.id}; end that one first")


def ended_before(session: Session) -> SessionEnded:
    why = f" ({session.error_code})" if session.error_code else ""
    return SessionEnded(
        f"session {session.id} is {session.status}{why} already: its completion is event {session.event_id}; to "
        "correct it, amend the session"
    )


def _still_lives(source: Session) -> TurnRunning:
    return TurnRunning(f"session {source.id} is {source.status} and has not ended; send to it, or complete it first")


def _no_room(tx: Tx, session: Session, most: limits.Bound | None) -> LimitReached | None:
    if most is None or not session.user_id:
        return None
    live = queries.live_of_user(tx, session.tenant, session.user_id, int(most.most))
    if live < most.most:
        return None
    fact = f"user {session.user_id} has {live} live sessions, as many as one may"
    return LimitReached(f"{fact}; end some, or raise {most.setting}", path="user_id")


def _into_tree(tx: Tx, session: Session) -> AdjournError | None:
    if session.parent_id is None:
        return None
    # Locked: it cannot end and be deleted, with its budget, while this one is written.
    parent = rows.load(tx, SessionKey(session.tenant, session.parent_id))
    if parent is None:
        return NotFound(
            f"there is no session {session.parent_id[:100]} to be the parent; check the id", path="parent_id"
        )
    if parent.ended_ms is not None:
        return SessionEnded(f"the parent {parent.id} is {parent.status}; take one that lives", path="parent_id")
    if len(rows.ancestors(tx, session.tenant, session.parent_id)) >= rows.ANCESTORS_MAX:
        fact = f"{parent.id} stands {rows.ANCESTORS_MAX} deep, as deep as a tree may be"
        return LimitReached(f"{fact}; take a parent that is higher", path="parent_id")
    return None


def _move_budget(tx: Tx, session: Session, budget_nanousd: int | None) -> None:
    """To another budget: what was spent or is held stays spent or held."""
    account = money.account_of(session.tenant, session.id)
    if budget_nanousd is None:
        tx.run("DELETE FROM accounts WHERE name = ?", (account,))
        return
    had = tx.rows("SELECT 1 FROM accounts WHERE name = ?", (account,))
    old = session.described.limits.max_budget_usd
    if had and old is not None:
        tx.debit(account, nanousd_of(old) - budget_nanousd, forced=True)
    elif not had:
        left = budget_nanousd - session.spent.cost_nanousd - rows.spent_under(tx, session.key)
        tx.run("INSERT INTO accounts (name, balance) VALUES (?, ?)", (account, left))


def _gone(tx: Tx, change: Change, compose: Compose) -> Session:
    """It has ended: nobody owns it any more."""
    change.session.node = None
    change.session.epoch += 1
    change.session.due_ms = limits.due_ms(change.session)
    turn_changes.drop_queued(tx, change)
    return rows.save(tx, change, compose)
