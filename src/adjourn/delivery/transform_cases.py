"""Cases for filters and transforms, as people write them in YAML: an event, what is to be done with it, what comes out.

docs/howto/transforms.md shows a file. Imported only where YAML is at hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import cast

import msgspec

from adjourn.delivery.transform import shaping_of
from adjourn.errors import ConfigInvalid, ShapingFailed
from adjourn.events import StoredEvent, decode_event, decode_identity
from adjourn.prices import nanousd_of
from adjourn.typed import convert
from adjourn.yamltext import parse_yaml

FILTERED, UNCHANGED, FAILED = "filtered", "unchanged", "failed"


class _Facts(msgspec.Struct, forbid_unknown_fields=True):
    """What Adjourn would know of the event."""

    tenant: str = "default"
    received_at: datetime | None = None
    cost_usd: str | None = None
    price_ref: str = ""
    partition: int = 0
    offset: int = 0


class _Case(msgspec.Struct, forbid_unknown_fields=True):
    event: dict[str, object]
    expect: dict[str, object] | str
    name: str = ""
    filter: str | None = None
    transform: str | None = None
    adjourn: _Facts = msgspec.field(default_factory=_Facts)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    cases: list[_Case]
    filter: str = ""
    transform: str = ""


class Case(msgspec.Struct, frozen=True):
    """`expect` is an object, or one of `filtered`, `unchanged`, `failed`."""

    name: str
    filter: str
    transform: str
    event: StoredEvent
    expect: Mapping[str, object] | str

    def difference(self) -> list[str]:
        """Nothing if it comes out as expected, else lines: `-` is what was expected, `+` what came out. An expression
        that nobody could use is never what was expected."""
        try:
            outcome, reason = self._outcome()
        except ConfigInvalid as error:
            return [error.message]
        if outcome == self.expect:
            return []
        lines = difflib.unified_diff(_lines(self.expect), _lines(outcome), "expected", "came out", lineterm="", n=3)
        return [*lines, *([reason] if reason else [])]

    def _outcome(self) -> tuple[Mapping[str, object] | str, str]:
        shaping = shaping_of(filter=self.filter, transform=self.transform)
        try:
            shaped = self.event if shaping is None else shaping.shape(self.event)
        except ShapingFailed as error:
            return FAILED, error.message
        if shaped is None:
            return FILTERED, ""
        if shaped is self.event and self.expect == UNCHANGED:
            return UNCHANGED, ""
        return msgspec.json.decode(shaped.body, type=dict[str, object]), ""


def read_cases(text: str, source: str) -> list[Case]:
    """Raises ConfigInvalid."""
    value, _ = parse_yaml(text, source)
    try:
        file = convert(value, _File)
    except msgspec.ValidationError as error:
        remedy = "give cases: a list of {name, event, expect}, each with a filter or transform of its own if need be"
        raise ConfigInvalid(f"{source}: {error}; {remedy}", path=source) from None
    return [
        Case(
            name=case.name or f"case {number}",
            filter=file.filter if case.filter is None else case.filter,
            transform=file.transform if case.transform is None else case.transform,
            event=_stored(case, f"{source}: {case.name or f'case {number}'}"),
            expect=_expected(case, f"{source}: {case.name or f'case {number}'}"),
        )
        for number, case in enumerate(file.cases, 1)
    ]


def _stored(case: _Case, where: str) -> StoredEvent:
    body, facts = msgspec.json.encode(case.event), case.adjourn
    try:
        decode_event(body)
        decode_identity(body)
    except (msgspec.ValidationError, ArithmeticError) as error:
        fact = f"{where}: the event is none that the log could hold: {error}"
        raise ConfigInvalid(f"{fact}; give it an event_id and a session.session_id, and mend the rest") from None
    try:
        cost = None if facts.cost_usd is None else nanousd_of(Decimal(facts.cost_usd))
    except (InvalidOperation, ValueError, OverflowError):
        raise ConfigInvalid(f"{where}: cost_usd {facts.cost_usd!r} is no amount; write it as '0.0428'") from None
    received_ms = 0 if facts.received_at is None else round(facts.received_at.timestamp() * 1000)
    return StoredEvent(facts.partition, facts.offset, facts.tenant, body, received_ms, cost, facts.price_ref)


def _expected(case: _Case, where: str) -> Mapping[str, object] | str:
    if isinstance(case.expect, str):
        if case.expect not in (FILTERED, UNCHANGED, FAILED):
            remedy = f"give an object, or one of {FILTERED}, {UNCHANGED}, {FAILED}"
            raise ConfigInvalid(f"{where}: expect is {case.expect[:60]!r}; {remedy}")
        return case.expect
    return cast("Mapping[str, object]", msgspec.json.decode(msgspec.json.encode(case.expect)))


def _lines(outcome: Mapping[str, object] | str) -> list[str]:
    if isinstance(outcome, str):
        return [outcome]
    encoded = msgspec.json.encode(outcome, order="deterministic")
    return msgspec.json.format(encoded, indent=2).decode().splitlines()
