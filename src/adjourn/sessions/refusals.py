"""Why a session takes no turn: fact and remedy. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from adjourn.errors import (
    AdjournError,
    BudgetReached,
    LimitReached,
    NotFound,
    PriceUnknown,
    SessionEnded,
    StatusRefused,
    TurnRunning,
)
from adjourn.sessions import limits, money
from adjourn.sessions.budgets import Total
from adjourn.sessions.hosting import PATTERNS
from adjourn.sessions.session import Session, SessionKey
from adjourn.sessions.turn import Message


def refused(session: Session, message: Message, node: str) -> AdjournError | None:
    """Why a session takes no turn now."""
    if session.ended_ms is not None:
        why = f" ({session.error_code})" if session.error_code else ""
        return SessionEnded(
            f"session {session.id} is {session.status}{why} and takes no more messages; begin a new one with "
            f"resumed_from: {session.id}"
        )
    if session.status == "initializing":
        return StatusRefused(f"session {session.id} is initializing; wait until it is active")
    if session.turn_id is not None or session.queued:
        what = f"turn {session.turn_id} runs" if session.turn_id else f"{session.queued} messages wait"
        where = "this node" if session.node in (node, None) else f"node {session.node}"
        return TurnRunning(
            f"in session {session.id} {what} on {where}; wait for it, send with queue: true, or interrupt it"
        )
    if PATTERNS[session.pattern].opens == "create" and session.node not in (node, None):
        return StatusRefused(f"the runner of session {session.id} lives on node {session.node}; send to that node")
    return _agent_refused(session, message) or _limit_refused(session)


def not_found(key: SessionKey) -> NotFound:
    return NotFound(
        f"there is no session {key.session_id[:100]} for tenant {key.tenant}; GET /v1/sessions lists those that are"
    )


def agent_of(session: Session, message: Message) -> str:
    """The agent that a message is for."""
    names = [agent.name for agent in session.described.config.agents]
    return message.agent or (names[0] if len(names) == 1 else "")


def _agent_refused(session: Session, message: Message) -> AdjournError | None:
    names = [agent.name for agent in session.described.config.agents]
    if message.agent and message.agent not in names:
        said = f"its agents are {', '.join(names)}" if names else "it has no named agents"
        return NotFound(f"session {session.id} has no agent {message.agent[:100]}; {said}", path="agent")
    if not message.agent and len(names) > 1:
        return NotFound(f"session {session.id} has several agents; name one: {', '.join(names)}", path="agent")
    return None


def _limit_refused(session: Session) -> AdjournError | None:
    reached = limits.reached(session, session.described.limits)
    if reached is None:
        return None
    return LimitReached(f"session {session.id} has used all of limits.{reached}; raise it, or end the session")


def too_poor(session: Session, account: tuple[str, int], totals: Sequence[Total]) -> BudgetReached:
    for total in totals:
        if total.account == account[0]:
            fact = f"the total of {total.whose} has {money.usd_of(account[1]):f} USD left"
            return BudgetReached(
                f"session {session.id} cannot pay for another turn: {fact}; raise {total.setting} in the server's "
                "settings, or lower config.max_output_tokens"
            )
    name = account[0].rpartition("/")[2]
    whose = "its" if name == session.id else f"the one of session {name}, over it,"
    left = f"{money.usd_of(account[1]):f}"
    return BudgetReached(
        f"session {session.id} cannot pay for another turn: {whose} budget has {left} USD left; raise "
        f"limits.max_budget_usd of session {name}, or lower config.max_output_tokens"
    )


def no_price(session: Session) -> PriceUnknown:
    what = f"model {session.model} has no price" if session.model else "it names no model, and so has no price"
    return PriceUnknown(
        f"session {session.id} spends from a budget, and {what}; declare its price, or take another model",
        path="price",
    )
