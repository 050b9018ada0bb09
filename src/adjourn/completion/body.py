"""One event's body as bytes, before any rule of the schema: bounded in size and depth, UTF-8, and the same for every
reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

import msgspec

from adjourn.completion.explain import Refused, explain_malformed, explain_own, explain_type
from adjourn.events import STATUS_CHANGED, decode_completion, event_type_of

T = TypeVar("T")

BODY_BYTES_MAX = 256 * 1024
DEPTH_MAX = 64

_BRACKETS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[567]")


def read(body: bytes, decode: Callable[[bytes], T]) -> T:
    """Decode, and refuse what the decoder lets through: it does not look inside fields that it does not know."""
    if len(body) > BODY_BYTES_MAX:
        raise Refused(
            "body_too_large",
            "",
            f"the event is {len(body)} bytes; {BODY_BYTES_MAX} is the most",
            "shorten outcome.final_message or move the bulk elsewhere and send a reference",
        )
    try:
        event = decode(body)
    except RecursionError:
        _refuse_depth()
    except msgspec.ValidationError as error:
        own = decode is decode_completion and event_type_of(body) == STATUS_CHANGED
        raise (explain_own() if own else explain_type(str(error))) from None
    except (ValueError, ArithmeticError) as error:  # malformed JSON, invalid UTF-8, numbers that Decimal cannot hold
        raise explain_malformed(body, error) from None
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise explain_malformed(body, error) from None
    if (b"[" in body or body.count(b"{") > DEPTH_MAX) and _too_deep(body):
        _refuse_depth()
    # An escaped letter may spell a key that a plain search does not see.
    if body.count(b'"event_id"') > 1 or (b"\\" in body and _ESCAPED_LETTER.search(body)):
        _refuse_repeated_event_id(body)
    return event


def _too_deep(body: bytes) -> bool:
    if body.count(b"{") + body.count(b"[") <= DEPTH_MAX:
        return False
    depth = 0
    for match in _BRACKETS.finditer(body):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif token in (b"}", b"]"):
            depth -= 1
    return False


def _refuse_depth() -> NoReturn:
    raise Refused("body_too_deep", "", f"the event nests deeper than {DEPTH_MAX} levels", "flatten it")


def _refuse_repeated_event_id(body: bytes) -> None:
    """Readers differ in which of two equal keys they take; an id must not depend on the reader."""
    outermost: list[tuple[str, object]] = []

    def keep(pairs: list[tuple[str, object]]) -> None:
        nonlocal outermost
        outermost = pairs  # the outermost object is finished last

    json.loads(body, parse_int=str, parse_float=str, object_pairs_hook=keep)
    if sum(key == "event_id" for key, _ in outermost) > 1:
        raise Refused("event_id_repeated", "event_id", "event_id is there more than once", "send it once")
