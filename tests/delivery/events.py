"""One event of the schema, with every field, as the log gives it back."""

from __future__ import annotations

import json
from typing import Any

from adjourn.events import StoredEvent

EVENT: dict[str, Any] = {
    "event_type": "session.completed",
    "event_id": "evt_1a2b3c4d5e6f",
    "timestamp": "2025-12-21T10:30:45.123Z",
    "session": {
        "session_id": "sess_abc123",
        "session_type": "chat",
        "start_time": "2025-12-21T10:25:00.000Z",
        "end_time": "2025-12-21T10:30:45.123Z",
        "duration_ms": 345123,
    },
    "user": {"user_id": "usr_xyz789", "organization_id": "org_company123", "tier": "pro"},
    "usage": {
        "input_tokens": 1250,
        "output_tokens": 890,
        "total_tokens": 2140,
        "model": "gpt-4",
        "estimated_cost_usd": 0.0428,
    },
    "outcome": {"status": "success", "final_message": "Your refund is on its way.", "error_code": None},
    "metadata": {"client_version": "1.2.3", "source_ip": "192.168.1.100", "custom_tags": {"team": "support"}},
}


def stored(event: dict[str, Any] | bytes = EVENT, *, cost_nanousd: int | None = 42_800_000) -> StoredEvent:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    ref = "" if cost_nanousd is None else "sent"
    return StoredEvent(0, 41, "acme", body, 1_766_313_045_200, cost_nanousd, ref)


def changed(**sections: Any) -> StoredEvent:
    """The event with some sections replaced; None leaves one out."""
    merged = EVENT | sections
    return stored({name: value for name, value in merged.items() if value is not None})


MINIMAL = stored({"event_id": "evt_1", "session": {"session_id": "s"}}, cost_nanousd=None)
