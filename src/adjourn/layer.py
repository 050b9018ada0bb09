"""A layer: what one source of settings gives, by native dotted name. Here aliases are resolved, and unknown names are
refused with a suggestion; what the values are worth is judged once all layers are merged, in `configfile`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import msgspec

from adjourn.setting import Leaf, Problem, describe, kind_of, leaves, named, short
from adjourn.settings import DestinationSettings, Draft

WRAPPER = "session_completion_runtime"  # a whole configuration may stand under this key
ALIASES = {
    "buffer_size": "capture.buffer_size",
    "flush_interval_ms": "capture.flush_interval_ms",
    "retry_attempts": "routing.retry_attempts",
    "retry_delay_ms": "routing.retry_delay_ms",
    "destinations": "routing.destinations",
    "validation.deduplication_window_sec": "validation.dedupe_window_s",
}
DESTINATION_ALIASES = {"endpoint": "url"}
TYPE_ALIASES = {"log": "logfile"}
NESTED = "config"  # what is particular to a destination may stand one level deeper
DESTINATIONS = "routing.destinations"


class Given(msgspec.Struct, frozen=True):
    """A value as it was given, and where: `adjourn.yaml:12`, `ADJOURN_SERVER__PORT`."""

    value: object
    origin: str


class Layer:
    """`values` holds the settings that one source gives, `destinations` a mapping for each, or None if it has none."""

    def __init__(self, source: str, origins: Mapping[str, str] | None = None) -> None:
        self.source = source
        self.values: dict[str, Given] = {}
        self.destinations: list[dict[str, Given]] | None = None
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
        elif native == DESTINATIONS:
            earlier, self.destinations = self.destinations, self._read_destinations(value, written)
            if earlier is not None and _bare(earlier) != _bare(self.destinations):
                self.refuse(written, f"{written} is given twice, with different values; keep one of them")
        else:
            self._put(self.values, native, value, written)

    def _put(self, into: dict[str, Given], name: str, value: object, written: str) -> None:
        if name not in into:
            into[name] = Given(value, self.origin(written))
        elif into[name].value != value:
            fact = f"{written} is given before under another name, with another value ({into[name].origin})"
            self.refuse(written, f"{fact}; keep one of them")

    def _read_destinations(self, value: object, written: str) -> list[dict[str, Given]]:
        if not isinstance(value, (list, tuple)):
            self.refuse(written, f"{written} is {kind_of(value)}; give a list of mappings, one for each destination")
            return []
        items = enumerate(cast("list[object]", value))
        return [self._read_destination(item, f"{written}[{i}]") for i, item in items]

    def _read_destination(self, value: object, written: str) -> dict[str, Given]:
        found: dict[str, Given] = {}
        if not isinstance(value, Mapping):
            self.refuse(written, f"{written} is {kind_of(value)}; give a mapping with a type")
            return found
        for key, it, parent in self._flattened(cast("Mapping[object, object]", value), written):
            native, path = DESTINATION_ALIASES.get(key, key), f"{parent}.{key}"
            if native not in destination_settings():
                self._unknown(parent, key, path, [*destination_settings(), *DESTINATION_ALIASES])
            elif native == "type" and isinstance(it, str):
                self._put(found, native, TYPE_ALIASES.get(it, it), path)
            else:
                self._put(found, native, it, path)
        if "type" not in found and "url" in found:
            found["type"] = Given("webhook", found["url"].origin)
        elif "type" not in found:
            options = describe(destination_settings()["type"].type)
            self.refuse(written, f"{written}.type is missing; give {options}, or a url for a webhook")
        return found

    def _flattened(self, value: Mapping[object, object], written: str) -> Iterator[tuple[str, object, str]]:
        for key, it in self._items(value, written):
            if key == NESTED:
                inner = f"{written}.{NESTED}"
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


def _bare(destinations: list[dict[str, Given]]) -> list[dict[str, object]]:
    return [{name: given.value for name, given in destination.items()} for destination in destinations]


@functools.cache
def settings_by_name() -> Mapping[str, Leaf]:
    """`server.port` → its Leaf. All destinations are one setting here; `destination_settings` are those of each."""
    found: dict[str, Leaf] = {}
    for name, leaf in leaves(Draft).items():
        if leaf.section is None:
            found[name] = leaf
        else:
            found |= {f"{name}.{inner}": it for inner, it in leaves(leaf.section).items()}
    return found


def destination_settings() -> Mapping[str, Leaf]:
    return leaves(DestinationSettings)


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
