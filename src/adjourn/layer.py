"""A layer: what one source of settings gives, by native dotted name. Here aliases are resolved, and unknown names are
refused with a suggestion; what the values are worth is judged once all layers are merged, in `configfile`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import cast, get_args

import msgspec

from adjourn.setting import Leaf, Problem, Section, describe, kind_of, leaves, named, short
from adjourn.settings import DestinationSettings, Draft, RunnerSettings, TenantSettings

WRAPPER = "session_completion_runtime"  # a whole configuration may stand under this key
ALIASES = {
    "buffer_size": "capture.buffer_size",
    "flush_interval_ms": "capture.flush_interval_ms",
    "retry_attempts": "routing.retry_attempts",
    "retry_delay_ms": "routing.retry_delay_ms",
    "destinations": "routing.destinations",
    "validation.deduplication_window_sec": "validation.dedupe_window_s",
}


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that is a list of mappings, each with a `type`, or else a `name`: whose settings they are, and how else
    they are written.

    `aliases` are of their settings, `type_aliases` of the types; `implied` is the type of what has a certain setting
    and no type; under `nested`, settings may stand one level deeper."""

    section: type[Section]
    aliases: Mapping[str, str] = {}
    type_aliases: Mapping[str, str] = {}
    implied: Mapping[str, str] = {}
    nested: str = ""

    @property
    def settings(self) -> Mapping[str, Leaf]:
        return leaves(self.section)

    @property
    def key(self) -> str:
        """The setting that each of them needs."""
        return "type" if "type" in self.settings else "name"

    @property
    def types(self) -> tuple[str, ...]:
        return get_args(self.settings["type"].type)


LISTS: Mapping[str, Listing] = {
    "routing.destinations": Listing(
        section=DestinationSettings,
        aliases={"endpoint": "url"},
        type_aliases={"log": "logfile"},
        implied={"url": "webhook"},
        nested="config",
    ),
    "hosting.runners": Listing(section=RunnerSettings),
    "hosting.tenants": Listing(section=TenantSettings),
}


class Given(msgspec.Struct, frozen=True):
    """A value as it was given, and where: `adjourn.yaml:12`, `ADJOURN_SERVER__PORT`."""

    value: object
    origin: str


class Layer:
    """`values` holds the settings that one source gives; `lists` those that are lists, a mapping for each item."""

    def __init__(self, source: str, origins: Mapping[str, str] | None = None) -> None:
        self.source = source
        self.values: dict[str, Given] = {}
        self.lists: dict[str, list[dict[str, Given]]] = {}
        self.problems: list[Problem] = []
        self._origins = origins or {}

    def origin(self, written: str) -> str:
        """Where a path was given, or the nearest of what it stands in."""
        while written and written not in self._origins:
            written = written[: max(written.rfind("."), written.rfind("["), 0)]
        return self._origins.get(written, self.source)

    def refuse(self, written: str, text: str) -> None:
        self.problems.append(Problem(named(written), f"{text} ({self.origin(written)})"))

    def read(self, raw: object) -> None:
        """Take in a whole nested mapping, as files have it."""
        for key, value in self._items(raw, ""):
            if key == WRAPPER:
                for inner, it in self._items(value, WRAPPER):
                    self._read_top(inner, it, f"{WRAPPER}.")
            else:
                self._read_top(key, value, "")

    def _read_top(self, key: str, value: object, wrapper: str) -> None:
        if key in section_names():
            for inner, it in self._items(value, wrapper + key):
                self.give(f"{key}.{inner}", it, wrapper)
        else:
            self.give(key, value, wrapper)

    def give(self, name: str, value: object, wrapper: str = "") -> None:
        """Take in one setting by its dotted name, or an alias of it."""
        native, written = ALIASES.get(name, name), wrapper + name
        if name in section_names():
            names = ", ".join(f"{name}.{inner}" for inner in names_in(name))
            self.refuse(written, f"{name} is a section; give its settings one by one: {names}")
        elif native not in settings_by_name():
            section, key = _split(name)
            known = names_in(section) or names_in("")
            self._unknown(wrapper + section, key, written, [n for n in known if not (wrapper and n == WRAPPER)])
        elif native in LISTS:
            earlier, self.lists[native] = self.lists.get(native), self._read_list(LISTS[native], value, written)
            if earlier is not None and _bare(earlier) != _bare(self.lists[native]):
                self.refuse(written, f"{written} is given twice, with different values; keep one of them")
        else:
            self._put(self.values, native, value, written)

    def _put(self, into: dict[str, Given], name: str, value: object, written: str) -> None:
        if name not in into:
            into[name] = Given(value, self.origin(written))
        elif into[name].value != value:
            fact = f"{written} is given before under another name, with another value ({into[name].origin})"
            self.refuse(written, f"{fact}; keep one of them")

    def _read_list(self, listing: Listing, value: object, written: str) -> list[dict[str, Given]]:
        if not isinstance(value, (list, tuple)):
            what = written.rpartition(".")[2].removesuffix("s")
            self.refuse(written, f"{written} is {kind_of(value)}; give a list of mappings, one for each {what}")
            return []
        items = enumerate(cast("list[object]", value))
        return [self._read_item(listing, item, f"{written}[{i}]") for i, item in items]

    def _read_item(self, listing: Listing, value: object, written: str) -> dict[str, Given]:
        found: dict[str, Given] = {}
        if not isinstance(value, Mapping):
            self.refuse(written, f"{written} is {kind_of(value)}; give a mapping with a {listing.key}")
            return found
        for key, it, parent in self._flattened(listing.nested, cast("Mapping[object, object]", value), written):
            native, path = listing.aliases.get(key, key), f"{parent}.{key}"
            if native not in listing.settings:
                self._unknown(parent, key, path, [*listing.settings, *listing.aliases])
            elif native == "type" and isinstance(it, str):
                self._put(found, native, listing.type_aliases.get(it, it), path)
            else:
                self._put(found, native, it, path)
        if listing.key not in found:
            self._imply(listing, found, written)
        return found

    def _imply(self, listing: Listing, found: dict[str, Given], written: str) -> None:
        for name, kind in listing.implied.items():
            if name in found:
                found["type"] = Given(kind, found[name].origin)
                return
        key = listing.key
        options = [describe(listing.settings[key].type), *(f"a {n} for a {k}" for n, k in listing.implied.items())]
        self.refuse(written, f"{written}.{key} is missing; give {', or '.join(options)}")

    def _flattened(
        self, nested: str, value: Mapping[object, object], written: str
    ) -> Iterator[tuple[str, object, str]]:
        for key, it in self._items(value, written):
            if nested and key == nested:
                inner = f"{written}.{nested}"
                yield from ((k, v, inner) for k, v in self._items(it, inner))
            else:
                yield key, it, written

    def _items(self, value: object, written: str) -> Iterator[tuple[str, object]]:
        """The entries of a mapping; null is an empty one, anything else a problem."""
        if value is None:
            return
        if not isinstance(value, Mapping):
            place = written or "the top level"
            self.refuse(written, f"{place} is {kind_of(value)}; give a mapping: one `name: value` on each line")
            return
        for key, it in cast("Mapping[object, object]", value).items():
            if isinstance(key, str):
                yield key, it
            else:
                place = written or "the top level"
                self.refuse(written, f"the key {short(key)} at {place} is not text; give the name of a setting")

    def _unknown(self, parent: str, key: str, written: str, known: Iterable[str]) -> None:
        place = f" at {named(parent.removesuffix('.'))}" if parent else ""
        names, shown = list(known), named(key)
        meant = suggest(shown.removesuffix("…"), names)
        remedy = f"did you mean '{meant}'?" if meant else f"known here: {', '.join(names)}"
        self.refuse(written, f"unknown setting '{shown}'{place}; {remedy}")


def _split(name: str) -> tuple[str, str]:
    """(section, key). Dots belong to the key in a section that is known, and where they stand in no name."""
    section, _, key = name.partition(".")
    if section in section_names():
        return section, key
    section, _, key = name.rpartition(".")
    return (section, key) if named(name) == name else ("", name)


def _bare(items: list[dict[str, Given]]) -> list[dict[str, object]]:
    return [{name: given.value for name, given in item.items()} for item in items]


@functools.cache
def settings_by_name() -> Mapping[str, Leaf]:
    """`server.port` → its Leaf. A list is one setting here; `LISTS` has those of each item."""
    found: dict[str, Leaf] = {}
    for name, leaf in leaves(Draft).items():
        if leaf.section is None:
            found[name] = leaf
        else:
            found |= {f"{name}.{inner}": it for inner, it in leaves(leaf.section).items()}
    return found


@functools.cache
def section_names() -> tuple[str, ...]:
    return tuple(name for name, leaf in leaves(Draft).items() if leaf.section is not None)


def names_in(section: str) -> list[str]:
    """The names that may stand in a section, or with "" at the top; aliases last."""
    everything = [*section_names(), *settings_by_name(), *ALIASES, WRAPPER]
    prefix = f"{section}." if section else ""
    names = [name.removeprefix(prefix) for name in everything if name.startswith(prefix)]
    return [name for name in names if "." not in name]


def suggest(word: str, names: list[str]) -> str:
    """The name that was meant, or "". `bufferSize` means `buffer_size`; a name of another section is given in full."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).replace("-", "_").lower()
    if snake in names:
        return snake
    import difflib  # here, since only mistakes need it

    scores = {name: difflib.SequenceMatcher(a=snake, b=name).ratio() for name in names}
    best = max(names, key=scores.__getitem__, default="")  # of equals the first declared
    if best and scores[best] >= 0.6:
        return best
    return next((full for full in settings_by_name() if full.endswith(f".{snake}")), "")
