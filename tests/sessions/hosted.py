"""Hosted sessions as tests make them: everything but what is named is the same."""

from __future__ import annotations

from typing import Any

from adjourn.sessions.session import Described, Session, Spent


def session(**fields: Any) -> Session:
    given: dict[str, Any] = {
        "tenant": "default",
        "id": "sess_1",
        "status": "idle",
        "pattern": "hybrid",
        "role": "active",
        "kind": "api",
        "interface": "api",
        "user_id": "",
        "name": "",
        "runner": "echo",
        "model": "",
        "parent_id": None,
        "root_id": "sess_1",
        "resumed_from": None,
        "revision": 1,
        "epoch": 0,
        "node": None,
        "turn_id": None,
        "stopping": "",
        "created_ms": 1_000,
        "active_ms": 2_000,
        "ended_ms": None,
        "due_ms": None,
        "outcome": "",
        "error_code": "",
        "event_id": "evt_1",
        "amendment_id": None,
        "messages": 0,
        "events": 0,
        "queued": 0,
        "spent": Spent(),
        "described": Described(),
        "state": b"{}",
    }
    return Session(**{**given, **fields})
