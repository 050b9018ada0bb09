"""Why a body cannot be read as an event, in words that help its sender: path, fact and remedy."""

from __future__ import annotations

import re
from typing import Final, get_args

from adjourn.events import BEACON_PREFIX, EventType, Modality, OutcomeStatus, SessionType, Transport

_TEXT_LENGTH_MAX = 300
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "event_type": get_args(EventType),
    "session.session_type": get_args(SessionType),
    "session.input_modality": get_args(Modality),
    "session.transport": get_args(Transport),
    "outcome.status": get_args(OutcomeStatus),
}


class Refused(Exception):
    """One event breaks one rule. Caught where the batch is prepared; never leaves it."""

    def __init__(self, code: str, path: str, fact: str, remedy: str) -> None:
        super().__init__(code)
        self.code = code
        self.path = path
        self.fact = fact
        self.remedy = remedy


def explain_reserved() -> Refused:
    """Or whoever reads a page could claim its id first, and keep the event out."""
    return Refused(
        "id_reserved",
        "event_id",
        f"event_id begins with {BEACON_PREFIX!r}, as only ids of browsers' events do",
        "give the event an id of another form",
    )


def explain_own() -> Refused:
    """Or anyone who may send completions could make up what became of a hosted session."""
    return Refused(
        "event_type_reserved",
        "event_type",
        "event_type is session.status_changed, which Adjourn itself writes when a session that it hosts changes",
        "send session.completed when a session has ended, or session.amended to correct that",
    )


def explain_type(message: str) -> Refused:
    """From msgspec's words, such as "Expected `int | null`, got `str` - at `$.usage.input_tokens`"."""
    fact, _, place = message.rpartition(" - at `$") if " - at `$" in message else (message, "", "")
    path = place.rstrip("`").removeprefix(".")
    if fact.startswith("Object missing required field"):
        field = fact.split("`")[1]
        path = f"{path}.{field}" if path else field
        return Refused(
            "field_missing", path, f"{path} is missing", "add it: session.session_id is all that must be there"
        )
    path = _printable(path)
    fact = _printable(fact[:1].lower() + fact[1:])
    if not path:
        return Refused(
            "type_invalid", "", f"the event is not a JSON object: {fact}", "send one JSON object for an event"
        )
    code = "type_invalid" if ", got `" in fact else "value_invalid"
    return Refused(code, path, f"{path}: {fact}", _remedy(path, fact))


def explain_malformed(body: bytes, error: Exception) -> Refused:
    """A body that is not JSON in UTF-8."""
    if not body:
        return Refused("json_malformed", "", "the event is empty", "send one JSON object for an event")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return Refused("encoding_invalid", "", "the event begins with a byte order mark", "send UTF-8 without one")
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        fact = f"the event is not UTF-8: byte {wrong.start} is 0x{body[wrong.start]:02x}"
        return Refused("encoding_invalid", "", fact, "encode it as UTF-8")
    if _LONE_SURROGATE.search(body):
        fact = "the event holds half of a surrogate pair, which is not a character"
        return Refused("encoding_invalid", "", fact, "cut texts between characters, not inside one")
    return Refused(
        "json_malformed", "", f"the event is not JSON: {_printable(str(error))}", "send one JSON object (RFC 8259)"
    )


def _remedy(path: str, fact: str) -> str:
    if path in _CHOICES:
        return f"send one of {', '.join(_CHOICES[path])}"
    if "datetime" in fact or "RFC3339" in fact:
        return "send RFC 3339 with an offset, as in 2025-12-21T10:30:45.123Z"
    if "`decimal" in fact or "decimal string" in fact:
        return "send decimal USD as a number, as in 0.0428"
    if "length >=" in fact:
        return "leave the field out or give it a value"
    if "length <=" in fact:
        return "shorten it"
    if "`int` >=" in fact:
        return "send 0 or more, or leave the field out"
    return "send the type that docs/reference/events.md names, or leave the field out"


def _printable(text: str) -> str:
    """Bounded, and safe for any store and terminal: the text may quote what a hostile sender wrote."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_TEXT_LENGTH_MAX])
