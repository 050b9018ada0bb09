"""Who calls: every route but the probes names the permission that it needs."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from adjourn.http.rates import admit_request
from adjourn.node import Node
from adjourn.security.keys import Key
from adjourn.security.roles import Permission

Connection = ASGIConnection[Any, Any, Any, Any]


def requires(permission: Permission) -> Any:
    """A guard: checks the key, and how often it asks, and leaves it in `connection.state.key`. Raises Unauthenticated,
    Forbidden, RateLimited."""

    async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        node = node_of(connection)
        connection.state.key = key = await node.keys.check(connection.headers.get("authorization", ""), permission)
        await admit_request(connection, node, key)

    return guard


def node_of(connection: Connection) -> Node:
    node = connection.app.state.node
    assert isinstance(node, Node)
    return node


def caller_of(connection: Connection) -> Key:
    """Whom the guard let in."""
    key = connection.state.key
    assert isinstance(key, Key)
    return key
