"""Redaction: what must not be kept is taken out of an event before anything is made of it or written.

It works on the JSON text: values that no rule touches stay as they were sent, and the same body always becomes the same
body, so that repetitions are still recognized. What was redacted once stays as it is when it passes again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import msgspec

from adjourn.completion.redact_patterns import Replace, replace_of
from adjourn.events import Completion, MetadataPart, OutcomePart, SessionPart, UsagePart, UserPart
from adjourn.redaction_rules import Action, Rule

Redact = Callable[[bytes], bytes]
"""One event's JSON → the same without what the rules name. Raises Unreadable."""

MASK: Final = "***"
_HASHED: Final = re.compile(r"hash:[a-p]{24}")
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_LETTERS: Final = bytes.maketrans(b"0123456789abcdef", b"abcdefghijklmnop")
_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items_of = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.encode

_TEXTS: Final = {"final_message", "final_state", "error_code", "custom_tags"}
_SECTIONS: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(part.__struct_fields__) - _TEXTS
    for name, part in {
        "session": SessionPart,
        "user": UserPart,
        "usage": UsagePart,
        "outcome": OutcomePart,
        "metadata": MetadataPart,
    }.items()
}
"""The schema's own ids, times, names and numbers, in which patterns look only where a rule says `in`."""
_HEAD: Final = frozenset(Completion.__struct_fields__) - _SECTIONS.keys()


class Unreadable(Exception):
    """The body is not JSON that could be searched; whoever validates it says why."""


class _Node:
    """What is to be done at one place of an event, and below it."""

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.actions: list[Action] = []
        self.patterns: list[Replace] = []

    def at(self, path: Sequence[str]) -> _Node:
        node = self
        for name in path:
            node = node.below.setdefault(name, _Node())
        return node


def redactor_of(rules: Sequence[Rule], secret: bytes) -> Callable[[str], Redact] | None:
    """For a tenant, its redaction: hashes are keyed with the installation's secret and the tenant. None: no rules."""
    if not rules:
        return None

    @functools.lru_cache(maxsize=1024)
    def redact_for(tenant: str) -> Redact:
        digest = _digest_for(secret, tenant)
        root, free = _Node(), list[Replace]()
        for rule in rules:
            if rule.pattern is None:
                root.at(rule.path).actions.append(rule.action)
            else:
                replace = replace_of(rule.pattern, rule.action, digest)
                (root.at(rule.path).patterns if rule.path else free).append(replace)
        return lambda body: _redact(body, root, free, digest)

    return redact_for


def _digest_for(secret: bytes, tenant: str) -> Callable[[str], str]:
    name = tenant.encode()
    keyed = hashlib.blake2b(
        len(name).to_bytes(4, "big") + name, digest_size=12, key=secret, person=b"adjourn.redact"
    ).copy

    def digest(text: str) -> str:
        hasher = keyed()
        hasher.update(text.encode("utf-8", "surrogatepass"))
        # Letters alone: no pattern finds a card's or a telephone number in them.
        return hasher.hexdigest().encode().translate(_LETTERS).decode()

    return digest


def _redact(body: bytes, root: _Node, free: Sequence[Replace], digest: Callable[[str], str]) -> bytes:
    try:
        fields = _fields_of(body)
        if "specversion" in fields and "session" not in fields:
            return _in_envelope(fields, root, free, digest)
        return _encode(_event(fields, root, free, digest))
    except (ValueError, RecursionError) as error:
        raise Unreadable from error


def _in_envelope(
    fields: dict[str, msgspec.Raw], root: _Node, free: Sequence[Replace], digest: Callable[[str], str]
) -> bytes:
    """A CloudEvent that was refused as one. The event is its data, if it is one; the rest is searched all the same."""
    data = fields.pop("data", None)
    fields = _event(fields, root, free, digest)
    if data is not None:
        fields["data"] = _in_data(data, root, free, digest)
    return _encode(fields)


def _in_data(data: msgspec.Raw, root: _Node, free: Sequence[Replace], digest: Callable[[str], str]) -> msgspec.Raw:
    kind = bytes(data)[:1]
    if kind == b"{":
        return msgspec.Raw(_encode(_event(_fields_of(data), root, free, digest)))
    if kind == b"[":
        return msgspec.Raw(_encode([_in_data(item, root, free, digest) for item in _items_of(data)]))
    return _replaced(data, free)


def _event(
    fields: dict[str, msgspec.Raw], root: _Node, free: Sequence[Replace], digest: Callable[[str], str]
) -> dict[str, msgspec.Raw]:
    # Always written anew: of keys that stand twice, readers see the last one, and the first must not stay behind.
    fields = _visit_fields(fields, root, digest)
    if not free:
        return fields
    for name, raw in fields.items():
        if name in _HEAD:
            continue
        own = _SECTIONS.get(name)
        if own is None or bytes(raw)[:1] != b"{":
            fields[name] = _replaced(raw, free)
        else:
            inner = _fields_of(raw)
            for key, value in inner.items():
                if key not in own:
                    inner[key] = _replaced(value, free)
            fields[name] = msgspec.Raw(_encode(inner))
    return fields


def _visit(raw: msgspec.Raw, node: _Node, digest: Callable[[str], str]) -> msgspec.Raw | None:
    """The value without what the rules name; None: it is to be left out."""
    for action in node.actions:
        if action == "drop":
            return None
        raw = _whole(raw, action, digest)
    if node.patterns:
        raw = _replaced(raw, node.patterns)
    if node.below:
        kind = bytes(raw)[:1]
        if kind == b"{":
            raw = msgspec.Raw(_encode(_visit_fields(_fields_of(raw), node, digest)))
        elif kind == b"[":
            each = node.below.get("*")
            items = [_visit(item, each, digest) if each else _in_item(item, node, digest) for item in _items_of(raw)]
            raw = msgspec.Raw(_encode([item for item in items if item is not None]))
    return raw


def _in_item(raw: msgspec.Raw, node: _Node, digest: Callable[[str], str]) -> msgspec.Raw:
    """Of a list where a rule names fields: in quarantine may be one where the schema has an object."""
    if bytes(raw)[:1] != b"{":
        return raw
    return msgspec.Raw(_encode(_visit_fields(_fields_of(raw), node, digest)))


def _visit_fields(fields: dict[str, msgspec.Raw], node: _Node, digest: Callable[[str], str]) -> dict[str, msgspec.Raw]:
    each = node.below.get("*")
    if each is None and len(node.below) < len(fields):
        for name, below in node.below.items():
            if name in fields:
                _put(fields, name, _visit(fields[name], below, digest))
        return fields
    for name in list(fields):
        for below in (node.below.get(name), each):
            if below is not None and name in fields:
                _put(fields, name, _visit(fields[name], below, digest))
    return fields


def _put(fields: dict[str, msgspec.Raw], name: str, value: msgspec.Raw | None) -> None:
    if value is None:
        del fields[name]
    else:
        fields[name] = value


def _whole(raw: msgspec.Raw, action: Action, digest: Callable[[str], str]) -> msgspec.Raw:
    text = bytes(raw)
    if text == b"null":
        return raw
    if action == "mask":
        return msgspec.Raw(_encode(MASK))
    value = _text_of(text) if text[:1] == b'"' else msgspec.json.format(text, indent=-1).decode()
    return raw if _HASHED.fullmatch(value) else msgspec.Raw(_encode(f"hash:{digest(value)}"))


def _replaced(raw: msgspec.Raw, patterns: Sequence[Replace]) -> msgspec.Raw:
    """Every text in a value, names of fields included, with what the patterns find replaced."""
    whole = bytes(raw)

    def replace(match: re.Match[bytes]) -> bytes:
        literal = match[0]
        if len(literal) < 5:  # the shortest thing that any pattern finds is longer
            return literal
        text = found = _text_of(literal)
        for pattern in patterns:
            text = pattern(text)
        return literal if text == found else _written(text)

    changed = _STRING.sub(replace, whole)
    return raw if changed == whole else msgspec.Raw(changed)


def _text_of(literal: bytes) -> str:
    if b"\\" not in literal:
        return literal[1:-1].decode()
    # Python's reader, which takes half surrogate pairs: they may stand in what the schema does not look into.
    return cast("str", json.loads(literal, strict=False))


def _written(text: str) -> bytes:
    try:
        return _encode(text)
    except UnicodeEncodeError:
        return json.dumps(text).encode()
