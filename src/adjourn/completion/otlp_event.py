"""The completion of an agent's run that was seen as spans, and the amendment when spans of it came later. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from adjourn.completion.otlp import MAPPING_VERSION
from adjourn.completion.otlp_trace import Price, Run, Total
from adjourn.events import Completion, MetadataPart, OutcomePart, SessionPart, UsagePart, UserPart

SOURCE = "otlp"
NAME_LENGTH_MAX = 200
"""Of a conversation's id in a session's."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder(decimal_format="number").encode


def event_id_of(trace_id: str, span_id: str, amendment: int = 0) -> str:
    """The same span has the same id, however often it is sent."""
    return f"evt_otlp_{trace_id}_{span_id}" + (f"_{amendment}" if amendment else "")


def session_id_of(trace_id: str, run: Run) -> str:
    """A session of its own for every run: frameworks give one `session.id` to all turns of a conversation, and whether
    another turn follows cannot be known. The trace's id alone where the run is the whole trace."""
    node, about = run.node, run.node.about
    assert about is not None
    if about.session:
        return f"{about.session[:NAME_LENGTH_MAX].strip()}:{node.span_id}"
    return trace_id if about.first else f"{trace_id}:{node.span_id}"


def event_of(trace_id: str, run: Run, price: Price) -> bytes:
    """`session.completed`; of a run that was told of before, the `session.amended` that tells it anew, whole."""
    node, about = run.node, run.node.about
    assert about is not None
    start, end = _time(node.start_ns), _time(node.end_ns)
    amended = node.done > 0
    return _encode(
        Completion(
            event_type="session.amended" if amended else "session.completed",
            event_id=event_id_of(trace_id, node.span_id, node.done),
            amends=event_id_of(trace_id, node.span_id) if amended else None,
            timestamp=end,
            session=SessionPart(
                session_id=session_id_of(trace_id, run),
                session_type="chat" if about.session else "autonomous",
                start_time=start,
                end_time=end,
                duration_ms=max(0, node.end_ns - node.start_ns) // 1_000_000 if start and end else None,
            ),
            user=UserPart(user_id=about.user) if about.user else None,
            usage=_usage(run, price),
            outcome=OutcomePart(status="error" if about.error else "success", error_code=about.error or None),
            metadata=MetadataPart(source=SOURCE, client_version=about.scope or None, custom_tags=_tags(trace_id, run)),
        )
    )


def _usage(run: Run, price: Price) -> UsagePart | None:
    sums = run.sums
    if not sums.models and not sums.tools:
        return None
    whole = Total()
    for total in sums.models.values():
        whole.add(total)
    usage = UsagePart(tool_calls=sums.tools or None)
    if not sums.models:
        return usage
    usage.input_tokens, usage.output_tokens = whole.input, whole.output
    usage.total_tokens = whole.input + whole.output
    usage.cache_read_input_tokens = whole.cache_read or None
    usage.cache_creation_input_tokens = whole.cache_creation or None
    usage.reasoning_output_tokens = whole.reasoning or None
    alone = next(iter(sums.models)) if len(sums.models) == 1 else ""
    if alone and not whole.sent and _is_price_of_sum(alone, run, whole, price):
        usage.model = alone  # priced as it is taken, so that the price's provenance stands beside it
    elif not whole.unpriced:
        usage.estimated_cost_usd = Decimal(whole.cost_nanousd).scaleb(-9)
        usage.model = max(sums.models, key=lambda name: sums.models[name].usage.tokens) or None
    # Else no model is named, so that nobody prices what all of them used as if it were that one's.
    return usage


def _is_price_of_sum(model: str, run: Run, whole: Total, price: Price) -> bool:
    """Where prices depend on the size of a call, they are not those of the sum. Each call may be off by a rounding."""
    if whole.unpriced:
        return True
    cost = price(model, run.node.end_ns, whole.usage)
    return cost is not None and abs(cost - whole.cost_nanousd) <= whole.calls


def _tags(trace_id: str, run: Run) -> dict[str, msgspec.Raw]:
    node, about, sums = run.node, run.node.about, run.sums
    assert about is not None
    mine: dict[str, object] = {
        "trace_id": trace_id,
        "span_id": node.span_id,
        "conversation_id": about.session or None,
        "agent": about.agent or None,
        "provider": about.provider or None,
        "calls": sum(total.calls for total in sums.models.values()),
        "spans_unreadable": sums.unreadable or None,
        "models": {name: _of_model(total) for name, total in sums.models.items()} if len(sums.models) > 1 else None,
        "mapping": MAPPING_VERSION,
    }
    tags: dict[str, object] = {
        "service.name": about.service or None,
        "deployment.environment": about.environment or None,
        "otlp": {name: value for name, value in mine.items() if value is not None},
    }
    return {name: msgspec.Raw(_encode(value)) for name, value in tags.items() if value is not None}


def _of_model(total: Total) -> dict[str, object]:
    return {
        "calls": total.calls,
        "input_tokens": total.input,
        "output_tokens": total.output,
        "cost_usd": None if total.unpriced else Decimal(total.cost_nanousd).scaleb(-9),
    }


def _time(ns: int) -> datetime | None:
    """To the millisecond, as times are kept; 0 is none."""
    return _EPOCH + timedelta(milliseconds=ns // 1_000_000) if ns else None
