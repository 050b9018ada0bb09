"""Databases with something of everything in them, for the tests of checks, backups and migrations."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from tests.postgres import fresh_database

from adjourn.clock import SystemClock
from adjourn.completion.dedupe import judge
from adjourn.database import Finding, Tx
from adjourn.databases.check import check, reading
from adjourn.databases.choose import database_for, sqlite_path
from adjourn.databases.laned import LanedDatabase
from adjourn.databases.transfer import PostgresReader
from adjourn.events import Record
from adjourn.logs.append import SqlAppender
from adjourn.logs.check import check_log
from adjourn.logs.sql import add_counts, register
from adjourn.schema import metadata

KEPT = sorted({"alembic_version", *metadata.tables} - {"lanes", "leases"})
"""The tables that a backup carries."""


def new_url(kind: str, directory: Path, name: str = "a") -> str:
    return f"sqlite:///{directory}/{name}.db" if kind == "sqlite" else fresh_database()


def record(number: int) -> Record:
    noise = hashlib.sha512(b"%d" % number).hexdigest()
    body = f'{{"event_id":"evt_{number}","session":{{"session_id":"s{number}"}},"noise":"{noise}"}}'.encode()
    digest = hashlib.sha256(body).digest()
    return Record(
        tenant="acme",
        session_id=f"s{number}",
        event_id=f"evt_{number}",
        body=body,
        id_hash=digest[:8],
        content_hash=digest[8:16],
        received_ms=1_700_000_000_000 + number,
        cost_nanousd=number * 3 if number % 2 else None,
        price_ref="sent" if number % 2 else "",
        sequence=number,
    )


def append(tx: Tx, numbers: Sequence[int]) -> None:
    tx.append([record(number) for number in numbers], producer="" if numbers[0] % 3 else f"spool-{numbers[0]}")


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[LanedDatabase, None]:
    appender = SqlAppender(
        judge=judge,
        keep=lambda tx, conflicts: None,
        window_s=300,
        window_memory_bytes=1_000_000,
        clock=SystemClock(),
        on_commit=lambda partition, first, records: None,
    )
    database = database_for(url)
    await database.open(appender)
    try:
        yield database
    finally:
        await database.close()


async def fill(url: str, events: int, *, per_block: int = 50) -> None:
    """Events in blocks of `per_block`, a consumer that has dealt with a few of them, and a row in every other table."""
    async with opened(url) as database:
        for start in range(1, events + 1, per_block):
            numbers = range(start, min(start + per_block, events + 1))
            await database.write(append, numbers, key=str(start), weight=len(numbers))
        for partition in range(database.partitions):
            await database.write(_furnish, partition)


def _furnish(tx: Tx, partition: int) -> None:
    register(tx, "logfile", partition, drop_after_ms=60_000)
    register(tx, "warehouse", partition, drop_after_ms=None)
    done = min(10, int(tx.rows("SELECT next_offset FROM log_heads WHERE partition = ?", (partition,))[0][0] or 0))
    tx.run("UPDATE cursors SET next_offset = ? WHERE partition = ? AND consumer = 'logfile'", (done, partition))
    add_counts(tx, "logfile", partition, {"delivered": done})
    tx.run("INSERT INTO accounts (name, balance) VALUES (?, ?)", (f"acme/{partition}", -(2**40)))
    tx.run(
        "INSERT INTO quarantine (id, tenant, received_ms, code, path, message, source, state, body) "
        "VALUES (?, 'acme', 1, 'event_invalid', '$.usage', 'Ünicode ✓', 'http', 'held', ?)",
        (f"qrn_{partition}", bytes(range(256))),
    )
    tx.run(
        "INSERT INTO held_events (destination, partition, event_offset, state, tenant, session_id, event_id, "
        "received_ms, price_ref, code, reason, attempts, held_ms, next_ms, body) "
        "VALUES ('hook', ?, 3, 'dead', 'acme', 'sess_1', 'evt_1', 2, '', 'refused', 'no', 4, 5, 0, ?)",
        (partition, b""),
    )
    tx.run(
        "INSERT INTO keys (id, tenant, name, role, digest, created_ms, revoked_ms) "
        "VALUES (?, 'acme', 'k', 'writer', ?, 1, ?)",
        (f"key_{partition}", b"digest%d" % partition, 7 if partition else None),
    )
    tx.run("INSERT INTO leases (name, owner, epoch, beat) VALUES (?, 'someone', 3, 9)", (f"role-{partition}",))


def contents(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table that a backup carries."""
    path = sqlite_path(url)
    if path is not None:
        with closing(sqlite3.connect(path)) as connection:
            return {table: sorted(connection.execute(_all(table)), key=repr) for table in KEPT}
    with closing(PostgresReader(url)) as reader:
        return {table: sorted(reader.rows(_all(table)), key=repr) for table in KEPT}


def _all(table: str) -> str:
    columns = ", ".join(f'"{c.name}"' for c in metadata.tables[table].columns) if table in metadata.tables else "*"
    return f'SELECT {columns} FROM "{table}"'


def run(url: str, sql: str, parameters: Sequence[object] = ()) -> None:
    """Tamper with a database."""
    path = sqlite_path(url)
    if path is not None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(sql, parameters)
        return
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute(sql.replace("?", "%s").encode(), parameters)


def findings(url: str) -> list[Finding]:
    """Everything that `adjourn db check` would say."""
    found = check(url)
    with reading(url) as reader:
        return [*found, *check_log(reader)]
