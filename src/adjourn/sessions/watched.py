"""Watched sessions in their table. Every change of state is conditional on the state before, so that of two that race
one happens; nothing here raises for what it finds, because an error would run its whole batch again."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adjourn.database import Reader, Row, Tx, Value
from adjourn.sessions.watch import Key, Sighting, State, Watched, before
from adjourn.typed import convert

BEATS_PER_STATEMENT = 500
FORGET_PER_WRITE = 1000

_COLUMNS = (
    "tenant, session_id, attempt, state, token, lease_ms, beat, begun, usage, event_id, began_ms, heard_ms, "
    "ended_ms, content, amendment_id"
)
_ALL = f"SELECT {_COLUMNS} FROM watched_sessions"
_THIS = "tenant = ? AND session_id = ? AND attempt = ?"
_NAMES = _COLUMNS.split(", ")


class Beat(msgspec.Struct):
    """A sign of life to be written; `usage` is empty where it brings none."""

    key: Key
    usage: bytes = b""


def begin(tx: Tx, new: Watched, room: bool) -> tuple[Watched | None, bool]:
    """(the run that stands, whether it was begun now). That may be another one: a later run, one that is still open, or
    the same one, begun before; that counts as a sign of life. None stands where none did and there is no room."""
    rows = tx.rows(
        f"{_ALL} WHERE tenant = ? AND session_id = ? ORDER BY attempt DESC LIMIT 1", (new.tenant, new.session_id)
    )
    if rows and (rows[0][2] == new.attempt or rows[0][3] == "open" or int(rows[0][2] or 0) > new.attempt):
        standing = _watched(rows[0])
        if standing.state == "open" and standing.token == new.token and standing.attempt == new.attempt:
            beat(tx, [Beat(new.key)], new.began_ms)
        return standing, False
    if not room:
        return None, False
    marks = ", ".join("?" * len(_NAMES))
    added = tx.run(
        f"INSERT INTO watched_sessions ({_COLUMNS}) VALUES ({marks}) ON CONFLICT (tenant, session_id, attempt) "
        "DO NOTHING",
        tuple(getattr(new, name) for name in _NAMES),
    )
    if added:
        return new, True
    # Another node was first, since this transaction looked.
    return _watched(tx.rows(f"{_ALL} WHERE {_THIS}", new.key)[0]), False


def beat(tx: Tx, beats: Sequence[Beat], now_ms: int) -> dict[Key, int]:
    """Note signs of life; the leases of those that are open, in milliseconds. One statement for many."""
    kept: dict[Key, int] = {}
    blob = "BLOB" if tx.dialect == "sqlite" else "BYTEA"
    ordered = sorted(beats, key=lambda each: each.key)  # two nodes that lock the same rows must not do it crosswise
    for start in range(0, len(ordered), BEATS_PER_STATEMENT):
        part = ordered[start : start + BEATS_PER_STATEMENT]
        one = f"(CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS {blob}))"
        params: list[Value] = []
        for each in part:
            params.extend((*each.key, each.usage))
        rows = tx.rows(
            f"WITH new (tenant, session_id, attempt, usage) AS (VALUES {', '.join([one] * len(part))}) "
            "UPDATE watched_sessions SET beat = beat + 1, heard_ms = ?, "
            "usage = CASE WHEN length(new.usage) > 0 THEN new.usage ELSE watched_sessions.usage END FROM new "
            "WHERE watched_sessions.tenant = new.tenant AND watched_sessions.session_id = new.session_id "
            "AND watched_sessions.attempt = new.attempt AND watched_sessions.ended_ms IS NULL "
            "RETURNING watched_sessions.tenant, watched_sessions.session_id, watched_sessions.attempt, lease_ms",
            (*params, now_ms),
        )
        kept.update((_key(row), int(row[3] or 0)) for row in rows)
    return kept


def end(
    tx: Tx, key: Key, to: State, *, now_ms: int, content: bytes = b"", amendment_id: str | None = None, beat: int = -1
) -> bool:
    """Move a run to `to`, if its state is one that leads there and, where `beat` is given, nothing was heard since."""
    earlier = before(to)
    conditions = f"{_THIS} AND state IN ({', '.join('?' * len(earlier))})"
    params: list[Value] = [*key, *earlier]
    if beat >= 0:
        conditions += " AND beat = ?"
        params.append(beat)
    # Its beginning is needed as long as a late completion may come; after that, it is in the log.
    keeps = "" if to == "abandoned" else ", begun = ?, usage = ?"
    done: list[Value] = [] if to == "abandoned" else [b"", b""]
    changed = tx.run(
        "UPDATE watched_sessions SET state = ?, ended_ms = coalesce(ended_ms, ?), content = ?, "
        f"amendment_id = ?{keeps} WHERE {conditions}",
        (to, now_ms, content, amendment_id, *done, *params),
    )
    return changed > 0


def find(reader: Reader, key: Key) -> Watched | None:
    rows = reader.rows(f"{_ALL} WHERE {_THIS}", key)
    return _watched(rows[0]) if rows else None


def find_open(reader: Reader, keys: Sequence[Key]) -> list[Watched]:
    """Those of them that are open still."""
    found = (find(reader, key) for key in keys)
    return [watched for watched in found if watched is not None and watched.state == "open"]


def latest(reader: Reader, tenant: str, session_id: str) -> Watched | None:
    """The newest run of a session."""
    rows = reader.rows(
        f"{_ALL} WHERE tenant = ? AND session_id = ? ORDER BY attempt DESC LIMIT 1", (tenant, session_id)
    )
    return _watched(rows[0]) if rows else None


def select(reader: Reader, tenant: str, *, state: State | None, after: Key | None, limit: int) -> list[Watched]:
    """In the order of their ids."""
    conditions, params = ["tenant = ?"], list[Value]([tenant])
    if state == "open":
        conditions.append("ended_ms IS NULL")
    elif state is not None:
        conditions.append("state = ?")
        params.append(state)
    if after is not None:
        conditions.append("(session_id, attempt) > (?, ?)")
        params += [after.session_id, after.attempt]
    rows = reader.rows(
        f"{_ALL} WHERE {' AND '.join(conditions)} ORDER BY session_id, attempt LIMIT ?", (*params, limit)
    )
    return [_watched(row) for row in rows]


def open_sightings(reader: Reader) -> list[Sighting]:
    """All that is open, of all tenants."""
    rows = reader.rows(
        "SELECT tenant, session_id, attempt, beat, lease_ms FROM watched_sessions WHERE ended_ms IS NULL"
    )
    return [Sighting(_key(row), int(row[3] or 0), int(row[4] or 0)) for row in rows]


def any_open(reader: Reader) -> bool:
    return bool(reader.rows("SELECT 1 FROM watched_sessions WHERE ended_ms IS NULL LIMIT 1"))


def any_ended(reader: Reader, before_ms: int) -> bool:
    return bool(reader.rows("SELECT 1 FROM watched_sessions WHERE ended_ms < ? LIMIT 1", (before_ms,)))


def count_open(reader: Reader) -> dict[str, int]:
    """By tenant."""
    rows = reader.rows("SELECT tenant, count(*) FROM watched_sessions WHERE ended_ms IS NULL GROUP BY tenant")
    return {str(row[0]): int(row[1] or 0) for row in rows}


def forget(tx: Tx, ended_before_ms: int) -> None:
    """Delete some of those that ended before."""
    gone = tx.rows(
        "SELECT tenant, session_id, attempt FROM watched_sessions WHERE ended_ms < ? ORDER BY ended_ms LIMIT ?",
        (ended_before_ms, FORGET_PER_WRITE),
    )
    for row in sorted(map(_key, gone)):
        tx.run(f"DELETE FROM watched_sessions WHERE {_THIS}", row)


def _key(row: Row) -> Key:
    return Key(str(row[0]), str(row[1]), int(row[2] or 0))


def _watched(row: Row) -> Watched:
    return convert(dict(zip(_NAMES, row, strict=True)), Watched)
