"""The row of a hosted session: which columns, in which order, and what they are in `Session`. Here and nowhere else."""

from __future__ import annotations

from typing import cast

import msgspec

from adjourn.database import Row, Value
from adjourn.sessions.session import Described, Session, Spent
from adjourn.typed import convert, decoder

_SPENT = Spent.__struct_fields__
_OWN = tuple(name for name in Session.__struct_fields__ if name not in ("spent", "described", "state"))

NAMES: tuple[str, ...] = (*_OWN, *_SPENT, "described", "state")
COLUMNS = ", ".join(NAMES)
"""For `SELECT` and `INSERT`, in the order that `session_of` and `values_of` have."""
MARKS = ", ".join("?" * len(NAMES))

_SPENT_AT = len(_OWN)
_DESCRIBED_AT = _SPENT_AT + len(_SPENT)

_encode = msgspec.json.Encoder().encode


def session_of(row: Row) -> Session:
    """Of a row that was selected as `COLUMNS`. Raises msgspec.ValidationError for one that is damaged."""
    found: dict[str, object] = dict(zip(NAMES, row, strict=True))
    found["spent"] = dict(zip(_SPENT, row[_SPENT_AT:_DESCRIBED_AT], strict=True))
    found["described"] = decoder(Described).decode(cast(bytes, row[_DESCRIBED_AT]))
    return convert(found, Session)


def values_of(session: Session) -> tuple[Value, ...]:
    """In the order of `COLUMNS`."""
    own = msgspec.structs.astuple(session)[:_SPENT_AT]
    spent = msgspec.structs.astuple(session.spent)
    return (*own, *spent, described_value(session.described), session.state)


def described_value(described: Described) -> bytes:
    """As its column holds it."""
    return _encode(described)
