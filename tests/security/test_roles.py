"""The table of roles."""

from __future__ import annotations

from typing import get_args

from adjourn.security.roles import MAY, Permission, Role, roles_with


def test_the_table_is_whole() -> None:
    """Every role has its row, every permission somebody who holds it, and admin holds all."""
    assert set(MAY) == set(get_args(Role))
    assert MAY["admin"] == set(get_args(Permission))
    for permission in get_args(Permission):
        assert roles_with(permission) == [role for role in get_args(Role) if permission in MAY[role]]


def test_roles_are_what_their_names_say() -> None:
    """A writer reads nothing; readers and auditors write nothing; keys are made by admins alone."""
    assert MAY["writer"] == {"events:write", "events:relay", "sessions:write"}
    for role in ("reader", "auditor"):
        assert not any(permission.endswith(":write") for permission in MAY[role])
    assert roles_with("keys:write") == ["admin"]
    assert MAY["beacon"] == {"beacon:write"}  # every page shows such a key
    assert MAY["relay"] == {"events:relay"}  # it has every tenant's
    assert "quarantine:read" not in MAY["reader"]  # refused bodies may hold anything
