"""What was acknowledged against what arrived: event ids in the log and at destinations, missing or doubled.

account = compare(acknowledged, await logged(node))
assert (account.missing, account.doubled) == ([], [])
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from adjourn.events import decode_identity
from adjourn.node import Node

READ_EVENTS = 5_000


class Account(msgspec.Struct, frozen=True):
    """`missing`: acknowledged, and not there. `doubled`: there more than once. `found` counts what is there."""

    acknowledged: int
    found: int
    missing: list[str]
    doubled: list[str]

    @property
    def exact(self) -> bool:
        """Each acknowledged event is there, and none is there twice. Others may be: an answer can get lost."""
        return not self.missing and not self.doubled


def compare(acknowledged: Iterable[str], found: Iterable[str]) -> Account:
    promised, there = set(acknowledged), Counter(found)
    return Account(
        acknowledged=len(promised),
        found=there.total(),
        missing=sorted(promised - there.keys()),
        doubled=sorted(each for each, count in there.items() if count > 1),
    )


async def logged(node: Node) -> list[str]:
    """The session ids of all events that can be read from the log, in the order of partitions and offsets."""
    return [decode_identity(body).session.session_id for body in await bodies(node)]


async def bodies(node: Node) -> list[bytes]:
    """All events that can be read from the log."""
    found: list[bytes] = []
    for partition, head in enumerate(await node.log.heads()):
        offset = 0
        while offset < head:
            part = await node.log.read(partition, offset, count=READ_EVENTS)
            if part.next_offset == offset:
                break
            found.extend(event.body for event in part.events)
            offset = part.next_offset
    return found


def stored(connection_string: str, column: str = "session_id", table: str = "session_completions") -> list[str]:
    """One column of every row at a database destination."""
    query = f'SELECT "{column}" FROM "{table}"'
    if connection_string.startswith("sqlite:///"):
        with closing(sqlite3.connect(connection_string.removeprefix("sqlite:///"))) as connection:
            return [str(row[0]) for row in connection.execute(query)]
    import psycopg

    with psycopg.connect(connection_string) as connection:
        rows: Sequence[tuple[Any, ...]] = connection.execute(query.encode()).fetchall()
        return [str(row[0]) for row in rows]


def written(path: Path) -> list[str]:
    """The session ids in a log file and in those that it was rotated to; an uncompressed JSON object a line."""
    files = sorted(path.parent.glob(f"{path.name}*"))
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    return [decode_identity(line).session.session_id for line in lines]
