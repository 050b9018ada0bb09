"""One setting: its name, its type with bounds, its default; how it is checked, described and shown.

A section is a frozen Struct whose fields are settings. Constructors of Structs check nothing, so `fit` does."""

from __future__ import annotations

import functools
import math
import re
import reprlib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, Union, cast, get_args, get_origin

import msgspec
from msgspec import Meta

from adjourn.secret import Secret, mask, mask_header
from adjourn.typed import convert

# The upper bound is that of PostgreSQL's timeouts, and far above any value that makes sense.
Count = Annotated[int, Meta(ge=1, le=2_147_483_647, description="a whole number from 1 to 2147483647")]
Days = Annotated[float, Meta(gt=0, le=1e6, description="a number above 0, at most 1000000")]
Rate = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
# Paths and hosts: no system call takes NUL or half a surrogate pair, and a line break is a slip of whoever wrote it.
_ONE_LINE = r"\A[^\x00-\x1f\x7f\ud800-\udfff]*\Z"
Text = Annotated[str, Meta(min_length=1, pattern=_ONE_LINE, description="text that is not empty, on one line")]
Line = Annotated[str, Meta(pattern=_ONE_LINE, description="text on one line")]
SecretText = str | Secret
Headers = dict[str, str | Secret]
Secrets = tuple[str | Secret, ...]

_SECRET_FORMS = "text, ${NAME}, {env: NAME} or {file: PATH}"
_WORDS: dict[object, str] = {
    bool: "true or false",
    str: "text (in quotes if it looks like a number or a date)",
    type(None): "null",
    SecretText: _SECRET_FORMS,
    Headers: f"a mapping of names to {_SECRET_FORMS}",
    Secrets: f"a list, each of {_SECRET_FORMS}",
    tuple[str, ...]: "a list of text, as in [a, b]",
}


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one setting: `text` is fact and remedy, and names the path itself."""

    path: str
    text: str


class Leaf(msgspec.Struct, frozen=True):
    """One field of a section: a value, or what holds values (a section, a list of sections)."""

    name: str
    type: object
    default: object

    @property
    def secret(self) -> bool:
        return self.type == SecretText

    @property
    def plain(self) -> bool:
        """Whether its value is text as it stands, which needs no parsing."""
        return self.type in (str, Text, Line) or get_origin(self.type) is Literal

    @property
    def section(self) -> type[Section] | None:
        """The section that this field holds, or holds a list of."""
        kind = get_args(self.type)[0] if get_origin(self.type) is tuple else self.type
        return kind if isinstance(kind, type) and issubclass(kind, Section) else None

    def fit(self, value: object) -> object:
        """The value as this setting's type, lists made tuples. Raises ValueError."""
        if self.secret:
            ok = isinstance(value, (str, Secret))
        elif self.type == Headers:
            headers = cast("dict[object, object]", value) if isinstance(value, dict) else {None: None}
            ok = all(isinstance(k, str) and isinstance(v, (str, Secret)) for k, v in headers.items())
        elif self.type == Secrets:
            value = tuple(cast("Iterable[object]", value)) if isinstance(value, (list, tuple)) else (None,)
            ok = all(isinstance(one, (str, Secret)) for one in value)
        elif self.section is not None:
            items = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
            ok = isinstance(value, tuple) is (get_origin(self.type) is tuple)
            ok = ok and all(isinstance(item, self.section) for item in items)
        elif isinstance(value, float) and not math.isfinite(value):  # NaN passes every bound
            ok = False
        else:
            return convert(value, cast("type[object]", self.type))
        if not ok:
            raise ValueError
        return cast("object", value)

    def misfit(self, path: str, value: object) -> Problem:
        """Never shows a value that may be secret: only what kind of value it is."""
        if self.type == Headers and isinstance(value, dict):
            headers = cast("dict[object, object]", value)
            name, bad = next(
                (k, v) for k, v in headers.items() if not (isinstance(k, str) and isinstance(v, (str, Secret)))
            )
            where = f"{path}.{named(name) if isinstance(name, str) else short(name)}"
            return Problem(
                where, f"{where} is {kind_of(bad)}; give {_SECRET_FORMS} (in quotes if it looks like a number)"
            )
        hidden = self.secret or self.type == Headers or self.type == Secrets or self.section is not None
        fact = kind_of(value) if hidden else short(value)
        optional = self.default is not msgspec.NODEFAULT and self.section is None
        default = f", or leave it out for {short(self.default)}" if optional else ""
        return Problem(path, f"{path} is {fact}; give {describe(self.type)}{default}")

    def masked(self, value: object) -> object:
        if isinstance(value, Secret):
            return str(value)
        if self.secret and isinstance(value, str):
            return mask(value)
        if self.type == Headers and isinstance(value, dict):
            return {k: mask_header(k, v) for k, v in cast("Headers", value).items()}
        if self.type == Secrets and isinstance(value, tuple):
            return tuple(str(one) if isinstance(one, Secret) else "***" for one in cast("Secrets", value))
        return value


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def masked(self) -> dict[str, object]:
        """The fields with their values, nothing secret among them."""
        return {name: leaf.masked(getattr(self, name)) for name, leaf in leaves(type(self)).items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.masked().items())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return list(self.masked().items())  # Struct has one of its own, which masks nothing


@functools.cache
def leaves(section: type[Section]) -> Mapping[str, Leaf]:
    """The fields of a section, by name, in the order of their declaration."""
    found: dict[str, Leaf] = {}
    for field in msgspec.structs.fields(section):
        default: object = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        found[field.name] = Leaf(name=field.name, type=field.type, default=default)
    return found


def given(section: Section, field: str) -> bool:
    return getattr(section, field) != leaves(type(section))[field].default


def misfits(section: Section, path: str = "") -> Iterator[Problem]:
    """Every value within that is not of its setting's type, or out of its bounds."""
    for name, leaf in leaves(type(section)).items():
        value: object = getattr(section, name)
        try:
            leaf.fit(value)
        except ValueError:  # msgspec.ValidationError is one
            yield leaf.misfit(path + name, value)
            continue
        if isinstance(value, Section):
            yield from misfits(value, f"{path}{name}.")
        elif leaf.section is not None:
            for i, item in enumerate(cast("tuple[Section, ...]", value)):
                yield from misfits(item, f"{path}{name}[{i}].")


_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = 60


def short(value: object) -> str:
    """A value as a message shows it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    try:
        # Masked, since whoever gives a URL to the wrong setting may have given a password; first, since a cut hides it.
        shown = mask(value) if isinstance(value, str) else value
        return mask(_shorten.repr(list(cast("tuple[object, ...]", shown)) if isinstance(shown, tuple) else shown))
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a number of thousands of digits"


def named(key: str) -> str:
    """A key or a path as a message shows it: as far as it can be a name. What follows may be a value, even a secret:
    `{url:postgresql://…}`, with a space forgotten, is one key."""
    name = _NAME.match(key)
    return key if name is None or name[0] == key else f"{name[0]}…"


_NAME = re.compile(r"[\w.\[\]-]{0,80}")


def kind_of(value: object) -> str:
    """What a message says of a value that it must not show."""
    return "null" if value is None else f"a value of type {type(value).__name__}"


def describe(kind: object) -> str:
    """What may be given: `describe(Count)` is `a whole number from 1 to 2147483647`."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return str(next(meta.description for meta in args if isinstance(meta, Meta)))
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in args)
    return "a list of mappings" if origin is tuple else "a mapping of settings"
