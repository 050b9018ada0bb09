"""Triggers in their table. Every change is conditional on the revision that it was decided by, so that of two nodes
that look at one trigger, one moves it on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from adjourn.database import Reader, Row, Tx
from adjourn.sessions.hosting import PATTERNS, Pattern
from adjourn.sessions.triggers import Seen, Trigger, first_ms, kept, written
from adjourn.typed import decoder

_COLUMNS = "tenant, session_id, name, revision, next_ms, spec, seen"
_ALL = f"SELECT {_COLUMNS} FROM session_triggers"
_SESSION = "tenant = ? AND session_id = ?"
_THIS = f"{_SESSION} AND name = ?"
DUE = f"{_ALL} WHERE next_ms <= ? ORDER BY next_ms LIMIT ?"
_encode = msgspec.json.Encoder().encode


class TriggerKey(NamedTuple):
    tenant: str
    session_id: str
    name: str

    @property
    def salt(self) -> str:
        return "/".join(self)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A row. `next_ms`: when it must be looked at; None: never by itself."""

    key: TriggerKey
    revision: int
    next_ms: int | None
    trigger: Trigger
    seen: Seen


class _Spec(msgspec.Struct, frozen=True):
    """For msgspec, which wants a struct to read a union."""

    trigger: Trigger


def put(tx: Tx, tenant: str, session_id: str, triggers: Sequence[Trigger], now_ms: int) -> None:
    """Add them to a session, or change those that it has; what is given again as it is stays as it stands."""
    for trigger in triggers:
        key = TriggerKey(tenant, session_id, trigger.name)
        rows = tx.rows(f"{_ALL} WHERE {_THIS}", key)
        old = _readable(rows[0]) if rows else None
        if old is not None and old.trigger == trigger:
            continue
        seen = Seen() if old is None else kept(old.trigger, trigger, old.seen)
        tx.run(
            f"INSERT INTO session_triggers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (tenant, session_id, name) DO UPDATE SET revision = session_triggers.revision + 1, "
            "next_ms = excluded.next_ms, spec = excluded.spec, seen = excluded.seen",
            (*key, 1, first_ms(trigger, now_ms, key.salt), _encode(_Spec(trigger)), written(seen)),
        )


def pattern_of(reader: Reader, tenant: str, session_id: str) -> tuple[Pattern, bool] | None:
    """(the session's pattern, whether it has ended); None where there is no such session."""
    rows = reader.rows("SELECT pattern, ended_ms FROM sessions WHERE tenant = ? AND id = ?", (tenant, session_id))
    if not rows:
        return None
    return next(name for name in PATTERNS if name == rows[0][0]), rows[0][1] is not None


def find(reader: Reader, key: TriggerKey) -> Kept | None:
    rows = reader.rows(f"{_ALL} WHERE {_THIS}", key)
    return _kept(rows[0]) if rows else None


def select(reader: Reader, tenant: str, session_id: str) -> list[Kept]:
    """Of one session, in the order of their names."""
    return [_kept(row) for row in reader.rows(f"{_ALL} WHERE {_SESSION} ORDER BY name", (tenant, session_id))]


def due(reader: Reader, now_ms: int, limit: int) -> tuple[list[Kept], list[tuple[TriggerKey, int]]]:
    """(those that must be looked at, the longest due first; the keys and revisions of those that cannot be read)."""
    rows = reader.rows(DUE, (now_ms, limit))
    readable = [(row, _readable(row)) for row in rows]
    return (
        [kept for _, kept in readable if kept is not None],
        [(_key(row), int(row[3] or 0)) for row, kept in readable if kept is None],
    )


def page(reader: Reader, after: TriggerKey, limit: int) -> tuple[list[Kept], TriggerKey | None]:
    """(some of all, in the order of their keys; after which to go on, or None where those were the last)."""
    sql = f"{_ALL} WHERE (tenant, session_id, name) > (?, ?, ?) ORDER BY tenant, session_id, name LIMIT ?"
    rows = reader.rows(sql, (*after, limit))
    readable = [kept for row in rows if (kept := _readable(row)) is not None]
    return readable, _key(rows[-1]) if len(rows) == limit else None


def moved(tx: Tx, key: TriggerKey, revision: int, next_ms: int | None, seen: Seen | None = None) -> bool:
    """Whether it was as it was at that revision, and so was moved. Without `seen`, it remembers what it did."""
    if seen is None:
        return bool(
            tx.run(
                f"UPDATE session_triggers SET revision = revision + 1, next_ms = ? WHERE {_THIS} AND revision = ?",
                (next_ms, *key, revision),
            )
        )
    return bool(
        tx.run(
            f"UPDATE session_triggers SET revision = revision + 1, next_ms = ?, seen = ? "
            f"WHERE {_THIS} AND revision = ?",
            (next_ms, written(seen), *key, revision),
        )
    )


def remove(tx: Tx, key: TriggerKey) -> bool:
    return bool(tx.run(f"DELETE FROM session_triggers WHERE {_THIS}", key))


def remove_all(tx: Tx, tenant: str, session_id: str) -> None:
    """With the session that is deleted."""
    tx.run(f"DELETE FROM session_triggers WHERE {_SESSION}", (tenant, session_id))


def stop(tx: Tx, tenant: str, session_id: str) -> None:
    """With the session that has ended: they stay to be looked at, and fire no more."""
    tx.run(
        f"UPDATE session_triggers SET revision = revision + 1, next_ms = NULL WHERE {_SESSION} AND next_ms IS NOT NULL",
        (tenant, session_id),
    )


def _key(row: Row) -> TriggerKey:
    return TriggerKey(str(row[0]), str(row[1]), str(row[2]))


def _readable(row: Row) -> Kept | None:
    try:
        return _kept(row)
    except msgspec.DecodeError:  # written by a later version
        return None


def _kept(row: Row) -> Kept:
    _, _, _, revision, next_ms, spec, seen = row
    assert isinstance(spec, bytes)
    assert isinstance(seen, str)
    return Kept(
        key=_key(row),
        revision=int(revision or 0),
        next_ms=None if next_ms is None else int(next_ms),
        trigger=decoder(_Spec).decode(spec).trigger,
        seen=decoder(Seen).decode(seen),
    )
