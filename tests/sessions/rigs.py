"""Nodes for tests of watched sessions: real ones, over either database, that deliver nowhere and look often."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from tests.databases.rigs import fresh_url
from tests.faults.rigs import mapping, settings_of

from adjourn.clock import Clock
from adjourn.node import Node
from adjourn.sessions.watch import Complete
from adjourn.testing.account import bodies

PATIENCE_S = 60


def mapped_of(kind: str, directory: Path, **sections: dict[str, object]) -> dict[str, Any]:
    return mapping(directory, fresh_url(kind, directory), routing={"destinations": []}, **sections)


def node_of(mapped: dict[str, Any], clock: Clock | None = None) -> Node:
    return Node(settings_of(mapped), clock=clock)


def complete(**parts: dict[str, object]) -> Complete:
    """`complete(outcome={"status": "error"})`"""
    return msgspec.json.decode(json.dumps(parts), type=Complete)


def parts(**values: object) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}


async def events(node: Node) -> list[dict[str, Any]]:
    return [json.loads(body) for body in await bodies(node)]


async def until(node: Node, session_id: str, met: Callable[[str], bool]) -> str:
    """The session's state, once it is as it should be."""
    deadline = time.monotonic() + PATIENCE_S
    while not met(state := (await node.watched.get("default", session_id)).state):
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.02)
    return state
