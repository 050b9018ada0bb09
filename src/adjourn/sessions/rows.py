"""Hosted sessions in their table. Whoever changes one loads it, works on a `Change`, and writes that with its events in
the same transaction; PostgreSQL locks the row meanwhile, so that two nodes do so one after the other.

Nothing here raises for what it finds, because an error would run its whole batch again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol, cast

import msgspec
import zstandard

from adjourn.database import Reader, Tx
from adjourn.events import Record
from adjourn.sessions import money
from adjourn.sessions.change import Change
from adjourn.sessions.columns import COLUMNS, MARKS, NAMES, session_of, values_of
from adjourn.sessions.completions import bare_event, completion_event
from adjourn.sessions.session import Described, Session, SessionKey
from adjourn.sessions.turn import SessionEvent
from adjourn.sessions.watch import Problem
from adjourn.typed import decoder

COMPRESSED_FROM_BYTES = 1024
ANCESTORS_MAX = 32

_FIXED = (
    *("tenant", "id", "pattern", "role", "kind", "interface", "user_id", "runner", "model"),
    *("parent_id", "root_id", "resumed_from", "idempotency", "created_ms", "event_id"),
)
_MOVING = tuple(name for name in NAMES if name not in _FIXED)
_PLACES = tuple(NAMES.index(name) for name in _MOVING)
_SAVE = f"UPDATE sessions SET {', '.join(f'{name} = ?' for name in _MOVING)} WHERE tenant = ? AND id = ?"
_INSERT = f"INSERT INTO sessions ({COLUMNS}) VALUES ({MARKS}) ON CONFLICT DO NOTHING"
_ONE = f"SELECT {COLUMNS} FROM sessions WHERE tenant = ? AND id = ?"

_encode = msgspec.json.Encoder().encode


class Compose(Protocol):
    """Makes records of what sessions tell; handed in by the node."""

    def status(
        self, tenant: str, session_id: str, *, from_status: str, to_status: str, reason: str, revision: int, at_ms: int
    ) -> Record: ...

    def event(self, tenant: str, raw: bytes) -> Record | Problem:
        """A completion or an amendment, validated and priced like any other."""
        ...


def find(reader: Reader, key: SessionKey) -> Session | None:
    rows = reader.rows(_ONE, key)
    return session_of(rows[0]) if rows else None


def by_idempotency(reader: Reader, tenant: str, idempotency: bytes) -> Session | None:
    rows = reader.rows(f"SELECT {COLUMNS} FROM sessions WHERE tenant = ? AND idempotency = ?", (tenant, idempotency))
    return session_of(rows[0]) if rows else None


def load(tx: Tx, key: SessionKey) -> Session | None:
    """To be changed."""
    rows = tx.rows(_ONE if tx.dialect == "sqlite" else f"{_ONE} FOR UPDATE", key)
    return session_of(rows[0]) if rows else None


def insert(tx: Tx, change: Change, compose: Compose) -> bool:
    """A new session with all that this change tells; whether it was not there before."""
    session = change.session
    if not tx.run(_INSERT, values_of(session)):
        return False
    put_tags(tx, session)
    _tell(tx, change, compose)
    return True


def save(tx: Tx, change: Change, compose: Compose) -> Session:
    """Write a change; the session as it is now."""
    values = values_of(change.session)
    tx.run(_SAVE, (*[values[place] for place in _PLACES], *change.session.key))
    _tell(tx, change, compose)
    return change.session


def put_tags(tx: Tx, session: Session, before: Sequence[str] = ()) -> None:
    tags = set(session.described.tags)
    for tag in sorted(set(before) - tags):
        tx.run(
            "DELETE FROM session_tags WHERE tenant = ? AND tag = ? AND session_id = ?",
            (session.tenant, tag, session.id),
        )
    for tag in sorted(tags - set(before)):
        tx.run("INSERT INTO session_tags (tenant, tag, session_id) VALUES (?, ?, ?)", (session.tenant, tag, session.id))


def ancestors(reader: Reader, tenant: str, parent_id: str | None) -> list[str]:
    """Ids, the parent first. A tree that is deeper than it may be is cut: none can be made."""
    found: list[str] = []
    while parent_id is not None and len(found) < ANCESTORS_MAX:
        found.append(parent_id)
        rows = reader.rows("SELECT parent_id FROM sessions WHERE tenant = ? AND id = ?", (tenant, parent_id))
        parent_id = cast("str | None", rows[0][0]) if rows else None
    return found


def living_under(reader: Reader, key: SessionKey) -> str | None:
    """One that lives and spends from this session's budget, as a child or deeper."""
    rows = reader.rows(f"{_UNDER} SELECT s.id {_OF_UNDER} WHERE s.ended_ms IS NULL LIMIT 1", _under(key))
    return str(rows[0][0]) if rows else None


def running_in(reader: Reader, key: SessionKey) -> str | None:
    """This session, or one under it, if a turn runs there."""
    sql = f"{_UNDER} SELECT s.id {_OF_UNDER} WHERE s.turn_id IS NOT NULL UNION ALL {_RUNS} LIMIT 1"
    rows = reader.rows(sql, (*_under(key), *key))
    return str(rows[0][0]) if rows else None


def spent_under(reader: Reader, key: SessionKey) -> int:
    """What all under it have spent, in nano-USD."""
    rows = reader.rows(f"{_UNDER} SELECT CAST(sum(s.cost_nanousd) AS BIGINT) {_OF_UNDER}", _under(key))
    return int(rows[0][0] or 0)


_UNDER = (
    "WITH RECURSIVE under (id) AS (SELECT id FROM sessions WHERE tenant = ? AND parent_id = ? UNION ALL "
    "SELECT s.id FROM under u JOIN sessions s ON s.tenant = ? AND s.parent_id = u.id)"
)
_OF_UNDER = "FROM under u JOIN sessions s ON s.tenant = ? AND s.id = u.id"
_RUNS = "SELECT id FROM sessions WHERE tenant = ? AND id = ? AND turn_id IS NOT NULL"


def _under(key: SessionKey) -> tuple[str, ...]:
    return key.tenant, key.session_id, key.tenant, key.tenant


# --- session events --------------------------------------------------------------------------------------------------


def keep_events(tx: Tx, key: SessionKey, events: Sequence[SessionEvent]) -> None:
    """Events whose `seq` follow each other."""
    if not events:
        return
    body = _encode(events)
    if len(body) >= COMPRESSED_FROM_BYTES:
        body = zstandard.ZstdCompressor(level=1).compress(body)
    tx.run(
        "INSERT INTO session_events (tenant, session_id, first_seq, count, created_ms, body) VALUES (?, ?, ?, ?, ?, ?)",
        (*key, events[0].seq, len(events), events[0].at_ms, body),
    )


def events_after(reader: Reader, key: SessionKey, after: int, limit: int) -> list[SessionEvent]:
    """At most `limit`, in order."""
    found: list[SessionEvent] = []
    # The piece that holds the next one may begin before it.
    start = reader.rows(
        "SELECT max(first_seq) FROM session_events WHERE tenant = ? AND session_id = ? AND first_seq <= ?",
        (*key, after + 1),
    )[0][0]
    first = int(start) if start is not None else after + 1
    while len(found) < limit:
        rows = reader.rows(
            "SELECT body, first_seq, count FROM session_events WHERE tenant = ? AND session_id = ? AND first_seq >= ? "
            "ORDER BY first_seq LIMIT 64",
            (*key, first),
        )
        for row in rows:
            found += [event for event in _events_of(cast(bytes, row[0])) if event.seq > after]
            first = int(row[1] or 0) + int(row[2] or 0)
        if len(rows) < 64:
            break
    return found[:limit]


def _events_of(body: bytes) -> list[SessionEvent]:
    plain = body if body[:1] == b"[" else zstandard.ZstdDecompressor().decompress(body)
    return decoder(list[SessionEvent]).decode(plain)


# --- what is due, and what belongs to whom ---------------------------------------------------------------------------


def due(reader: Reader, now_ms: int, limit: int) -> list[tuple[SessionKey, str]]:
    """(session, its root), the longest due first."""
    rows = reader.rows(
        "SELECT tenant, id, root_id FROM sessions WHERE due_ms IS NOT NULL AND due_ms <= ? ORDER BY due_ms LIMIT ?",
        (now_ms, limit),
    )
    return [(SessionKey(str(row[0]), str(row[1])), str(row[2])) for row in rows]


def root_of(reader: Reader, key: SessionKey) -> str:
    """The root of its tree, by which its lane is chosen; its own id where there is no such session."""
    rows = reader.rows("SELECT root_id FROM sessions WHERE tenant = ? AND id = ?", key)
    return str(rows[0][0]) if rows else key.session_id


def of_node(reader: Reader, node: str, limit: int) -> list[tuple[SessionKey, str]]:
    """(session, its root) of those that a node runs or holds open."""
    rows = reader.rows("SELECT tenant, id, root_id FROM sessions WHERE node = ? LIMIT ?", (node, limit))
    return [(SessionKey(str(row[0]), str(row[1])), str(row[2])) for row in rows]


def stopping_of(reader: Reader, node: str) -> list[tuple[SessionKey, str, str]]:
    """(session, the turn that runs there, the ending that is asked for) of those that a node is to end."""
    rows = reader.rows("SELECT tenant, id, turn_id, stopping FROM sessions WHERE node = ? AND stopping <> ''", (node,))
    return [(SessionKey(str(row[0]), str(row[1])), str(row[2] or ""), str(row[3])) for row in rows]


# --- deleting --------------------------------------------------------------------------------------------------------


def forget_some(tx: Tx, key: SessionKey, limit: int) -> bool:
    """Delete some of what belongs to a session, but for its row, its messages and its snapshots; whether there may be
    more."""
    return any(tx.run(_forget(table, order), (*key, *key, limit)) for table, order in _OWN_TABLES)


def forget(tx: Tx, session: Session) -> bool:
    """The row itself, last of all; whether it was there."""
    put_tags(tx, msgspec.structs.replace(session, described=_UNTAGGED), session.described.tags)
    tx.run("DELETE FROM accounts WHERE name = ?", (money.account_of(session.tenant, session.id),))
    return bool(tx.run("DELETE FROM sessions WHERE tenant = ? AND id = ?", session.key))


_UNTAGGED = Described()
_OWN_TABLES = (
    ("session_events", "first_seq"),
    ("turns", "number"),
    ("session_triggers", "name"),
)


@cache
def _forget(table: str, order: str) -> str:
    return (
        f"DELETE FROM {table} WHERE tenant = ? AND session_id = ? AND {order} IN "
        f"(SELECT {order} FROM {table} WHERE tenant = ? AND session_id = ? ORDER BY {order} LIMIT ?)"
    )


def _tell(tx: Tx, change: Change, compose: Compose) -> None:
    session = change.session
    keep_events(tx, session.key, change.events)
    records = [
        compose.status(
            session.tenant,
            session.id,
            from_status=step.before,
            to_status=step.after,
            reason=step.reason,
            revision=step.seq,
            at_ms=change.now_ms,
        )
        for step in change.steps
    ]
    if change.ending is not None:
        records.append(_completion(change, compose))
    if records:
        tx.append(records)


def _completion(change: Change, compose: Compose) -> Record:
    assert change.ending is not None
    session = change.session
    for raw in (completion_event(session, change.ending), bare_event(session, change.ending)):
        record = compose.event(session.tenant, raw)
        if isinstance(record, Record):
            return record
    raise RuntimeError(f"the completion of session {session.id} is refused by the server's own rules")
