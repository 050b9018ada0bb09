"""Who may do what: one table."""

from __future__ import annotations

from typing import Literal

Role = Literal["admin", "operator", "writer", "reader", "auditor"]
Permission = Literal[
    "events:write",
    "events:read",
    "metrics:read",
    "quarantine:read",
    "quarantine:write",
    "destinations:read",
    "keys:read",
    "keys:write",
]

MAY: dict[Role, frozenset[Permission]] = {
    "admin": frozenset(
        (
            "events:write",
            "events:read",
            "metrics:read",
            "quarantine:read",
            "quarantine:write",
            "destinations:read",
            "keys:read",
            "keys:write",
        )
    ),
    "operator": frozenset(
        ("events:write", "events:read", "metrics:read", "quarantine:read", "quarantine:write", "destinations:read")
    ),
    "writer": frozenset(("events:write",)),
    "reader": frozenset(("events:read", "metrics:read", "destinations:read")),
    "auditor": frozenset(("events:read", "metrics:read", "quarantine:read", "destinations:read", "keys:read")),
}


def roles_with(permission: Permission) -> list[Role]:
    """For the message that refuses: which roles would do."""
    return [role for role, permissions in MAY.items() if permission in permissions]
