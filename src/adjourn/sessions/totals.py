"""The totals of hosted sessions in their table.

No turn waits for them: whoever changes a session leaves its row as one that is not counted as it is now (`counted` is
behind `events + revision`, which move with every change), and the sweep counts such rows a moment later, a few hundred
in one transaction. Until then they are few, and a reader adds them up itself (`stats.stats`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from adjourn.database import Reader, Row, Tx, Value
from adjourn.sessions import histogram
from adjourn.sessions.session import Session, Spent
from adjourn.sessions.tally import (
    MEASURES,
    OTHER,
    Counted,
    Dimension,
    Tally,
    Total,
    add_difference,
    merge,
    placed,
)
from adjourn.typed import decoder

ROWS_PER_STATEMENT = 200

_SPENT = Spent.__struct_fields__
_UNCOUNTED = "counted < events + revision"
_LOOKED_AT = (
    f"id, pattern, status, user_id, model, created_ms, ended_ms, events + revision, counted_as, described, "
    f"{', '.join(_SPENT)}"
)
_SPENT_AT = 10
_TOTAL = f"dimension, value, {', '.join(MEASURES)}, durations"
_COLUMNS = f"tenant, {_TOTAL}"
_MARKS = ", ".join("?" * (len(MEASURES) + 4))

_encode = msgspec.json.Encoder().encode


class _Tagged(msgspec.Struct):
    """Of `described`, what counts."""

    tags: tuple[str, ...] = ()


class Uncounted(msgspec.Struct, frozen=True):
    """A session that is not counted as it is now. `at`: what its row stood at when it was looked at."""

    id: str
    at: int
    before: Counted | None
    now: Counted


class Waiting(msgspec.Struct, frozen=True):
    """Which session is to be counted, and the root of its tree, by which its lane is chosen."""

    tenant: str
    id: str
    root_id: str


def add_to_totals(tx: Tx, session: Session) -> None:
    """Keep what an ended session counts for beyond its deletion; before its row is deleted, in the same transaction.
    Nothing that sessions share is locked: what is not in the totals yet is left where `count` finds it."""
    lock = " FOR UPDATE" if tx.dialect == "postgresql" else ""
    rows = tx.rows(f"SELECT {_LOOKED_AT} FROM sessions WHERE tenant = ? AND id = ?{lock}", session.key)
    for one in map(_uncounted, rows):  # none where somebody else has deleted it, and kept this
        if one.before != one.now:
            tx.run(
                "INSERT INTO session_leftovers (tenant, session_id, body) VALUES (?, ?, ?)",
                (*session.key, _encode((one.before, one.now))),
            )


def uncounted(reader: Reader, tenant: str, ids: Sequence[str] | None = None, *, lock: bool = False) -> list[Uncounted]:
    """Of one tenant; all, or those of `ids`. `lock`: those that no other transaction is changing just now."""
    where, params = "tenant = ?", list[Value]([tenant])
    if ids is not None:
        where += f" AND id IN ({', '.join('?' * len(ids))})"
        params += ids
    source = "sessions"
    if reader.dialect == "sqlite" and ids is None:
        source += " INDEXED BY sessions_uncounted"
    tail = " FOR UPDATE SKIP LOCKED" if lock and reader.dialect == "postgresql" else ""
    rows = reader.rows(f"SELECT {_LOOKED_AT} FROM {source} WHERE {where} AND {_UNCOUNTED}{tail}", params)
    return [_uncounted(row) for row in rows]


def waiting(reader: Reader, active_before_ms: int, limit: int) -> list[Waiting]:
    """Some of those that have been quiet since, and are to be counted."""
    source = "sessions INDEXED BY sessions_uncounted" if reader.dialect == "sqlite" else "sessions"
    rows = reader.rows(
        f"SELECT tenant, id, root_id FROM {source} WHERE {_UNCOUNTED} AND active_ms < ? LIMIT {limit}",
        (active_before_ms,),
    )
    return [Waiting(str(row[0]), str(row[1]), str(row[2])) for row in rows]


def count(tx: Tx, tenant: str, ids: Sequence[str]) -> int:
    """Bring the totals of a tenant up to date with these sessions, and with some that were deleted; how many that was.
    Whatever runs at the same time, each difference is added once: the rows are locked, and not waited for."""
    tally: Tally = {}
    found = uncounted(tx, tenant, ids, lock=True) if ids else []
    for one in found:
        add_difference(tally, one.before, one.now)
    _note_counted(tx, tenant, found)
    deleted = _take_leftovers(tx, tenant)
    for before, now in deleted:
        add_difference(tally, before, now)
    if tally:
        _add(tx, tenant, tally)
    return len(found) + len(deleted)


def leftover_tenants(reader: Reader) -> list[str]:
    """Whose deleted sessions are not all counted."""
    rows = reader.rows("SELECT DISTINCT tenant FROM session_leftovers")
    return [str(row[0]) for row in rows]


def leftovers(reader: Reader, tenant: str, limit: int | None = None) -> list[tuple[str, Counted | None, Counted]]:
    """(session, what it was counted as, what it counts as) of those that were deleted."""
    tail = "" if limit is None else f" ORDER BY session_id LIMIT {limit}"
    if limit is not None and reader.dialect == "postgresql":
        tail += " FOR UPDATE SKIP LOCKED"
    rows = reader.rows(f"SELECT session_id, body FROM session_leftovers WHERE tenant = ?{tail}", (tenant,))
    pairs = decoder(tuple[Counted | None, Counted])
    return [(str(row[0]), *pairs.decode(cast(bytes, row[1]))) for row in rows]


def totals(reader: Reader, tenant: str) -> Tally:
    """As far as they are counted."""
    rows = reader.rows(f"SELECT {_TOTAL} FROM session_totals WHERE tenant = ?", (tenant,))
    return {_key(row): _total(row[2:]) for row in rows}


# --- rows ------------------------------------------------------------------------------------------------------------


def _uncounted(row: Row) -> Uncounted:
    (session_id, pattern, status, user, model, created_ms, ended_ms, at, counted_as, described) = row[:_SPENT_AT]
    duration_ms = -1 if ended_ms is None else max(0, int(ended_ms) - int(created_ms or 0))
    tags = tuple(sorted(set(decoder(_Tagged).decode(cast(bytes, described)).tags)))
    spent = cast("tuple[int, ...]", tuple(row[_SPENT_AT:]))
    now = Counted(str(pattern), str(status), str(user), str(model), tags, duration_ms, spent)
    return Uncounted(str(session_id), int(at or 0), _counted(counted_as), now)


def _counted(value: Value) -> Counted | None:
    return None if value is None else decoder(Counted).decode(cast(bytes, value))


def _note_counted(tx: Tx, tenant: str, found: Sequence[Uncounted]) -> None:
    blob = "BLOB" if tx.dialect == "sqlite" else "BYTEA"
    for start in range(0, len(found), ROWS_PER_STATEMENT):
        part = found[start : start + ROWS_PER_STATEMENT]
        one = f"(CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS {blob}))"
        params: list[Value] = []
        for each in part:
            params += (each.id, each.at, _encode(each.now))
        tx.run(
            f"WITH new (id, at, counted_as) AS (VALUES {', '.join([one] * len(part))}) "
            "UPDATE sessions SET counted = new.at, counted_as = new.counted_as FROM new "
            "WHERE sessions.tenant = ? AND sessions.id = new.id",
            (*params, tenant),
        )


def _take_leftovers(tx: Tx, tenant: str) -> list[tuple[Counted | None, Counted]]:
    found = leftovers(tx, tenant, ROWS_PER_STATEMENT)
    if found:
        marks = ", ".join("?" * len(found))
        tx.run(
            f"DELETE FROM session_leftovers WHERE tenant = ? AND session_id IN ({marks})",
            (tenant, *(session_id for session_id, _, _ in found)),
        )
    return [(before, now) for _, before, now in found]


def _add(tx: Tx, tenant: str, tally: Tally) -> None:
    # Whoever adds to a tenant's totals first locks the row of all, so that what is read of the others stays so.
    tx.run(
        f"INSERT INTO session_totals ({_COLUMNS}) VALUES ({_MARKS}) ON CONFLICT (tenant, dimension, value) "
        "DO UPDATE SET sessions = session_totals.sessions",
        (tenant, "all", "", *[0] * len(MEASURES), histogram.pack({})),
    )
    counts = _counts(tx, tenant)
    known = _existing(tx, tenant, list(tally))
    others: set[tuple[Dimension, str]] = {(name, OTHER) for name, _ in tally}
    before = known | _existing(tx, tenant, sorted(others))
    adding = placed(tally, known, counts)
    merge(adding, {key: before[key] for key in adding if key in before})
    updates = ", ".join(f"{name} = excluded.{name}" for name in (*MEASURES, "durations"))
    keys = sorted(adding)
    for start in range(0, len(keys), ROWS_PER_STATEMENT):
        part = keys[start : start + ROWS_PER_STATEMENT]
        params: list[Value] = []
        for key in part:
            params += (tenant, *key, *adding[key].numbers, histogram.pack(adding[key].durations))
        tx.run(
            f"INSERT INTO session_totals ({_COLUMNS}) VALUES {', '.join([f'({_MARKS})'] * len(part))} "
            f"ON CONFLICT (tenant, dimension, value) DO UPDATE SET {updates}",
            params,
        )


def _counts(reader: Reader, tenant: str) -> dict[Dimension, int]:
    rows = reader.rows(
        "SELECT dimension, count(*) FROM session_totals WHERE tenant = ? AND value <> ? GROUP BY dimension",
        (tenant, OTHER),
    )
    return {cast(Dimension, row[0]): int(row[1] or 0) for row in rows}


def _existing(reader: Reader, tenant: str, keys: Sequence[tuple[Dimension, str]]) -> Tally:
    found: Tally = {}
    for start in range(0, len(keys), ROWS_PER_STATEMENT):
        part = keys[start : start + ROWS_PER_STATEMENT]
        marks = ", ".join(["(?, ?)"] * len(part))
        rows = reader.rows(
            f"SELECT {_TOTAL} FROM session_totals WHERE tenant = ? AND (dimension, value) IN (VALUES {marks})",
            (tenant, *(text for key in part for text in key)),
        )
        found |= {_key(row): _total(row[2:]) for row in rows}
    return found


def _key(row: Row) -> tuple[Dimension, str]:
    return cast(Dimension, row[0]), str(row[1])


def _total(values: Row) -> Total:
    return Total(cast("list[int]", list(values[:-1])), histogram.unpack(cast(bytes, values[-1])))
