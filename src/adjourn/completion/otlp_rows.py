"""Traces in their table. A row is written only by who has read it as it is: of two that race one looks again."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adjourn.completion.otlp_trace import Trace
from adjourn.database import Reader, Tx, Value

IDS_PER_STATEMENT = 500
FORGET_PER_WRITE = 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Trace).decode


class Kept(msgspec.Struct):
    """A trace as it was read. `revision` 0: there is none."""

    trace: Trace
    revision: int = 0
    heard_ms: int = 0
    due_ms: int | None = None
    """When a run in it has waited long enough."""


def load(reader: Reader, tenant: str, trace_ids: Sequence[str]) -> dict[str, Kept]:
    """Those that are kept."""
    found: dict[str, Kept] = {}
    for start in range(0, len(trace_ids), IDS_PER_STATEMENT):
        part = trace_ids[start : start + IDS_PER_STATEMENT]
        rows = reader.rows(
            "SELECT trace_id, revision, heard_ms, due_ms, body FROM otlp_traces WHERE tenant = ? AND trace_id IN "
            f"({', '.join('?' * len(part))})",
            (tenant, *part),
        )
        for trace_id, revision, heard_ms, due_ms, body in rows:
            assert isinstance(body, bytes)
            waits = None if due_ms is None else int(due_ms)
            found[str(trace_id)] = Kept(_decode(body), int(revision or 0), int(heard_ms or 0), waits)
    return found


class Put(msgspec.Struct, frozen=True):
    """A trace as it is to be; `body` None: it is not kept."""

    tenant: str
    trace_id: str
    read: int
    """The revision that was read."""
    revision: int
    """Not used before, so that a row that was deleted and made anew is another one."""
    body: bytes | None
    due_ms: int | None
    heard_ms: int


def put(tx: Tx, it: Put) -> bool:
    """False: the row is not as it was read, and nothing was done."""
    this: tuple[Value, ...] = (it.tenant, it.trace_id, it.read)
    where = "WHERE tenant = ? AND trace_id = ? AND revision = ?"
    if it.body is None:
        return it.read == 0 or tx.run(f"DELETE FROM otlp_traces {where}", this) > 0
    new: tuple[Value, ...] = (it.revision, it.due_ms, it.heard_ms, it.body)
    if it.read:
        changed = tx.run(
            f"UPDATE otlp_traces SET revision = ?, due_ms = ?, heard_ms = ?, body = ? {where}", (*new, *this)
        )
    else:
        changed = tx.run(
            "INSERT INTO otlp_traces (tenant, trace_id, revision, due_ms, heard_ms, body) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (tenant, trace_id) DO NOTHING",
            (it.tenant, it.trace_id, *new),
        )
    return changed > 0


def packed(trace: Trace) -> bytes:
    return _encode(trace)


def due(reader: Reader, now_ms: int, limit: int) -> list[tuple[str, str]]:
    """(tenant, trace) of those in which a run has waited long enough."""
    rows = reader.rows(
        "SELECT tenant, trace_id FROM otlp_traces WHERE due_ms <= ? ORDER BY due_ms LIMIT ?", (now_ms, limit)
    )
    return [(str(tenant), str(trace_id)) for tenant, trace_id in rows]


def any_silent(reader: Reader, heard_before_ms: int) -> bool:
    return bool(
        reader.rows("SELECT 1 FROM otlp_traces WHERE heard_ms < ? AND due_ms IS NULL LIMIT 1", (heard_before_ms,))
    )


def forget(tx: Tx, heard_before_ms: int) -> list[tuple[str, str, Trace]]:
    """Delete some of those of which nothing was heard since, none that has a run waiting; what they were."""
    rows = tx.rows(
        "SELECT tenant, trace_id, revision, body FROM otlp_traces WHERE heard_ms < ? AND due_ms IS NULL "
        "ORDER BY heard_ms LIMIT ?",
        (heard_before_ms, FORGET_PER_WRITE),
    )
    gone: list[tuple[str, str, Trace]] = []
    for tenant, trace_id, revision, body in sorted(rows, key=lambda row: (str(row[0]), str(row[1]))):
        if tx.run(
            "DELETE FROM otlp_traces WHERE tenant = ? AND trace_id = ? AND revision = ?", (tenant, trace_id, revision)
        ):
            assert isinstance(body, bytes)
            gone.append((str(tenant), str(trace_id), _decode(body)))
    return gone
