"""Conversations for tests: rows of sessions, and appends as their owner makes them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
from sqlalchemy import LargeBinary, Text
from tests.databases.rigs import DatabaseRig, opened

from adjourn.conversation import messages, sharing
from adjourn.conversation.message import Draft, StoredMessage
from adjourn.conversation.messages import Written
from adjourn.database import Reader, Tx, Value
from adjourn.databases.laned import LanedDatabase
from adjourn.runner import Part, Said
from adjourn.schema_sessions import sessions

T = "acme"


def database_of(kind: str, directory: Path) -> AbstractAsyncContextManager[LanedDatabase]:
    return opened(DatabaseRig(kind, directory).connect())


def put_session(tx: Tx, session_id: str, position: int = 0, tenant: str = T) -> None:
    """A row that has what it must have, and its place in the conversation."""
    given: dict[str, Value] = {"tenant": tenant, "id": session_id, "messages": position}
    tx.run(*_insert_session(tuple(given), tuple(given.values())))


def begin_from(tx: Tx, session_id: str, source_id: str, seq_max: int = messages.SEQ_MAX) -> int:
    position = sharing.share(tx, T, session_id, source_id, seq_max)
    put_session(tx, session_id, position)
    return position


def say(tx: Tx, session_id: str, drafts: Sequence[Draft], now_ms: int = 1_000, tenant: str = T) -> Written:
    """Append as a session's owner does: places are taken from its row, which is locked by that."""
    taken = tx.rows(
        "UPDATE sessions SET messages = messages + ? WHERE tenant = ? AND id = ? RETURNING messages",
        (len(drafts), tenant, session_id),
    )
    after = int(taken[0][0] or 0) - len(drafts)
    written = messages.append(tx, tenant, session_id, after_seq=after, drafts=drafts, now_ms=now_ms)
    if written.last_seq != after + len(drafts):
        tx.run("UPDATE sessions SET messages = ? WHERE tenant = ? AND id = ?", (written.last_seq, tenant, session_id))
    return written


def delete_some(tx: Tx, session_id: str, limit: int, tenant: str = T) -> bool:
    """A step of deleting a session: its row goes with the last of its messages. Whether there may be more."""
    more = sharing.forget(tx, tenant, session_id, limit)
    if not more:
        tx.run("DELETE FROM sessions WHERE tenant = ? AND id = ?", (tenant, session_id))
    return more


def whole(reader: Reader, session_id: str, tenant: str = T) -> list[StoredMessage]:
    return messages.read(reader, tenant, session_id, limit=1_000_000)


def text(words: str, role: str = "user", **more: object) -> Draft:
    return msgspec.convert({"role": role, "parts": [{"type": "text", "text": words}], **more}, Draft)


def call(call_id: str, arguments: str = "{}", name: str = "look") -> Part:
    return Part(type="tool_call", id=call_id, name=name, arguments=msgspec.Raw(arguments.encode()))


def result(call_id: str, output: str = "1", is_error: bool = False) -> Part:
    return Part(type="tool_result", id=call_id, output=msgspec.Raw(output.encode()), is_error=is_error)


def words(said: StoredMessage | Said | Draft) -> str:
    """What a message says, in short: text as it is, `call 1`, `result 1`, `error 1`."""
    names = {"tool_call": "call", "tool_result": "result"}
    return " ".join(
        part.text if part.type == "text" else f"{'error' if part.is_error else names[part.type]} {part.id}"
        for part in said.parts
    )


def _insert_session(names: tuple[str, ...], values: tuple[Value, ...]) -> tuple[str, tuple[Value, ...]]:
    rest = [each for each in sessions.columns if each.name not in names and not each.nullable]
    blanks = [
        "" if isinstance(each.type, Text) else b"{}" if isinstance(each.type, LargeBinary) else 0 for each in rest
    ]
    columns = (*names, *(each.name for each in rest))
    return f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", (*values, *blanks)
