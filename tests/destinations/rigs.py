"""Both databases as rigs of the conformance suite, and small events for the tests of this folder."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from adjourn.destination import Batch
from adjourn.destinations.database import DatabaseDestination
from adjourn.events import Completion, StoredEvent, decode_completion
from adjourn.testing.exercise_destination import Arrived, Sample

TABLE = "session_completions"
QUERY = f"""SELECT tenant, session_id, event_id, event_type, user_id, payload, cost_nanousd, cost_usd
            FROM {TABLE} ORDER BY partition, "offset" """


class DatabaseRig:
    """Over a new PostgreSQL database or SQLite file; `poison` costs more than 64 bits can say."""

    repeats = False
    poison: StoredEvent | None = Sample(7, event_id="evt_poison", cost_nanousd=2**63).stored()

    def __init__(self, url: str) -> None:
        self.url = url
        self.destination = DatabaseDestination(name="main", connection_string=url, table=TABLE)

    async def arrived(self) -> Sequence[Arrived]:
        return [arrived(row) for row in query(self.url, QUERY)]

    async def close(self) -> None: ...


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    if url.startswith("postgresql"):
        with psycopg.connect(url) as connection:
            return connection.execute(sql.replace("payload", "payload::text").encode()).fetchall()
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return connection.execute(sql).fetchall()


def execute(url: str, sql: str) -> None:
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.encode())
        return
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.executescript(sql)


def arrived(row: tuple[Any, ...]) -> Arrived:
    *ids, payload, nano, usd = row
    if usd is not None:
        text = usd if isinstance(usd, str) else f"{usd:f}"
        sign = -1 if text.startswith("-") else 1
        whole, places = text.lstrip("-").split(".")
        assert sign * (int(whole) * 10**9 + int(places)) == nano
        assert len(places) == 9
    return Arrived(*ids, message_of(decode_completion(payload)), nano)


def message_of(completion: Completion) -> str | None:
    return completion.outcome.final_message if completion.outcome else None


def batch(*samples: Sample) -> Batch:
    return Batch(id="batch", events=[sample.stored() for sample in samples])


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/out.db"
