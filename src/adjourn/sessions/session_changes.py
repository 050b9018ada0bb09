"""What changes a session outside its turns: it is created, patched, ended, found due, or taken over from a dead node;
each in one transaction. What is refused is returned, not raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from adjourn.database import Tx
from adjourn.errors import AdjournError, LimitReached, NotFound, RevisionStale, SessionEnded, TurnRunning
from adjourn.events import Record
from adjourn.prices import nanousd_of
from adjourn.sessions import limits, money, queries, rows, turn_changes, turn_rows
from adjourn.sessions.change import Change
from adjourn.sessions.completions import amendment_event
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.lifecycle import ABANDONED, Ending, Status, failed, limited, terminated
from adjourn.sessions.refusals import not_found, refused
from adjourn.sessions.rows import Compose
from adjourn.sessions.session import Limits, NewSession, Patch, Session, SessionKey
from adjourn.sessions.turn import Amending, Message, TurnError, TurnResult
from adjourn.sessions.turn_changes import Talk
from adjourn.sessions.turn_rows import Kept

INTERRUPTED, TERMINATED = "interrupted", "terminated"
"""What `stopping` may hold, beside the names of limits."""

Due = Literal["delete", "queued", "later", "ended", "max_idle_ms", "max_lifetime_ms"]
"""What is to be done about a session that is due: delete it, begin what waits, nothing now; it has been ended; or its
owner has been asked to end it, by this limit."""


def create(
    tx: Tx,
    session: Session,
    to: Status,
    budget_nanousd: int | None,
    sessions_per_user: int | None,
    compose: Compose,
    talk: Talk,
) -> tuple[Session, bool] | AdjournError:
    """(the session, whether it is new). `session` is initializing, and goes to `to` at once if that is another status.
    With `resumed_from`, it begins with the conversation and the state of that one."""
    before = rows.find(tx, session.key)
    if before is not None:
        return before, False
    if sessions_per_user is not None and session.user_id:
        live = queries.live_of_user(tx, session.tenant, session.user_id, sessions_per_user)
        if live >= sessions_per_user:
            fact = f"user {session.user_id} has {live} live sessions, as many as one may"
            return LimitReached(f"{fact}; end some, or raise hosting.max_sessions_per_user", path="user_id")
    if session.parent_id is not None:
        refusal = _into_tree(tx, session)
        if refusal is not None:
            return refusal
    source: Session | None = None
    if session.resumed_from is not None:
        source = rows.load(tx, SessionKey(session.tenant, session.resumed_from))
        if source is None:
            return not_found(SessionKey(session.tenant, session.resumed_from))
        if source.ended_ms is None:
            return _still_lives(source)
        session.state = session.state if session.state != b"{}" else source.state
        session.messages = talk.share(tx, session.key, source.id, source.messages)
    change = Change(session, session.created_ms)
    change.move(to, "created")
    change.session.due_ms = limits.due_ms(change.session)
    if not rows.insert(tx, change, compose):
        return session, False
    if budget_nanousd is not None:
        account = money.account_of(session.tenant, session.id)
        tx.run("INSERT INTO accounts (name, balance) VALUES (?, ?)", (account, budget_nanousd))
    return change.session, True


def opened(tx: Tx, key: SessionKey, epoch: int, now_ms: int, compose: Compose) -> Session | None:
    """Its runner is open: it is active."""
    session = rows.load(tx, key)
    if session is None or session.epoch != epoch or session.status != "initializing":
        return None
    change = Change(session, now_ms)
    change.move("active", "opened")
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
    now.revision += 1
    now.name = session.name if wanted.name is None else wanted.name
    if wanted.state is not None:
        now.state = _encode(wanted.state)
    given = {name: value for name in _PATCHED if (value := getattr(wanted, name)) is not None}
    now.described = msgspec.structs.replace(told, **given)
    if merged is not None:
        now.described = msgspec.structs.replace(now.described, limits=merged)
        _move_budget(tx, session, budget_nanousd)
        now.due_ms = limits.due_ms(now)
    if wanted.tags is not None:
        rows.put_tags(tx, now, told.tags)
    return rows.save(tx, change, compose)


def append(tx: Tx, key: SessionKey, message: Message, now_ms: int, compose: Compose, talk: Talk) -> int | AdjournError:
    """A message without a turn; the place of the session's last message then."""
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    refusal = refused(session, message, session.node or "")
    if refusal is not None and not isinstance(refusal, LimitReached):
        return refusal
    added = talk.ask(tx, key, after=session.messages, message=message, turn_id=None, now_ms=now_ms)
    if added:
        change = Change(session, now_ms)
        change.session.messages += added
        change.session.active_ms = max(session.active_ms, now_ms)
        change.session.due_ms = limits.due_ms(change.session)
        change.tell("message", {"seq": change.session.messages, "role": message.role})
        session = rows.save(tx, change, compose)
    return session.messages


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
    change.session.due_ms = limits.due_ms(change.session)
    return rows.save(tx, change, compose)


def again(session: Session) -> NewSession:
    """A new session that goes on with one that has ended."""
    told = session.described
    return NewSession(
        pattern=session.pattern,
        runner=session.runner,
        config=told.config,
        limits=told.limits,
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
        resumed_from=session.id,
        on_disconnect=told.on_disconnect,
    )


def forget(tx: Tx, key: SessionKey) -> bool:
    """The row of an ended session, once all that belonged to it is gone."""
    session = rows.load(tx, key)
    return session is not None and session.ended_ms is not None and rows.forget(tx, session)


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


def ask_to_stop(tx: Tx, key: SessionKey, stopping: str) -> Session | None:
    """Ask the node that runs its turn to end it."""
    session = rows.load(tx, key)
    if session is not None and session.turn_id is not None and not session.stopping:
        session.stopping = stopping
        tx.run("UPDATE sessions SET stopping = ? WHERE tenant = ? AND id = ?", (stopping, *key))
    return session


def look_due(tx: Tx, key: SessionKey, now_ms: int, compose: Compose) -> Due:
    """A session that was found due: what to do, after what can be done here is done."""
    session = rows.load(tx, key)
    if session is None or session.due_ms is None or session.due_ms > now_ms:
        return "later"
    if session.ended_ms is not None:
        return "delete"
    reached = limits.overdue(session, now_ms)
    if reached is None:
        if session.queued and session.turn_id is None:
            return "queued"
        tx.run("UPDATE sessions SET due_ms = ? WHERE tenant = ? AND id = ?", (limits.due_ms(session), *key))
        return "later"
    if session.turn_id is not None:
        tx.run("UPDATE sessions SET stopping = ?, due_ms = NULL WHERE tenant = ? AND id = ?", (reached, *key))
        return reached
    change = Change(session, now_ms)
    change.end(limited(reached))
    _gone(tx, change, compose)
    return "ended"


def take_over(
    tx: Tx, keys: Sequence[SessionKey], node: str, now_ms: int, compose: Compose, ending: Ending | None = None
) -> int:
    """Sessions of a node that is dead, or that gives them up (then with the `ending` of those that cannot stay): how
    many were its own."""
    return sum(_take_over_one(tx, key, node, now_ms, compose, ending) for key in keys)


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


def ended_before(session: Session) -> SessionEnded:
    why = f" ({session.error_code})" if session.error_code else ""
    return SessionEnded(
        f"session {session.id} is {session.status}{why} already: its completion is event {session.event_id}; to "
        "correct it, amend the session"
    )


def _still_lives(source: Session) -> TurnRunning:
    return TurnRunning(f"session {source.id} is {source.status} and has not ended; send to it, or complete it first")


def _into_tree(tx: Tx, session: Session) -> AdjournError | None:
    assert session.parent_id is not None
    parent = rows.find(tx, SessionKey(session.tenant, session.parent_id))
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
        left = budget_nanousd - session.spent.cost_nanousd
        tx.run("INSERT INTO accounts (name, balance) VALUES (?, ?)", (account, left))


def _gone(tx: Tx, change: Change, compose: Compose) -> Session:
    """It has ended: nobody owns it any more."""
    change.session.node = None
    change.session.epoch += 1
    change.session.due_ms = limits.due_ms(change.session)
    saved = rows.save(tx, change, compose)
    turn_changes.drop_queued(tx, saved, change.now_ms)
    return saved


def _take_over_one(tx: Tx, key: SessionKey, node: str, now_ms: int, compose: Compose, ending: Ending | None) -> bool:
    session = rows.load(tx, key)
    if session is None or session.node != node or session.ended_ms is not None:
        return False
    change = Change(session, now_ms)
    now = change.session
    ran = session.turn_id is not None
    if ran:
        _abandon_turn(tx, change)
    now.node, now.turn_id = None, None
    now.epoch += 1
    after = PATTERNS[session.pattern].after_death
    stop = ending_of(session.stopping)
    if stop is not None:
        change.end(stop)
    elif after == "error" or session.status == "initializing":
        change.end(ending or failed(ABANDONED))
    elif ran:
        change.move(after, ABANDONED)
    now.stopping = ""
    now.due_ms = now_ms if now.queued and now.ended_ms is None else limits.due_ms(now)
    saved = rows.save(tx, change, compose)
    if saved.ended_ms is not None:
        turn_changes.drop_queued(tx, saved, now_ms)
    return True


def _abandon_turn(tx: Tx, change: Change) -> None:
    """What it has cost nobody knows: all that it held is charged."""
    session = change.session
    turn = turn_rows.find(tx, session.tenant, session.turn_id or "")
    if turn is None:
        return
    charged = turn.reserved_nanousd if turn.reservation == "held" else 0
    error = TurnError(
        code=ABANDONED, message="its node died; what it did until then is not known: send again", retryable=True
    )
    result = TurnResult(
        turn_id=turn.turn_id,
        number=turn.number,
        status="abandoned",
        error=error,
        cost_nanousd=charged,
        began_ms=turn.began_ms or change.now_ms,
        ended_ms=change.now_ms,
    )
    session.spent.cost_nanousd += charged
    session.spent.errors += 1
    if charged:
        session.described = msgspec.structs.replace(session.described, cost_estimated=True)
    change.tell("turn_ended", result, turn.turn_id)
    turn_rows.ended(tx, turn, Kept(turn=result), "forfeited" if charged else "")


def ending_of(stopping: str) -> Ending | None:
    """What a session was asked to end with, as it stands in its row; None where only its turn is to end, or nothing."""
    if stopping in ("", INTERRUPTED):
        return None
    return terminated() if stopping == TERMINATED else limited(stopping)
