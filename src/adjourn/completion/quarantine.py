"""Quarantine: what was refused, whole, with the reason; nothing that was sent is ever only logged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from adjourn.database import Reader, Row, Tx
from adjourn.errors import NotFound
from adjourn.typed import convert

State = Literal["held", "accepted"]

_COLUMNS = "id, tenant, received_ms, code, path, message, source, state, body"
_INSERT = f"INSERT INTO quarantine ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, 'held', ?) ON CONFLICT (id) DO NOTHING"


class Quarantined(msgspec.Struct, frozen=True, array_like=True):
    """One refused body. `source`: through which door it came. `state`: `accepted` once a retry put it into the log."""

    id: str
    tenant: str
    received_ms: int
    code: str
    path: str
    message: str
    source: str
    state: State
    body: bytes


def quarantine_id(tenant: str, code: str, body: bytes) -> str:
    """The same body refused for the same reason has one place in quarantine, however often it is sent."""
    digest = hashlib.blake2b(f"{len(tenant)}:{tenant}{code}:".encode() + body, digest_size=12)
    return f"qrn_{digest.hexdigest()}"


def keep(tx: Tx, refused: Sequence[Quarantined]) -> None:
    for entry in refused:
        tx.run(
            _INSERT,
            (
                entry.id,
                entry.tenant,
                entry.received_ms,
                entry.code,
                entry.path,
                entry.message,
                entry.source,
                entry.body,
            ),
        )


def select(reader: Reader, tenant: str | None, *, state: State | None, before: str, limit: int) -> list[Quarantined]:
    """Newest first. `before` is the id of the last one on the page before; empty for the first page."""
    conditions: list[str] = []
    params: list[str | int] = []
    if tenant is not None:
        conditions.append("tenant = ?")
        params.append(tenant)
    if state is not None:
        conditions.append("state = ?")
        params.append(state)
    if before:
        conditions.append("(received_ms, id) < (SELECT received_ms, id FROM quarantine WHERE id = ?)")
        params.append(before)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = reader.rows(
        f"SELECT {_COLUMNS} FROM quarantine{where} ORDER BY received_ms DESC, id DESC LIMIT ?", (*params, limit)
    )
    return [_entry(row) for row in rows]


def show(reader: Reader, tenant: str | None, entry_id: str) -> Quarantined:
    """Raises NotFound."""
    rows = reader.rows(f"SELECT {_COLUMNS} FROM quarantine WHERE id = ?", (entry_id,))
    if not rows or (tenant is not None and rows[0][1] != tenant):
        raise NotFound(f"there is no {entry_id} in quarantine; list what is there with: adjourn quarantine list")
    return _entry(rows[0])


def accepted(tx: Tx, entry_id: str) -> None:
    tx.run("UPDATE quarantine SET state = 'accepted' WHERE id = ?", (entry_id,))


def held(reader: Reader) -> int:
    return int(reader.rows("SELECT count(*) FROM quarantine WHERE state = 'held'")[0][0] or 0)


def _entry(row: Row) -> Quarantined:
    return convert(row, Quarantined)
