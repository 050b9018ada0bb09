"""Messages of conversations in their table.

A conversation is what a session shares with earlier ones (`sharing`), and its own messages behind that. `seq` counts
through both: it is given inside the transaction, by whoever holds the session's row, and never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

import msgspec

from adjourn.conversation.message import Draft, StoredMessage, TokenSource, canonical, pack, read_body, unpack
from adjourn.conversation.sharing import Span, spans
from adjourn.conversation.transcript import paired
from adjourn.database import Reader, Row, Tx, Value
from adjourn.errors import MessageConflict
from adjourn.ids import new_id
from adjourn.runner import Part, Role, Said

SEQ_MAX = 2**63 - 1
HISTORY_MESSAGES_MAX = 200
HISTORY_BYTES_MAX = 8_000_000
"""More than any model reads; about, since messages are read a few at a time."""
HISTORY_STEP = 16
ROWS_PER_STATEMENT = 64

_FIELDS = "session_id, seq, id, role, agent, turn_id, created_ms, expires_ms, tokens, token_source, codec, body"
_OF_M = ", ".join(f"m.{field}" for field in _FIELDS.split(", "))
_WITHIN = f"SELECT {_FIELDS} FROM messages WHERE tenant = ? AND session_id = ? AND seq > ? AND seq < ? ORDER BY seq"
_OLDEST, _NEWEST = f"{_WITHIN} LIMIT ?", f"{_WITHIN} DESC LIMIT ?"


class Placed(msgspec.Struct, frozen=True):
    """Where a draft stands in the conversation. Not `fresh`: it stood there before."""

    id: str
    seq: int
    fresh: bool


class Written(msgspec.Struct, frozen=True):
    """`placed` has one for each draft; `last_seq` is that of the session's last message now."""

    last_seq: int
    placed: Sequence[Placed]


# --- writing ---------------------------------------------------------------------------------------------------------


def append(tx: Tx, tenant: str, session_id: str, *, after_seq: int, drafts: Sequence[Draft], now_ms: int) -> Written:
    """Put messages behind `after_seq`, the session's last. The caller has locked the session's row, and notes
    `last_seq` there. A draft whose id stands in the conversation already is not a second message. Raises
    MessageConflict if it says something else there, and BodyInvalid; nothing is written then."""
    packed = [pack(draft) for draft in drafts]
    standing = _standing(tx, tenant, session_id, sorted({draft.id for draft in drafts if draft.id}))
    placed: list[Placed] = []
    rows: list[tuple[Value, ...]] = []
    last = after_seq
    for draft, (codec, body) in zip(drafts, packed, strict=True):
        row = standing.get(draft.id) if draft.id else None
        if row is not None:
            _must_agree(row, draft, codec, body)
            placed.append(Placed(draft.id, _int(row[1]), fresh=False))
            continue
        last += 1
        row = _row(draft, session_id, last, now_ms, codec, body)
        message_id = str(row[2])
        standing[message_id] = row
        rows.append((tenant, *row))
        placed.append(Placed(message_id, last, fresh=True))
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        some = rows[start : start + ROWS_PER_STATEMENT]
        tx.run(_insert(len(some)), [value for row in some for value in row])
    return Written(last, placed)


def _standing(reader: Reader, tenant: str, session_id: str, ids: Sequence[str]) -> dict[str, Row]:
    """The messages of a conversation that have these ids, as rows."""
    found: dict[str, Row] = {}
    for start in range(0, len(ids), ROWS_PER_STATEMENT):
        some = ids[start : start + ROWS_PER_STATEMENT]
        rows = reader.rows(_find(len(some)), (tenant, session_id, *some, tenant, session_id, *some))
        found.update((str(row[2]), row) for row in rows)
    return found


def _must_agree(row: Row, draft: Draft, codec: int, body: bytes) -> None:
    said = unpack(_int(row[10]), cast(bytes, row[11]), draft.id)
    same_body = said == (new := unpack(codec, body, draft.id)) or canonical(said) == canonical(new)
    if row[3] != draft.role or row[4] != draft.agent or not same_body:
        raise MessageConflict(
            f"message {draft.id} stands in this conversation as number {row[1]} and says something else; give each "
            "message an id of its own",
            path="message_id",
        )


def _row(draft: Draft, session_id: str, seq: int, now_ms: int, codec: int, body: bytes) -> Row:
    """In the order of `_FIELDS`."""
    message_id = draft.id or new_id("msg", now_ms)
    who = (session_id, seq, message_id, draft.role, draft.agent, draft.turn_id, now_ms, draft.expires_ms)
    return (*who, draft.tokens, draft.token_source, codec, body)


@cache
def _insert(count: int) -> str:
    one = f"({', '.join('?' * 13)})"
    return f"INSERT INTO messages (tenant, {_FIELDS}) VALUES {', '.join([one] * count)}"


@cache
def _find(count: int) -> str:
    marks = ", ".join("?" * count)
    return (
        f"SELECT {_FIELDS} FROM messages WHERE tenant = ? AND session_id = ? AND id IN ({marks}) UNION ALL "
        f"SELECT {_OF_M} FROM message_sources s JOIN messages m ON m.tenant = s.tenant AND m.session_id = s.source_id "
        f"AND m.seq <= s.seq_max WHERE s.tenant = ? AND s.session_id = ? AND m.id IN ({marks})"
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def read(
    reader: Reader,
    tenant: str,
    session_id: str,
    *,
    after: int = 0,
    before: int | None = None,
    limit: int,
    newest: bool = False,
) -> list[StoredMessage]:
    """At most `limit` of the messages between `after` and `before` (neither included), oldest first: the oldest of
    them, or the newest. It costs what it returns. Raises MessageUnreadable."""
    end = SEQ_MAX if before is None else before
    page = _newest if newest else _oldest
    return [_message(row) for row in page(reader, tenant, session_id, after, end, limit)]


def last(reader: Reader, tenant: str, session_id: str, count: int) -> list[StoredMessage]:
    """The newest `count`, oldest first."""
    return read(reader, tenant, session_id, limit=count, newest=True)


def count(reader: Reader, tenant: str, session_id: str) -> int:
    """How many messages there are, by counting them; where the last one stands is in the session's row."""
    own = Span(session_id, 0, SEQ_MAX)
    counted = "SELECT count(*) FROM messages WHERE tenant = ? AND session_id = ? AND seq > ? AND seq <= ?"
    all_spans = (own, *spans(reader, tenant, session_id))
    return sum(_int(reader.rows(counted, (tenant, *span))[0][0]) for span in all_spans)


def history(
    reader: Reader, tenant: str, session_id: str, *, before: int | None = None, limit: int = HISTORY_MESSAGES_MAX
) -> list[Said]:
    """What a runner is told of the conversation before `before`: the newest messages, at most `limit` and no more than
    about HISTORY_BYTES_MAX, in which every tool call has its result and every result its call. Raises
    MessageUnreadable."""
    found: list[StoredMessage] = []
    size, more = 0, True
    while more and len(found) < limit and size < HISTORY_BYTES_MAX:
        step = min(HISTORY_STEP, limit - len(found))
        some = read(reader, tenant, session_id, before=before, limit=step, newest=True)
        found[:0] = some
        more = len(some) == step
        size += sum(_size(part) for message in some for part in message.parts)
        before = some[0].seq if some else before
    return paired([Said(role=each.role, parts=each.parts, agent=each.agent) for each in found])


def _size(part: Part) -> int:
    return len(part.text) + len(part.url) + len(memoryview(part.arguments)) + len(memoryview(part.output))


def _newest(reader: Reader, tenant: str, session_id: str, after: int, end: int, limit: int) -> list[Row]:
    rows = reader.rows(_NEWEST, (tenant, session_id, after, end, limit))
    if len(rows) < limit and not (rows and _int(rows[-1][1]) == after + 1):
        for span in spans(reader, tenant, session_id, after):
            if len(rows) < limit and span.after < end - 1:
                rows += reader.rows(_NEWEST, (tenant, *_narrowed(span, after, end), limit - len(rows)))
    rows.reverse()
    return rows


def _oldest(reader: Reader, tenant: str, session_id: str, after: int, end: int, limit: int) -> list[Row]:
    rows: list[Row] = []
    for span in reversed(spans(reader, tenant, session_id, after)):
        if len(rows) < limit and span.after < end - 1:
            rows += reader.rows(_OLDEST, (tenant, *_narrowed(span, after, end), limit - len(rows)))
    if len(rows) < limit:
        rows += reader.rows(_OLDEST, (tenant, session_id, after, end, limit - len(rows)))
    return rows


def _narrowed(span: Span, after: int, end: int) -> tuple[str, int, int]:
    return span.source_id, max(span.after, after), min(span.last + 1, end)


def _message(row: Row) -> StoredMessage:
    body = read_body(_int(row[10]), cast(bytes, row[11]), str(row[2]))
    return StoredMessage(
        session_id=str(row[0]),
        seq=_int(row[1]),
        id=str(row[2]),
        role=cast(Role, row[3]),
        parts=body.parts,
        agent=str(row[4]),
        metadata=body.metadata,
        turn_id=None if row[5] is None else str(row[5]),
        created_ms=_int(row[6]),
        expires_ms=None if row[7] is None else _int(row[7]),
        tokens=None if row[8] is None else _int(row[8]),
        token_source=cast(TokenSource, row[9]),
    )


def _int(value: Value) -> int:
    return int(value or 0)
