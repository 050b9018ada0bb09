"""Who may do what: one table."""

from __future__ import annotations

from typing import Literal

Role = Literal["admin", "operator", "writer", "reader", "auditor", "beacon", "relay"]
Permission = Literal[
    "events:write",
    "events:relay",
    "events:read",
    "metrics:read",
    "quarantine:read",
    "quarantine:write",
    "destinations:read",
    "destinations:write",
    "dead_letters:read",
    "dead_letters:write",
    "settings:write",
    "keys:read",
    "keys:write",
    "sessions:read",
    "sessions:write",
    "beacon:write",
]

MAY: dict[Role, frozenset[Permission]] = {
    "admin": frozenset(
        (
            "events:write",
            "events:relay",
            "events:read",
            "metrics:read",
            "quarantine:read",
            "quarantine:write",
            "destinations:read",
            "destinations:write",
            "dead_letters:read",
            "dead_letters:write",
            "settings:write",
            "keys:read",
            "keys:write",
            "sessions:read",
            "sessions:write",
            "beacon:write",
        )
    ),
    "operator": frozenset(
        (
            "events:write",
            "events:relay",
            "events:read",
            "metrics:read",
            "quarantine:read",
            "quarantine:write",
            "destinations:read",
            "destinations:write",
            "dead_letters:read",
            "dead_letters:write",
            "settings:write",
            "sessions:read",
            "sessions:write",
        )
    ),
    "writer": frozenset(("events:write", "events:relay", "sessions:write")),
    "reader": frozenset(("events:read", "metrics:read", "destinations:read", "sessions:read")),
    "auditor": frozenset(
        (
            "events:read",
            "metrics:read",
            "quarantine:read",
            "destinations:read",
            "dead_letters:read",
            "keys:read",
            "sessions:read",
        )
    ),
    # Public: every page shows it. Never more than this.
    "beacon": frozenset(("beacon:write",)),
    # Another Adjourn. It alone relays for every tenant, so that no tenant's admin may make such a key.
    "relay": frozenset(("events:relay",)),
}


def roles_with(permission: Permission) -> list[Role]:
    """For the message that refuses: which roles would do."""
    return [role for role, permissions in MAY.items() if permission in permissions]
