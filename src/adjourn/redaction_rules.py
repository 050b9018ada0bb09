"""Redaction rules as settings state them: `mask email`, `hash user.user_id`, `drop phone in outcome.final_message`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, cast, get_args

import msgspec

from adjourn.events import Completion, MetadataPart, OutcomePart, SessionPart, UsagePart, UserPart

Action = Literal["drop", "mask", "hash"]
Pattern = Literal["email", "phone", "card", "ip", "secret_key"]

ACTIONS: Final[tuple[str, ...]] = get_args(Action)
PATTERNS: Final[tuple[str, ...]] = get_args(Pattern)

_RULE = re.compile(r"(\S+)\s+(\S+)(?:\s+in\s+(\S+))?")
_PATH = re.compile(r"(?:[^.\s*]+|\*)(?:\.(?:[^.\s*]+|\*))*")
_PARTS = {
    "session": SessionPart,
    "user": UserPart,
    "usage": UsagePart,
    "outcome": OutcomePart,
    "metadata": MetadataPart,
}
_IDENTITY = {("event_type",), ("event_id",), ("amends",), ("session",), ("session", "session_id")}
_MARK = {("metadata",), ("metadata", "source")}
_TEXT = {
    ("user", "user_id"),
    ("user", "organization_id"),
    ("user", "tier"),
    ("outcome", "final_message"),
    ("outcome", "error_code"),
    ("outcome", "final_state"),
    ("metadata", "client_version"),
    ("metadata", "source_ip"),
}
"""Fields of the schema that may hold any text."""


class Rule(msgspec.Struct, frozen=True):
    """`path` names a field, `*` any name or item; empty: all free text. Without a `pattern`, the whole field."""

    action: Action
    path: tuple[str, ...] = ()
    pattern: Pattern | None = None


def parse_rule(text: str) -> Rule:
    """Raises ValueError: fact and remedy."""
    match = _RULE.fullmatch(text.strip())
    if match is None or match[1] not in ACTIONS:
        raise ValueError(
            f"{text[:80]!r} is no redaction rule; write ACTION WHAT, as in 'mask email', 'hash user.user_id' or "
            f"'drop phone in outcome.final_message'; actions are {', '.join(ACTIONS)}"
        )
    action, what, where = cast("Action", match[1]), match[2], match[3]
    if what in PATTERNS:
        return Rule(action, () if where is None else _path(where), cast("Pattern", what))
    if where is not None:
        raise ValueError(f"{what[:80]!r} is no pattern; give one of {', '.join(PATTERNS)} before 'in'")
    path = _path(what)
    if any(_covers(path, mark) for mark in _MARK):
        raise ValueError(
            f"{what} holds the source, by which a browser's claim is known and not priced; name other fields of "
            "metadata, as in 'drop metadata.source_ip'"
        )
    if action != "drop" and not _may_be_text(path):
        raise ValueError(f"{what} holds no free text, so that it can only be dropped; write 'drop {what}'")
    return Rule(action, path)


def _path(text: str) -> tuple[str, ...]:
    """`event.` may stand before a field, as in expressions: one that is called like a pattern is named so."""
    if _PATH.fullmatch(text) is None:
        raise ValueError(f"{text[:80]!r} is no path; write names with dots between them, as in metadata.custom_tags.*")
    path = tuple(text.removeprefix("event.").split("."))
    if any(_covers(path, fixed) for fixed in _IDENTITY):
        raise ValueError(
            f"{text} identifies the event and may not be redacted; let the sender use ids that say nothing"
        )
    return path


def _covers(path: tuple[str, ...], fixed: tuple[str, ...]) -> bool:
    return len(path) == len(fixed) and all(part in ("*", name) for part, name in zip(path, fixed, strict=True))


def _may_be_text(path: Sequence[str]) -> bool:
    """Whether text may stand there: everywhere, but for what the schema types otherwise."""
    section, field, deeper = path[0], path[1:2], path[2:]
    if "*" in (section, *field):
        return False
    part = _PARTS.get(section)
    if part is None:
        return section not in Completion.__struct_fields__
    return bool(deeper) or tuple(path) in _TEXT or (bool(field) and field[0] not in part.__struct_fields__)
