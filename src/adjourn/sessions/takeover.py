"""What becomes of the sessions of a node that is dead, or that gives them up; each in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adjourn.database import Tx
from adjourn.sessions import limits, money, rows, turn_changes, turn_rows
from adjourn.sessions.budgets import Totals, budgets
from adjourn.sessions.change import Change
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.lifecycle import ABANDONED, Ending, failed, limited, terminated
from adjourn.sessions.rows import Compose
from adjourn.sessions.session import SessionKey
from adjourn.sessions.turn import TurnError, TurnResult
from adjourn.sessions.turn_changes import Begun
from adjourn.sessions.turn_rows import Kept

UNKEPT_EVENTS_MAX = 1_000_000
"""Far more than a turn tells in the time in which they are not kept yet."""

INTERRUPTED, TERMINATED = "interrupted", "terminated"
"""What `stopping` may hold, beside the names of limits."""


def take_over(
    tx: Tx, keys: Sequence[SessionKey], node: str, now_ms: int, compose: Compose, ending: Ending | None = None
) -> int:
    """Sessions of a node that is dead, or that gives them up (then with the `ending` of those that cannot stay): how
    many were its own."""
    return sum(_take_over_one(tx, key, node, now_ms, compose, ending) for key in keys)


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
    if now.ended_ms is not None:
        turn_changes.drop_queued(tx, change)
    rows.save(tx, change, compose)
    return True


def _abandon_turn(tx: Tx, change: Change) -> None:
    """What it has cost nobody knows: all that it held is charged; where it held nothing, what is known of its cost."""
    session = change.session
    turn = turn_rows.find(tx, session.tenant, session.turn_id or "")
    # What the dead node told last is in no database, and its numbers are not given again.
    session.events += UNKEPT_EVENTS_MAX
    if turn is None:
        return
    so_far = turn.so_far_result
    charged = turn.reserved_nanousd if turn.reservation == "held" else so_far.cost_nanousd or 0
    error = TurnError(
        code=ABANDONED, message="its node died; what it did until then is not known: send again", retryable=True
    )
    result = TurnResult(
        turn_id=turn.turn_id,
        number=turn.number,
        status="abandoned",
        error=error,
        usage=msgspec.structs.replace(so_far.usage, turns=1, errors=1, cost_nanousd=charged),
        cost_nanousd=charged,
        began_ms=turn.began_ms or change.now_ms,
        ended_ms=change.now_ms,
    )
    session.spent = money.added(session.spent, msgspec.structs.replace(result.usage, turns=0))
    if charged or so_far.usage.total_tokens:
        session.described = msgspec.structs.replace(session.described, cost_estimated=True)
    change.tell("turn_ended", result, turn.turn_id)
    turn_rows.ended(tx, turn, Kept(turn=result), "forfeited" if turn.reservation == "held" else "")


def running(tx: Tx, key: SessionKey, node: str, totals: Totals) -> Begun | None:
    """The turn of a session that is this node's to run."""
    session = rows.load(tx, key)
    if session is None or session.turn_id is None or session.node != node:
        return None
    turn = turn_rows.find(tx, key.tenant, session.turn_id)
    if turn is None:
        return None
    accounts = budgets(tx, session, totals) if turn.reservation == "held" else []
    left = min([balance for _, balance in accounts], default=None)
    return Begun(session=session, turn=turn, fresh=True, left_nanousd=left)


def ending_of(stopping: str) -> Ending | None:
    """What a session was asked to end with, as it stands in its row; None where only its turn is to end, or nothing."""
    if stopping in ("", INTERRUPTED):
        return None
    return terminated() if stopping == TERMINATED else limited(stopping)
