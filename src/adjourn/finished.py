"""Sessions that ended elsewhere: one call captures each, whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypedDict, Unpack

from adjourn.capture import get_runtime
from adjourn.completion.receipts import Receipt
from adjourn.events import Modality, OutcomeStatus, SessionType, Transport
from adjourn.runtime import Runtime


def capture_chat_session(
    *,
    session_id: str,
    user_id: str | None = None,
    organization_id: str | None = None,
    start_time: datetime | str | None = None,
    end_time: datetime | str | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    model: str | None = None,
    outcome: OutcomeStatus = "success",
    session_type: SessionType = "chat",
    input_modality: Modality | None = None,
    transport: Transport | None = None,
    tier: str | None = None,
    final_message: str | None = None,
    error_code: str | None = None,
    estimated_cost_usd: Decimal | None = None,
    custom_tags: Mapping[str, object] | None = None,
    runtime: Runtime | None = None,
) -> Receipt:
    """One finished chat. Times are datetimes with a time zone, or RFC 3339 text; cost is decimal USD, computed from
    model and tokens when it is left out. Raises what `Runtime.capture` raises."""
    event: dict[str, object] = {
        "event_type": "session.completed",
        "timestamp": end_time or datetime.now(UTC),
        "session": _present(
            session_id=session_id,
            session_type=session_type,
            start_time=start_time,
            end_time=end_time,
            duration_ms=_duration_ms(start_time, end_time),
            input_modality=input_modality,
            transport=transport,
        ),
        "user": _present(user_id=user_id, organization_id=organization_id, tier=tier),
        "usage": _present(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=None if input_tokens is None or output_tokens is None else input_tokens + output_tokens,
            model=model,
            estimated_cost_usd=estimated_cost_usd,
        ),
        "outcome": _present(status=outcome, final_message=final_message, error_code=error_code),
    }
    if custom_tags:
        event["metadata"] = {"custom_tags": dict(custom_tags)}
    return (runtime or get_runtime()).capture(event)


class _Given(TypedDict, total=False):
    """What `capture_realtime_session` takes as `capture_chat_session` does."""

    user_id: str | None
    organization_id: str | None
    start_time: datetime | str | None
    end_time: datetime | str | None
    input_tokens: int | None
    output_tokens: int | None
    model: str | None
    outcome: OutcomeStatus
    tier: str | None
    final_message: str | None
    error_code: str | None
    estimated_cost_usd: Decimal | None
    custom_tags: Mapping[str, object] | None
    runtime: Runtime | None


def capture_realtime_session(
    *, session_id: str, input_modality: Modality, transport: Transport, **given: Unpack[_Given]
) -> Receipt:
    """One finished voice or multimodal session; the rest is as in `capture_chat_session`."""
    return capture_chat_session(
        session_id=session_id,
        session_type="realtime",
        input_modality=input_modality,
        transport=transport,
        **given,
    )


def _present(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _duration_ms(start: datetime | str | None, end: datetime | str | None) -> int | None:
    if start is None or end is None:
        return None
    try:
        first, last = (datetime.fromisoformat(t) if isinstance(t, str) else t for t in (start, end))
        return max(0, round((last - first).total_seconds() * 1000))
    except (ValueError, TypeError):
        return None  # what is wrong with the times is said when the event is validated, with its path
