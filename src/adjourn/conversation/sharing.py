"""What a conversation shares with earlier ones: it begins with their messages, and none is copied.

A row of `message_sources` says that a session has the messages of `source_id` up to `seq_max`; `depth` 0 is the nearest
source. Each source has its part behind that of the next deeper one, and the session's own messages follow the nearest:

    depth 1: sess_a, seq_max 40     1 … 40
    depth 0: sess_b, seq_max 55    41 … 55
    own                            56 …

So what is shared of a session is always its beginning, and a deleted session keeps just as much as the longest of them.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from adjourn.database import Reader, Tx
from adjourn.errors import NotFound

ROWS_PER_STATEMENT = 64

_THIS: Final = "tenant = ? AND session_id = ?"


class Span(NamedTuple):
    """The messages behind `after`, up to and with `last`, of a source."""

    source_id: str
    after: int
    last: int


def spans(reader: Reader, tenant: str, session_id: str, after: int = 0) -> list[Span]:
    """What a session shares behind `after`, the nearest source first."""
    rows = reader.rows(
        f"SELECT source_id, seq_max FROM message_sources WHERE {_THIS} AND seq_max > ? ORDER BY depth",
        (tenant, session_id, after),
    )
    ends = [int(row[1] or 0) for row in rows]
    starts = [*ends, after][1:]
    return [Span(str(row[0]), start, end) for row, start, end in zip(rows, starts, ends, strict=True)]


def share(tx: Tx, tenant: str, new_id: str, source_id: str, seq_max: int) -> int:
    """Let a session without messages begin with those of another one up to `seq_max`, or as many as that has. The place
    of the last of them: the new session's own follow it. It costs a row for each source. Raises NotFound if the source
    has gone."""
    # As a foreign key does: the source's turns go on meanwhile, and whoever deletes it waits.
    lock = "" if tx.dialect == "sqlite" else " FOR KEY SHARE"
    found = tx.rows(f"SELECT messages FROM sessions WHERE tenant = ? AND id = ?{lock}", (tenant, source_id))
    if not found:
        raise NotFound(f"there is no session {source_id} to begin from; it may have been deleted", path="resumed_from")
    end = max(0, min(seq_max, int(found[0][0] or 0)))
    of_source = [span for span in spans(tx, tenant, source_id) if span.after < end]
    own_from = of_source[0].last if of_source else 0
    wanted = [Span(source_id, own_from, end)] if end > own_from else []
    wanted += [Span(span.source_id, span.after, min(span.last, end)) for span in of_source]
    rows = [(tenant, new_id, depth, span.source_id, span.last) for depth, span in enumerate(wanted)]
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        some = rows[start : start + ROWS_PER_STATEMENT]
        tx.run(_insert(len(some)), [value for row in some for value in row])
    return end


@cache
def _insert(count: int) -> str:
    columns = "tenant, session_id, depth, source_id, seq_max"
    return f"INSERT INTO message_sources ({columns}) VALUES {', '.join(['(?, ?, ?, ?, ?)'] * count)}"


def forget(tx: Tx, tenant: str, session_id: str, limit: int) -> bool:
    """Delete at most `limit` of a session's messages and shares; whether there may be more. What other sessions share
    of it stays for them, and what was kept of deleted sessions for this one alone goes too. To be called until nothing
    is left; the session's row may be deleted before, or in the transaction of the last call."""
    _stands(tx, tenant, session_id, "FOR UPDATE")
    left = limit - _cut(tx, tenant, session_id, _shared(tx, tenant, session_id, but=session_id), limit)
    # In the order of their ids: others lock the same ones.
    for source_id in sorted({span.source_id for span in spans(tx, tenant, session_id)}):
        if left <= 0:
            return True
        if not _stands(tx, tenant, source_id, "FOR KEY SHARE") and _hold(tx, tenant, source_id):
            left -= _cut(tx, tenant, source_id, _shared(tx, tenant, source_id, but=session_id), left)
            if left <= 0:
                return True
        tx.run(f"DELETE FROM message_sources WHERE {_THIS} AND source_id = ?", (tenant, session_id, source_id))
        left -= 1
    return left <= 0


def _stands(tx: Tx, tenant: str, session_id: str, lock: str) -> bool:
    """Whether a session is there, and so it stays until COMMIT. Of two that delete a session and a sharer of it at the
    same time, the second one sees what the first has done, and takes what that left for it."""
    sql = "SELECT 1 FROM sessions WHERE tenant = ? AND id = ?"
    return bool(tx.rows(sql if tx.dialect == "sqlite" else f"{sql} {lock}", (tenant, session_id)))


def _hold(tx: Tx, tenant: str, session_id: str) -> bool:
    """Lock what a deleted session has left, by its first message; whether there is any. Two that were the last to share
    it must not each take the other for the last one."""
    first = f"SELECT seq FROM messages WHERE {_THIS} ORDER BY seq LIMIT 1"
    if tx.dialect == "sqlite":
        return bool(tx.rows(first, (tenant, session_id)))
    while not tx.rows(f"{first} FOR UPDATE", (tenant, session_id)):
        # Deleted while this waited for it: then there may be another first one.
        if not tx.rows(first, (tenant, session_id)):
            return False
    return True


def _shared(tx: Tx, tenant: str, source_id: str, *, but: str) -> int:
    """Up to where others share a session."""
    rows = tx.rows(
        "SELECT seq_max FROM message_sources WHERE tenant = ? AND source_id = ? AND session_id <> ? "
        "ORDER BY seq_max DESC LIMIT 1",
        (tenant, source_id, but),
    )
    return int(rows[0][0] or 0) if rows else 0


def _cut(tx: Tx, tenant: str, session_id: str, kept: int, limit: int) -> int:
    """Delete messages behind `kept`, the newest first; how many. Fewer than `limit`: that was all."""
    rows = tx.rows(
        f"SELECT seq FROM messages WHERE {_THIS} AND seq > ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
        (tenant, session_id, kept, limit - 1),
    )
    end = int(rows[0][0] or 0) if rows else kept + 1
    return tx.run(f"DELETE FROM messages WHERE {_THIS} AND seq >= ?", (tenant, session_id, end))
