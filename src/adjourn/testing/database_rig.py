"""What the checks of the database suite share: the rig that a backend gives, an appender, and small functions."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from adjourn.database import Appended, Database, Reader, Tx, Value
from adjourn.events import Record


class Rig(Protocol):
    def connect(self, *, queue_events_max: int = 50_000) -> Database:
        """A new database object over the rig's place, not yet opened; the suite opens and closes it."""
        ...

    async def close(self) -> None: ...


class Failed(Exception):
    """What the suite's own functions raise."""


class Recorder:
    """An appender that writes the events' ids into a table, and counts what it was told."""

    def __init__(self) -> None:
        self.committed_count = 0

    def append(self, tx: Tx, partition: int, pending: Sequence[Appended]) -> None:
        for appended in pending:
            for record in appended.records:
                tx.run("INSERT INTO exercise (id, n) VALUES (?, 1)", (f"event:{record.event_id}",))

    def committed(self, partition: int) -> None:
        self.committed_count += 1

    def discarded(self, partition: int) -> None: ...


def event(event_id: str) -> Record:
    return Record("org", "sess", event_id, b"{}", event_id.encode().ljust(8, b"."), b"content.", 1)


def put(tx: Tx, name: str, n: int = 1) -> str:
    tx.run("INSERT INTO exercise (id, n) VALUES (?, ?)", (name, n))
    return name


def add(tx: Tx, name: str, n: int) -> None:
    tx.run("UPDATE exercise SET n = n + ? WHERE id = ?", (n, name))


def ids(reader: Reader) -> list[Value]:
    return [row[0] for row in reader.rows("SELECT id FROM exercise ORDER BY id")]


def value(reader: Reader, name: str) -> Value:
    return reader.rows("SELECT n FROM exercise WHERE id = ?", (name,))[0][0]


def open_account(tx: Tx, name: str, balance: int) -> None:
    tx.run("INSERT INTO accounts (name, balance) VALUES (?, ?)", (name, balance))


def take(tx: Tx, account: str, amount: int) -> None:
    tx.debit(account, amount)


def balance(reader: Reader, name: str) -> Value:
    return reader.rows("SELECT balance FROM accounts WHERE name = ?", (name,))[0][0]


async def outcomes(*writes: Coroutine[Any, Any, Any]) -> list[Any]:
    """What each returned or raised. They are handed over in one turn of the loop, so that batches hold several."""
    return await asyncio.gather(*writes, return_exceptions=True)


async def raises(error: type[BaseException], work: Coroutine[Any, Any, Any]) -> BaseException:
    try:
        result = await work
    except error as found:
        return found
    raise AssertionError(f"expected {error.__name__}, got {result!r}")
