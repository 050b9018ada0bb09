"""What filters and transforms see of an event: the event as it was sent, decoded once, and Adjourn's own facts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Final, cast

import msgspec

from adjourn.clock import rfc3339
from adjourn.errors import ShapingFailed
from adjourn.events import (
    Completion,
    HostedPart,
    Identity,
    MetadataPart,
    OutcomePart,
    SessionPart,
    StoredEvent,
    UsagePart,
    UserPart,
    decode_identity,
)


def _nulls(names: Iterable[str]) -> dict[str, object]:
    empty: dict[str, object] = {}
    for name in names:
        empty[name] = None
    return empty


_PARTS: Final = {
    "session": SessionPart,
    "user": UserPart,
    "usage": UsagePart,
    "outcome": OutcomePart,
    "metadata": MetadataPart,
}
SECTIONS: Final = {name: _nulls(part.__struct_fields__) for name, part in _PARTS.items()}
"""Every field of the schema, null. What is in `metadata.custom_tags` is the sender's: an empty object."""
SECTIONS["metadata"]["custom_tags"] = {}
SECTIONS["session"] |= _nulls(HostedPart.__struct_fields__)

ROOTS: Final = (*Completion.__struct_fields__, "from", "to", "reason", "adjourn", "event")
"""The names that an expression may begin with."""

INT_MAX: Final = 2**63 - 1
_PLAIN_EXPONENT_MIN: Final = -30

# Events of one batch were mostly received in the same few milliseconds.
_received = lru_cache(maxsize=256)(rfc3339)
_decode = msgspec.json.Decoder(dict[str, object]).decode


class _Cost(msgspec.Struct, gc=False):
    estimated_cost_usd: msgspec.Raw


class _Usage(msgspec.Struct, gc=False):
    usage: _Cost


_decode_cost = msgspec.json.Decoder(_Usage).decode


class View:
    """One event, decoded when it is first asked for, at most once."""

    def __init__(self, event: StoredEvent) -> None:
        self.event = event

    @cached_property
    def sent(self) -> dict[str, object]:
        """The event's own fields, as they were sent; an amount of money is text. Raises ShapingFailed."""
        body = self.event.body
        try:
            fields = _decode(body)
        except (ValueError, RecursionError):
            # Python's own reader takes half surrogate pairs, which may stand in fields that the schema does not know.
            fields = _read_leniently(body)
        usage = cast("dict[str, object] | None", fields.get("usage"))
        if isinstance(usage, dict) and usage.get("estimated_cost_usd") is not None:
            usage["estimated_cost_usd"] = amount_text(bytes(_decode_cost(body).usage.estimated_cost_usd))
        return fields

    @cached_property
    def facts(self) -> dict[str, object]:
        """What Adjourn knows beside the body: `adjourn` in expressions."""
        event = self.event
        cost = event.cost_nanousd
        return {
            "tenant": event.tenant,
            "received_at": _received(event.received_ms),
            "cost_usd": None if cost is None else usd_text(cost),
            "cost_nanousd": cost,
            "price_ref": event.price_ref or None,
            "partition": event.partition,
            "offset": event.offset,
        }

    @cached_property
    def identity(self) -> Identity:
        return decode_identity(self.event.body)

    def bindings(self, roots: Iterable[str]) -> dict[str, object]:
        """The values of the names that an expression uses; each costs its conversion."""
        return {root: self._value(root) for root in roots}

    def _value(self, root: str) -> object:
        if root == "event":
            return self.sent
        if root == "adjourn":
            return self.facts
        value = self.sent.get(root)
        empty = SECTIONS.get(root)
        if empty is None:
            return "session.completed" if value is None and root == "event_type" else value
        if not isinstance(value, dict):
            return empty
        section: dict[str, object] = empty | cast("dict[str, object]", value)
        if root == "metadata" and section["custom_tags"] is None:
            section["custom_tags"] = {}
        return section


def usd_text(cost_nanousd: int) -> str:
    """`42_800_000` → `0.042800000`: always nine places, never through a float."""
    whole, rest = divmod(abs(cost_nanousd), 1_000_000_000)
    return f"{'-' if cost_nanousd < 0 else ''}{whole}.{rest:09d}"


def amount_text(raw: bytes) -> str:
    """A JSON number, or text that is one, as decimal text with the digits that were sent."""
    amount = Decimal(raw.decode().strip('"'))
    exponent = amount.as_tuple().exponent
    # 1e-999999 is a number, and plainly written it is a megabyte.
    return f"{amount:f}" if isinstance(exponent, int) and _PLAIN_EXPONENT_MIN <= exponent <= 9 else str(amount)


def largest(value: object) -> tuple[int, int]:
    """(length of the longest text, members of the largest list or object) in a value."""
    if isinstance(value, str):
        return len(value), 0
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        inner: Iterable[object] = (*fields, *fields.values())
        members = len(fields)
    elif isinstance(value, list):
        inner = cast("list[object]", value)
        members = len(inner)
    else:
        return 0, 0
    text = 0
    for item in inner:
        item_text, item_members = largest(item)
        text, members = max(text, item_text), max(members, item_members)
    return text, members


def tamed(value: object) -> object:
    """For CEL, whose integers have 64 bits and whose text is UTF-8: larger numbers as text, no half surrogate pairs."""
    if isinstance(value, dict):
        return {cast("str", tamed(k)): tamed(v) for k, v in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [tamed(item) for item in cast("list[object]", value)]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not -INT_MAX - 1 <= value <= INT_MAX:
        return str(value)
    return value


def _read_leniently(body: bytes) -> dict[str, object]:
    try:
        fields = cast("object", json.loads(body))
        if isinstance(fields, dict):
            return cast("dict[str, object]", fields)
    except (ValueError, RecursionError) as error:
        raise ShapingFailed(f"the event cannot be read: {error}; correct it and send it again") from error
    raise ShapingFailed("the event is not a JSON object; correct it and send it again")
