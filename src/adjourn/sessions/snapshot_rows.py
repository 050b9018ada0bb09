"""Snapshots in their tables. The workspace's archive is written first, in parts; a snapshot counts once its last step
is written, and what was begun and never finished goes with its session."""

from __future__ import annotations

from typing import cast

import msgspec

from adjourn.database import Reader, Row, Tx
from adjourn.errors import AdjournError, StatusRefused
from adjourn.sessions import rows
from adjourn.sessions.refusals import not_found
from adjourn.sessions.session import SessionKey
from adjourn.sessions.turn import Snapshot

PART_BYTES = 512 * 1024
_UNFINISHED = -1


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot, and the state that it holds."""

    snapshot: Snapshot
    state: bytes


def begin(tx: Tx, key: SessionKey, snapshot_id: str, now_ms: int) -> int | AdjournError:
    """The session's epoch, which must be the same when it is finished."""
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    if session.turn_id is not None:
        fact = f"session {session.id} runs turn {session.turn_id}, which may change what is to be kept"
        return StatusRefused(f"{fact}; take the snapshot when it has ended, or interrupt it")
    tx.run(
        "INSERT INTO snapshots (tenant, id, session_id, created_ms, seq_max, body, archive_bytes) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key.tenant, snapshot_id, key.session_id, now_ms, session.messages, session.state, _UNFINISHED),
    )
    return session.epoch


def put_part(tx: Tx, tenant: str, snapshot_id: str, number: int, body: bytes) -> None:
    """Nothing where its session was deleted meanwhile, which takes its snapshots along."""
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE"
    if not tx.rows(f"SELECT 1 FROM snapshots WHERE tenant = ? AND id = ?{lock}", (tenant, snapshot_id)):
        return
    tx.run(
        "INSERT INTO snapshot_parts (tenant, snapshot_id, number, body) VALUES (?, ?, ?, ?)",
        (tenant, snapshot_id, number, body),
    )


def finish(tx: Tx, key: SessionKey, snapshot_id: str, epoch: int, archive_bytes: int) -> Taken | AdjournError:
    session = rows.load(tx, key)
    if session is None:
        return not_found(key)
    if session.epoch != epoch:
        return StatusRefused(f"session {session.id} went on while its snapshot was taken; take it again")
    tx.run(
        "UPDATE snapshots SET seq_max = ?, body = ?, archive_bytes = ? WHERE tenant = ? AND id = ?",
        (session.messages, session.state, archive_bytes, key.tenant, snapshot_id),
    )
    taken = find(tx, key.tenant, snapshot_id)
    assert taken is not None
    return taken


def find(reader: Reader, tenant: str, snapshot_id: str) -> Taken | None:
    found = reader.rows(f"{_SELECT} tenant = ? AND id = ? AND archive_bytes >= 0", (tenant, snapshot_id))
    return _taken(found[0]) if found else None


def select(reader: Reader, key: SessionKey) -> list[Snapshot]:
    """Of one session, the oldest first."""
    found = reader.rows(f"{_SELECT} tenant = ? AND session_id = ? AND archive_bytes >= 0 ORDER BY id", key)
    return [_taken(row).snapshot for row in found]


def part(reader: Reader, tenant: str, snapshot_id: str, number: int) -> bytes:
    """Of its archive; empty past the last."""
    found = reader.rows(
        "SELECT body FROM snapshot_parts WHERE tenant = ? AND snapshot_id = ? AND number = ?",
        (tenant, snapshot_id, number),
    )
    return cast(bytes, found[0][0]) if found else b""


def forget_one(tx: Tx, key: SessionKey) -> bool:
    """Delete the oldest snapshot of a session with all its parts; whether there was one."""
    found = tx.rows("SELECT id FROM snapshots WHERE tenant = ? AND session_id = ? ORDER BY id LIMIT 1", key)
    for (snapshot_id,) in found:
        # In this order, so that parts which are just being put are seen: whoever puts one has locked its snapshot.
        tx.run("DELETE FROM snapshots WHERE tenant = ? AND id = ?", (key.tenant, snapshot_id))
        tx.run("DELETE FROM snapshot_parts WHERE tenant = ? AND snapshot_id = ?", (key.tenant, snapshot_id))
    return bool(found)


_SELECT = "SELECT id, session_id, created_ms, seq_max, archive_bytes, body FROM snapshots WHERE"


def _taken(row: Row) -> Taken:
    snapshot = Snapshot(
        id=str(row[0]),
        session_id=str(row[1]),
        created_ms=int(row[2] or 0),
        messages=int(row[3] or 0),
        archive_bytes=int(row[4] or 0),
    )
    return Taken(snapshot=snapshot, state=cast(bytes, row[5]))
