"""Turns in their table: one row each, from when it was asked for until its session is deleted."""

from __future__ import annotations

import hashlib

import msgspec

from adjourn.database import Reader, Row, Tx
from adjourn.sessions.session import Session, SessionKey
from adjourn.sessions.turn import Message, Reservation, TurnResult, TurnStatus
from adjourn.typed import convert, decoder


class TurnRow(msgspec.Struct, kw_only=True):
    """Times are wall milliseconds. `asked` is its Message, `answer` what `Kept` says once it has ended."""

    tenant: str
    session_id: str
    number: int
    turn_id: str
    status: TurnStatus
    idempotency: bytes | None
    asked: bytes
    created_ms: int
    began_ms: int | None = None
    ended_ms: int | None = None
    first_event: int = 0
    reserved_nanousd: int = 0
    reservation: Reservation = ""
    answer: bytes = b""
    so_far: bytes = b""
    """A TurnResult: what it had used when that was kept last."""

    @property
    def key(self) -> SessionKey:
        return SessionKey(self.tenant, self.session_id)

    @property
    def message(self) -> Message:
        return decoder(Message).decode(self.asked)

    @property
    def kept(self) -> Kept:
        return decoder(Kept).decode(self.answer)

    @property
    def so_far_result(self) -> TurnResult:
        if self.so_far:
            return decoder(TurnResult).decode(self.so_far)
        return TurnResult(turn_id=self.turn_id, number=self.number, status=self.status)

    @property
    def result(self) -> TurnResult:
        """As far as it is known."""
        if self.answer:
            return self.kept.turn
        return TurnResult(turn_id=self.turn_id, number=self.number, status=self.status, began_ms=self.began_ms or 0)


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a turn. With the session as it was, where the same call may ask for it again."""

    turn: TurnResult
    session: Session | None = None


_NAMES = TurnRow.__struct_fields__
_COLUMNS = ", ".join(_NAMES)
_INSERT = f"INSERT INTO turns ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"
_SELECT = f"SELECT {_COLUMNS} FROM turns WHERE"
_encode = msgspec.json.Encoder(decimal_format="string").encode


def idempotency_of(tenant: str, scope: str, key: str) -> bytes | None:
    """What a call is known again by; None where it brought no key. `scope`: the session, or what else it is about."""
    if not key:
        return None
    text = f"{len(tenant)}:{tenant}{len(scope)}:{scope}{key}"
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"adjourn.turn").digest()


def asked_of(message: Message) -> bytes:
    """How it is to be answered is not what is asked."""
    return _encode(msgspec.structs.replace(message, stream=False, queue=False))


def message_of(message: Message) -> Message:
    """As it is read back."""
    return decoder(Message).decode(asked_of(message))


def insert(tx: Tx, turn: TurnRow) -> None:
    tx.run(_INSERT, msgspec.structs.astuple(turn))


def next_number(tx: Tx, key: SessionKey) -> int:
    rows = tx.rows("SELECT max(number) FROM turns WHERE tenant = ? AND session_id = ?", key)
    return int(rows[0][0] or 0) + 1


def by_idempotency(reader: Reader, tenant: str, idempotency: bytes) -> TurnRow | None:
    return _one(reader.rows(f"{_SELECT} tenant = ? AND idempotency = ?", (tenant, idempotency)))


def find(reader: Reader, tenant: str, turn_id: str) -> TurnRow | None:
    return _one(reader.rows(f"{_SELECT} tenant = ? AND turn_id = ?", (tenant, turn_id)))


def first_queued(reader: Reader, key: SessionKey) -> TurnRow | None:
    return _one(
        reader.rows(
            f"{_SELECT} tenant = ? AND session_id = ? AND status = 'queued' ORDER BY number LIMIT 1",
            key,
        )
    )


def all_queued(reader: Reader, key: SessionKey) -> list[TurnRow]:
    rows = reader.rows(f"{_SELECT} tenant = ? AND session_id = ? AND status = 'queued' ORDER BY number", key)
    return [_turn(row) for row in rows]


def began(tx: Tx, turn: TurnRow) -> None:
    """A queued one begins."""
    tx.run(
        "UPDATE turns SET status = ?, began_ms = ?, first_event = ?, reserved_nanousd = ?, reservation = ? "
        "WHERE tenant = ? AND session_id = ? AND number = ?",
        (
            turn.status,
            turn.began_ms,
            turn.first_event,
            turn.reserved_nanousd,
            turn.reservation,
            *turn.key,
            turn.number,
        ),
    )


def holds_more(tx: Tx, tenant: str, turn_id: str, nanousd: int) -> None:
    tx.run(
        "UPDATE turns SET reserved_nanousd = reserved_nanousd + ? WHERE tenant = ? AND turn_id = ?",
        (nanousd, tenant, turn_id),
    )


def keep_so_far(tx: Tx, tenant: str, turn_id: str, so_far: TurnResult) -> None:
    tx.run("UPDATE turns SET so_far = ? WHERE tenant = ? AND turn_id = ?", (_encode(so_far), tenant, turn_id))


def ended(tx: Tx, turn: TurnRow, kept: Kept, reservation: Reservation) -> None:
    tx.run(
        "UPDATE turns SET status = ?, ended_ms = ?, answer = ?, reservation = ? "
        "WHERE tenant = ? AND session_id = ? AND number = ?",
        (kept.turn.status, kept.turn.ended_ms, _encode(kept), reservation, *turn.key, turn.number),
    )


def _one(rows: list[Row]) -> TurnRow | None:
    return _turn(rows[0]) if rows else None


def _turn(row: Row) -> TurnRow:
    return convert(dict(zip(_NAMES, row, strict=True)), TurnRow)
