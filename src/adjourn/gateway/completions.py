"""The completion of a session whose calls went through the gateway: sums, the last call's outcome, times, user."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from adjourn.events import Completion, MetadataPart, OutcomePart, SessionPart, UsagePart, UserPart
from adjourn.gateway.sessions import Session, Totals

SOURCE = "gateway"

_encode = msgspec.json.Encoder(decimal_format="number").encode
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_output_tokens",
)


def completion_of(session: Session) -> bytes:
    """The event's JSON: the same session gives the same bytes."""
    start, end = _time(session.started_ms), _time(session.ended_ms)
    return _encode(
        Completion(
            event_id=session.ref,
            timestamp=end,
            session=SessionPart(
                session_id=session.session_id,
                session_type="chat" if session.conversation else "api",
                start_time=start,
                end_time=end,
                duration_ms=session.ended_ms - session.started_ms,
                transport="sse" if session.streamed else "http",
            ),
            user=UserPart(user_id=session.user_id) if session.user_id else None,
            usage=_usage(session.models),
            outcome=OutcomePart(status=session.status, error_code=session.error_code or None),
            metadata=MetadataPart(
                source=SOURCE,
                client_version=session.client or None,
                source_ip=session.address or None,
                custom_tags={"gateway": msgspec.Raw(_encode(_tag(session)))},
            ),
        )
    )


def _usage(models: dict[str, Totals]) -> UsagePart | None:
    if not models:
        return None
    usage = UsagePart()
    for totals in models.values():
        for name in _COUNTS:
            more: int | None = getattr(totals, name)
            if more is not None:
                setattr(usage, name, (getattr(usage, name) or 0) + more)
    usage.total_tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    if any(totals.unpriced for totals in models.values()):
        # A model is named only where its price could be that of the sum: else nobody may price it, here or later.
        alone = len(models) == 1 and all(totals.cost_nanousd is None for totals in models.values())
        usage.model = (next(iter(models)) or None) if alone else None
        return usage
    usage.estimated_cost_usd = Decimal(sum(totals.cost_nanousd or 0 for totals in models.values())).scaleb(-9)
    usage.model = max(models, key=lambda name: _tokens(models[name])) or None
    return usage


def _tokens(totals: Totals) -> int:
    return (totals.input_tokens or 0) + (totals.output_tokens or 0)


def _tag(session: Session) -> dict[str, object]:
    tag: dict[str, object] = {
        "calls": session.calls,
        "failed_calls": session.failed_calls,
        "calls_without_usage": session.calls_without_usage,
        "finish_reason": session.finish_reason or None,
    }
    if len(session.models) > 1:
        tag["models"] = {name: _of_model(totals) for name, totals in session.models.items()}
    return tag


def _of_model(totals: Totals) -> dict[str, object]:
    shown: dict[str, object] = {"calls": totals.calls}
    shown |= {name: getattr(totals, name) for name in _COUNTS if getattr(totals, name) is not None}
    shown["cost_usd"] = None
    if totals.cost_nanousd is not None and not totals.unpriced:
        shown["cost_usd"] = Decimal(totals.cost_nanousd).scaleb(-9)
    return shown


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
