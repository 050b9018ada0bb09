"""Filters, transforms and redaction: microseconds an event, decoding and encoding included, beside plain Python."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from adjourn.completion.redact import redactor_of
from adjourn.delivery.transform import shaping_of
from adjourn.events import StoredEvent
from adjourn.redaction_rules import parse_rule
from bench import sample
from bench.table import Row, median

EVENTS = 2_000
RUNS = 7

FILTER = "usage.model == 'gpt-4o' && usage.total_tokens > 100 && outcome.status != 'error'"
TRANSFORM = (
    "{'id': event_id, 'tokens': usage.input_tokens + usage.output_tokens, 'model': usage.model, "
    "'user': user.user_id, 'cost_usd': adjourn.cost_usd}"
)


FIELDS = ("hash user.user_id", "drop metadata.source_ip", "mask outcome.final_message")
PATTERNS = ("mask email", "mask phone", "mask card", "mask ip", "mask secret_key")

Call = Callable[[StoredEvent], object]


def transforms() -> list[Row]:
    cases: list[tuple[str, Call, Call | None]] = [
        ("CEL filter", shape(FILTER, ""), plain_filter),
        ("CEL transform to five fields", shape("", TRANSFORM), plain_transform),
        ("CEL filter and transform", shape(FILTER, TRANSFORM), plain_both),
        ("billing_v1", shape("", "billing_v1"), plain_billing),
        ("analytics_v2", shape("", "analytics_v2"), None),
        ("audit_v1", shape("", "audit_v1"), None),
        ("CEL filter and billing_v1", shape(FILTER, "billing_v1"), None),
        ("redaction of three fields", redact(*FIELDS), None),
        ("redaction by all five patterns", redact(*PATTERNS), None),
    ]
    bodies = sample.events(EVENTS)
    events = [
        StoredEvent(0, n, "default", body, 1_766_313_045_123, 42_800_000, "sent") for n, body in enumerate(bodies)
    ]
    return [_row(f"{what}, an event", ours, plain, events) for what, ours, plain in cases]


def _row(what: str, ours: Call, plain: Call | None, events: Sequence[StoredEvent]) -> Row:
    baseline = "" if plain is None else f"plain Python {_microseconds(plain, events):.1f} µs"
    return Row(what, f"{_microseconds(ours, events):.1f} µs", baseline, "", None)


def _microseconds(call: Call, events: Sequence[StoredEvent]) -> float:
    took: list[float] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        for event in events:
            call(event)
        took.append((time.perf_counter() - began) / len(events) * 1e6)
    return median(took)


def shape(filter: str, transform: str) -> Call:
    made = shaping_of(filter=filter, transform=transform)
    if made is None:
        raise RuntimeError("there is nothing to measure")
    return made.shape


def redact(*rules: str) -> Call:
    made = redactor_of([parse_rule(rule) for rule in rules], bytes(32))
    if made is None:
        raise RuntimeError("there is nothing to measure")
    redaction = made("default")
    return lambda event: redaction(event.body)


def plain_filter(event: StoredEvent) -> bool:
    return _wanted(json.loads(event.body))


def plain_transform(event: StoredEvent) -> bytes:
    return _five(json.loads(event.body))


def plain_both(event: StoredEvent) -> bytes | None:
    fields = json.loads(event.body)
    return _five(fields) if _wanted(fields) else None


def plain_billing(event: StoredEvent) -> bytes:
    fields = json.loads(event.body)
    kept = {name: fields[name] for name in ("event_type", "event_id", "timestamp", "session", "user", "usage")}
    kept["outcome"] = {"status": fields["outcome"]["status"], "error_code": fields["outcome"]["error_code"]}
    kept["metadata"] = {"custom_tags": fields["metadata"]["custom_tags"]}
    kept["billing"] = {"tenant": event.tenant, "cost_nanousd": event.cost_nanousd, "price_ref": event.price_ref}
    return json.dumps(kept).encode()


def _wanted(fields: dict[str, dict[str, object]]) -> bool:
    usage, outcome = fields.get("usage") or {}, fields.get("outcome") or {}
    total = usage.get("total_tokens")
    return (
        usage.get("model") == "gpt-4o" and isinstance(total, int) and total > 100 and outcome.get("status") != "error"
    )


def _five(fields: dict[str, dict[str, int]]) -> bytes:
    usage = fields["usage"]
    return json.dumps(
        {
            "id": fields["event_id"],
            "session": {"session_id": fields["session"]["session_id"]},
            "tokens": usage["input_tokens"] + usage["output_tokens"],
            "model": usage["model"],
            "user": fields["user"]["user_id"],
        }
    ).encode()
