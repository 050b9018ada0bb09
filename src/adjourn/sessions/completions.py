"""What the completion of a hosted session says, and its amendment. Pure."""

from __future__ import annotations

import msgspec

from adjourn.clock import rfc3339
from adjourn.sessions import money
from adjourn.sessions.lifecycle import Ending
from adjourn.sessions.session import Session
from adjourn.sessions.turn import Amending

_encode = msgspec.json.Encoder(decimal_format="number").encode


def completion_event(session: Session, ending: Ending) -> bytes:
    """The `session.completed` of a session that has just ended (`ended_ms` is set)."""
    outcome: dict[str, object] = {"status": ending.outcome}
    if ending.error_code:
        outcome["error_code"] = ending.error_code
    if ending.final_message or session.described.final_message:
        outcome["final_message"] = ending.final_message or session.described.final_message
    if ending.final_state:
        outcome["final_state"] = ending.final_state
    return _encode(
        {
            "event_type": "session.completed",
            "event_id": session.event_id,
            "timestamp": rfc3339(session.ended_ms or 0),
            "session": _session(session),
            **({"user": {"user_id": session.user_id}} if session.user_id else {}),
            "usage": usage_of(session),
            "outcome": outcome,
            "metadata": {"custom_tags": _tags(session)},
        }
    )


def bare_event(session: Session, ending: Ending) -> bytes:
    """The least that it can say, which no setting refuses."""
    return _encode(
        {
            "event_id": session.event_id,
            "session": {"session_id": session.id},
            "usage": usage_of(session),
            "outcome": {"status": ending.outcome},
        }
    )


def amendment_event(session: Session, amending: Amending, event_id: str, now_ms: int) -> bytes:
    """The `session.amended` that says what the completion should have said, whole."""
    outcome: dict[str, object] = {"status": amending.outcome or session.outcome}
    error_code = session.error_code if amending.error_code is None else amending.error_code
    final = session.described.final_message if amending.final_message is None else amending.final_message
    outcome |= {"error_code": error_code} if error_code else {}
    outcome |= {"final_message": final} if final else {}
    usage = usage_of(session)
    for name in ("input_tokens", "output_tokens"):
        if (given := getattr(amending, name)) is not None:
            usage[name] = given
    if {amending.input_tokens, amending.output_tokens} != {None}:
        usage.pop("total_tokens")
    if amending.cost_usd is not None:
        usage["estimated_cost_usd"] = amending.cost_usd
    return _encode(
        {
            "event_type": "session.amended",
            "event_id": event_id,
            "amends": session.event_id,
            "timestamp": rfc3339(now_ms),
            "session": _session(session),
            **({"user": {"user_id": session.user_id}} if session.user_id else {}),
            "usage": usage,
            "outcome": outcome,
            "metadata": {"custom_tags": _tags(session)},
        }
    )


def usage_of(session: Session) -> dict[str, object]:
    spent = session.spent
    usage: dict[str, object] = {
        "input_tokens": spent.input_tokens,
        "output_tokens": spent.output_tokens,
        "total_tokens": spent.total_tokens,
        "tool_calls": spent.tool_calls,
    }
    if session.model:
        usage["model"] = session.model
    if spent.cache_read_tokens:
        usage["cache_read_input_tokens"] = spent.cache_read_tokens
    if spent.cache_creation_tokens:
        usage["cache_creation_input_tokens"] = spent.cache_creation_tokens
    if spent.reasoning_tokens:
        usage["reasoning_output_tokens"] = spent.reasoning_tokens
    # Where no turn had a price there is no cost: nothing is not the same as 0.
    if spent.cost_nanousd or not spent.unpriced_turns:
        usage["estimated_cost_usd"] = money.usd_of(spent.cost_nanousd)
    return usage


def _session(session: Session) -> dict[str, object]:
    ended_ms = session.ended_ms or session.created_ms
    return {
        "session_id": session.id,
        "session_type": session.kind,
        "start_time": rfc3339(session.created_ms),
        "end_time": rfc3339(ended_ms),
        "duration_ms": ended_ms - session.created_ms,
    }


def _tags(session: Session) -> dict[str, object]:
    """What else is known, by name; empty ones are left away."""
    found: dict[str, object] = {
        "pattern": session.pattern,
        "role": session.role,
        "runner": session.runner,
        "interface": session.interface,
        "turns": session.spent.turns,
        "errors": session.spent.errors,
        "unpriced_turns": session.spent.unpriced_turns,
        "name": session.name,
        "tags": list(session.described.tags),
        "parent_id": session.parent_id,
        "resumed_from": session.resumed_from,
        "cost_estimated": session.described.cost_estimated,
    }
    return {name: value for name, value in found.items() if value or name == "turns"}
