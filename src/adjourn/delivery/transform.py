"""Shaping: which events a destination wants, and in which form. Made once from its settings, called for each event.

Whatever a transform gives, the fields by which receivers tell events apart are carried along: a destination could not
recognize a repetition otherwise, nor a database tell an amendment from a completion.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import msgspec

from adjourn.delivery.transform_view import View
from adjourn.errors import ConfigInvalid, ShapingFailed
from adjourn.events import StoredEvent

if TYPE_CHECKING:
    from adjourn.delivery.expression import Expression

TransformCallable = Callable[[dict[str, object]], Mapping[str, object] | None]
"""A program's own transform: the event as it was sent, and `adjourn` beside it → what to send; None: not this one."""

BODY_BYTES_MAX = 1_000_000
"""What a transform may make of an event, four times as much as an event may be."""

_NAME = re.compile(r"\w+")
# Sorted: CEL keeps no order, and what is sent again must be the same bytes.
_encode = msgspec.json.Encoder(order="deterministic").encode
_Transform = Callable[[View], bytes | None]


class Shaping:
    """A filter, a transform, or both."""

    def __init__(self, filter: Expression | None, transform: _Transform | None) -> None:
        self._filter = filter
        self._transform = transform

    def shape(self, event: StoredEvent) -> StoredEvent | None:
        """The event as the destination gets it; None if it is filtered out. Raises ShapingFailed."""
        view = View(event)
        if self._filter is not None and not self._filter.holds(view):
            return None
        if self._transform is None:
            return event
        body = self._transform(view)
        if body is None:
            return None
        if len(body) > BODY_BYTES_MAX:
            raise ShapingFailed(
                f"the transform makes {len(body)} bytes of this event; {BODY_BYTES_MAX} is the most: leave some out"
            )
        return StoredEvent(
            event.partition, event.offset, event.tenant, body, event.received_ms, event.cost_nanousd, event.price_ref
        )


def shaping_of(
    *, filter: str, transform: str, callables: Mapping[str, TransformCallable] | None = None
) -> Shaping | None:
    """None when there is nothing to do. Raises ConfigInvalid with the place in the expression; ExtraMissing."""
    filter, transform = filter.strip(), transform.strip()
    if not filter and not transform:
        return None
    from adjourn.delivery.expression import compile_expression  # late, as below: most nodes shape nothing

    return Shaping(
        compile_expression("filter", filter) if filter else None,
        _transform_of(transform, callables or {}) if transform else None,
    )


def _transform_of(transform: str, callables: Mapping[str, TransformCallable]) -> _Transform:
    from adjourn.delivery.expression import compile_expression
    from adjourn.delivery.transform_builtin import BUILTINS

    taken = sorted(callables.keys() & BUILTINS.keys())
    if taken:
        raise ConfigInvalid(f"transform {taken[0]!r} is built in; give your own another name", path="transforms")
    if not _NAME.fullmatch(transform):
        return _of_expression(compile_expression("transform", transform))
    if transform in BUILTINS:
        builtin = BUILTINS[transform].make
        return lambda view: builtin(view.event)
    if transform in callables:
        return _of_callable(transform, callables[transform])
    import difflib

    known = [*BUILTINS, *callables]
    near = difflib.get_close_matches(transform, known, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise ConfigInvalid(
        f"there is no transform {transform!r}; {remedy} (transforms that a program registers are known to it alone; "
        "an expression is an object: {'name': value, …})",
        path="transform",
    )


def _of_expression(expression: Expression) -> _Transform:
    return lambda view: _finished(expression.fields(view), view)


def _of_callable(name: str, call: TransformCallable) -> _Transform:
    def transform(view: View) -> bytes | None:
        try:
            # Own copies: what one transform does to an event must not be seen by the next.
            given = cast("object", call(View(view.event).sent | {"adjourn": view.facts}))
        except ShapingFailed:
            raise
        except Exception as error:
            fact = f"the transform {name!r} raised {type(error).__name__}: {error}"
            raise ShapingFailed(f"{fact[:300]}; mend it, then send the event again") from error
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise ShapingFailed(f"the transform {name!r} gave a {type(given).__name__}; return a mapping, or None")
        return _finished(dict(cast("Mapping[str, object]", given)), view)

    return transform


def _finished(fields: dict[str, object], view: View) -> bytes:
    try:
        _check_amounts(fields)
        return _encode(_identified(fields, view))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ShapingFailed(f"what the transform gives cannot be written as JSON: {error}; use JSON's types") from error


def _identified(fields: dict[str, object], view: View) -> dict[str, object]:
    given = fields.get("session")
    if given is not None and not isinstance(given, dict):
        raise ShapingFailed("the transform gives a `session` that is no object; give that field another name")
    session = cast("dict[str, object]", given or {})
    session_id = view.identity.session.session_id
    _same("session.session_id", session.get("session_id"), session_id)
    carried: dict[str, object] = {
        "event_id": view.identity.event_id,
        "event_type": view.sent.get("event_type") or "session.completed",
    }
    if view.sent.get("amends") is not None:
        carried["amends"] = view.sent["amends"]
    for name, value in carried.items():
        _same(name, fields.get(name), value)
    return fields | carried | {"session": session | {"session_id": session_id}}


def _same(path: str, given: object, sent: object) -> None:
    if given is not None and given != sent:
        raise ShapingFailed(
            f"the transform changes {path}, by which receivers tell events apart; leave it out, and it is carried along"
        )


def _check_amounts(value: object, name: str = "") -> None:
    """No money through floats, and no number that JSON lacks."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ShapingFailed(f"the transform gives {value} as {name!r}, which JSON cannot hold; test the divisor")
        if name.endswith("_usd"):
            raise ShapingFailed(
                f"the transform gives {name!r} as a floating-point number, which cannot hold money; "
                "compute with adjourn.cost_nanousd and give usd(…) of the result"
            )
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            _check_amounts(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in cast("list[object]", value):
            _check_amounts(item, name)
