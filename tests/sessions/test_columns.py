"""Sessions and their rows are the same thing, on both databases."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from tests.databases.rigs import DatabaseRig, opened

from adjourn.database import Tx
from adjourn.runner import Agent, RunnerConfig
from adjourn.schema_sessions import sessions
from adjourn.sessions.columns import COLUMNS, MARKS, NAMES, session_of, values_of
from adjourn.sessions.session import Described, Limits, Price, Session, Spent

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])

FULL = Session(
    tenant="t",
    id="sess_1",
    status="idle",
    pattern="hybrid",
    role="director",
    kind="chat",
    interface="web",
    user_id="ü",
    name="n",
    runner="echo",
    model="m",
    parent_id="sess_0",
    root_id="sess_r",
    resumed_from="sess_9",
    revision=2,
    epoch=3,
    node="node_1",
    turn_id="turn_1",
    stopping="",
    created_ms=4,
    active_ms=5,
    ended_ms=6,
    due_ms=7,
    outcome="success",
    error_code="e",
    event_id="evt_1",
    amendment_id="evt_2",
    messages=8,
    events=9,
    queued=10,
    spent=Spent(**{name: 100 + number for number, name in enumerate(Spent.__struct_fields__)}),
    described=Described(
        description="d",
        workspace="/w",
        tags=["a", "b"],
        resources={"memory_mb": 5},
        metadata={"deep": [1, {"ü": None}]},
        config=RunnerConfig(model="m", agents=[Agent(name="one")], options={"o": 1.5}),
        limits=Limits(max_budget_usd=Decimal("0.1"), max_turns=3),
        price=Price(input_usd_per_mtok=Decimal("1.25"), output_usd_per_mtok=Decimal(10)),
        on_disconnect="stop",
        by_agent={"one": Spent(turns=1)},
    ),
    state=b'{"step":1}',
)
BARE = msgspec.structs.replace(
    FULL,
    id="sess_2",
    parent_id=None,
    resumed_from=None,
    node=None,
    turn_id=None,
    ended_ms=None,
    due_ms=None,
    outcome="",
    amendment_id=None,
    spent=Spent(),
    described=Described(),
    state=b"{}",
)


def test_the_columns_are_those_of_the_table() -> None:
    """In its order; besides them it has those alone that say how far a session is counted in the totals."""
    assert tuple(str(column.name) for column in sessions.columns) == (*NAMES, "counted", "counted_as")


def _put(tx: Tx, session: Session) -> None:
    tx.run(f"INSERT INTO sessions ({COLUMNS}) VALUES ({MARKS})", values_of(session))


@KINDS
def test_a_session_comes_back_as_it_was_written(tmp_path: Path, kind: str) -> None:
    """With every field, or with those alone that must be there."""

    async def work() -> None:
        async with opened(DatabaseRig(kind, tmp_path).connect()) as database:
            for session in (FULL, BARE):
                await database.write(_put, session)
            rows = await database.read(lambda reader: reader.rows(f"SELECT {COLUMNS} FROM sessions ORDER BY id"))
            assert [session_of(row) for row in rows] == [FULL, BARE]

    asyncio.run(work())


def test_a_damaged_row_is_refused() -> None:
    """Rather than passed on as a session in a status that does not exist."""
    row = list(values_of(FULL))
    row[NAMES.index("status")] = "asleep"
    with pytest.raises(msgspec.ValidationError):
        session_of(tuple(row))
