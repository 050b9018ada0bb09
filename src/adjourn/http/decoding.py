"""A request's JSON as a value of a type; and, in words, where it is none: the path, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import msgspec

from adjourn.errors import BodyInvalid
from adjourn.layer import suggest
from adjourn.typed import convert, decoder

if TYPE_CHECKING:
    from msgspec.inspect import Type

T = TypeVar("T")

REMEDY = "GET /openapi.json says what is expected"

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_STEP = re.compile(r"[^.\[\]]+|\[")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_NO_CHOICE = re.compile(r"Invalid (?:enum )?value '(.*)'", re.DOTALL)
_NUL = b"\\u0000"
_NUL_TEXT = _NUL.decode()
SHOWN_MAX = 100
"""Of what the sender wrote."""


@overload
def decode(body: bytes | str, kind: type[T]) -> T: ...
@overload
def decode(body: bytes | str, kind: UnionType) -> object: ...
def decode(body: bytes | str, kind: Any) -> Any:
    """`kind` is a type, or a union of tagged ones. No body is an empty object. Raises BodyInvalid."""
    try:
        value = decoder(kind).decode(body or b"{}")
    except RecursionError:
        raise BodyInvalid(f"the body nests too deep; {REMEDY}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refusal(str(error), kind) from None
    if (_NUL_TEXT if isinstance(body, str) else _NUL) in body and (path := _nul_in(value)) is not None:  # type: ignore[operator]  # text in text, bytes in bytes
        raise BodyInvalid(f"{path}: the text holds a NUL character, which no database keeps; take it out", path=path)
    return value


def _nul_in(value: object, path: str = "") -> str | None:
    """Where a text of its fields holds one. What may be any JSON is kept as bytes, which may."""
    if isinstance(value, str):
        return path if "\0" in value else None
    inner: Iterable[tuple[str, object]] = ()
    if isinstance(value, msgspec.Struct):
        inner = ((f"{path}.{name}" if path else name, getattr(value, name)) for name in value.__struct_fields__)
    elif isinstance(value, list | tuple):
        inner = ((f"{path}[{i}]", one) for i, one in enumerate(cast("Sequence[object]", value)))
    return next((found for where, one in inner if (found := _nul_in(one, where)) is not None), None)


def from_query(pairs: Iterable[tuple[str, str]], kind: type[T]) -> T:
    """Of an address's parameters; a field that holds several takes each that is given. Raises BodyInvalid."""
    several = {
        field.encode_name for one in _type_at(kind, "") for field in one.fields if hasattr(field.type, "item_type")
    }
    found: dict[str, object] = {}
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in several:
            found[name] = lists.setdefault(name, [])
            lists[name].append(value)
        elif name in found:
            raise BodyInvalid(f"{name}: it is given twice; give it once", path=name)
        else:
            found[name] = value
    try:
        return convert(found, kind, from_text=True)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), kind) from None


def _refusal(said: str, kind: Any) -> BodyInvalid:
    place = _PLACE.search(said)
    path = place[1] if place else ""
    fact, remedy = said[: place.start()] if place else said, REMEDY
    if unknown := _UNKNOWN.fullmatch(fact):
        name = unknown[1]
        fact, remedy = f"there is no field '{name[:SHOWN_MAX]}'", _near(name, _fields(_type_at(kind, path)))
        path = f"{path}.{name[:SHOWN_MAX]}" if path else name[:SHOWN_MAX]
    elif wrong := _NO_CHOICE.fullmatch(fact):
        words = _words(_type_at(kind, path))
        fact = f"{wrong[1][:SHOWN_MAX]!r} is none of {', '.join(words)}" if words else fact[: SHOWN_MAX + 30]
        remedy = _near(wrong[1], words)
    elif "; " in fact:  # said by a type's own check, remedy and all
        fact, _, remedy = fact.partition("; ")
    return BodyInvalid(f"{path}: {fact}; {remedy}" if path else f"{fact}; {remedy}", path=path)


def _near(word: str, known: list[str]) -> str:
    # `suggest` falls back on the names of settings, which are nothing here.
    meant = suggest(word[:SHOWN_MAX], known) if known else ""
    if meant in known:
        return f"did you mean '{meant}'?"
    return f"known are {', '.join(known)}" if known else REMEDY


# --- what a type has at a path ---------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _type_info(kind: Any) -> Type:
    from msgspec import inspect  # here, since only mistakes need it

    return inspect.type_info(kind)


def _type_at(kind: Any, path: str) -> list[Any]:
    """The types that may stand there; more than one in a union."""
    found = _plain(_type_info(kind))
    for step in _STEP.findall(path):
        following: list[Any] = []
        for one in found:
            if step == "[" or step == "...":
                inner = getattr(one, "item_type", None) or getattr(one, "value_type", None)
                following += _plain(inner) if inner is not None else []
            else:
                fields = getattr(one, "fields", ())
                following += [t for field in fields if field.encode_name == step for t in _plain(field.type)]
        if following:  # the `...` of a list or mapping comes after its bracket, and leads no further
            found = following
    return found


def _plain(one: Any) -> list[Any]:
    from msgspec import inspect

    if isinstance(one, inspect.UnionType):
        return [inner for each in one.types for inner in _plain(each)]
    if isinstance(one, inspect.Metadata):
        return _plain(one.type)
    return [one]


def _fields(types: list[Any]) -> list[str]:
    return list(dict.fromkeys(field.encode_name for one in types for field in getattr(one, "fields", ())))


def _words(types: list[Any]) -> list[str]:
    """Of enumerations; of tagged objects, their tags."""
    found = [str(value) for one in types for value in getattr(one, "values", ())]
    return found or [str(one.tag) for one in types if getattr(one, "tag", None) is not None]
