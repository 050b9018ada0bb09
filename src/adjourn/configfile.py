"""Where settings come from: a YAML file, environment variables, arguments; the later wins, setting by setting.

Each source becomes a layer, layers are merged, references to secrets resolved, and the whole is checked. All problems
are reported at once, each with its path and where it was given. YAML is imported only if there is something to parse.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import cast

from adjourn.errors import ConfigInvalid
from adjourn.layer import (
    ALIASES,
    LISTS,
    Given,
    Layer,
    Listing,
    section_names,
    settings_by_name,
    suggest,
)
from adjourn.secret import Secret, mask
from adjourn.setting import Headers, Leaf, Problem, Secrets, Section, leaves, named
from adjourn.settings import Draft, Settings, find_problems, invalid

DEFAULT_FILE = "adjourn.yaml"
PREFIX = "ADJOURN_"
# Variables that begin like settings and are none: the file to read, where and as whom a client sends, shared test data,
# the seed of a test run.
NOT_SETTINGS = frozenset({"ADJOURN_CONFIG", "ADJOURN_URL", "ADJOURN_KEY", "ADJOURN_SHARED", "ADJOURN_SEED"})

FILE_BYTES_MAX = 1_000_000
SECRET_BYTES_MAX = 65_536

_REFERENCE = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<name>[^}]*)\}")


# --- the three doors --------------------------------------------------------------------------------------------------


def load(path: str | None = None, *, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """Defaults, then the file at `path` (or $ADJOURN_CONFIG, or ./adjourn.yaml if there is one), then ADJOURN_
    variables, then `overrides`: dotted names, of which those that are None count as not given. Raises ConfigInvalid."""
    file = path
    if file is None:
        file = environ.get("ADJOURN_CONFIG") or (DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None)
    layers = [] if file is None else [_layer_of_text(_read_file(file), file)]
    return _settle([*layers, _layer_of_variables(environ), _layer_of_arguments(overrides)], environ)


def parse(text_or_mapping: str | Mapping[str, object], source: str, environ: Mapping[str, str]) -> Settings:
    """The settings of one file's text, or of a mapping of the same shape, over the defaults. `source` names it in
    messages; `environ` is where references to secrets are looked up, and nothing else. Raises ConfigInvalid."""
    if isinstance(text_or_mapping, str):
        return _settle([_layer_of_text(text_or_mapping, source)], environ)
    layer = Layer(source)
    layer.read(text_or_mapping)
    return _settle([layer], environ)


def show(settings: Settings) -> str:
    """All settings as YAML, with `***` and where it comes from for each secret."""
    from adjourn.yamltext import dump

    return dump(_masked(settings))


def _masked(section: Section) -> dict[str, object]:
    shown = section.masked()
    for name, value in shown.items():
        if isinstance(value, Section):
            shown[name] = _masked(value)
        elif isinstance(value, tuple):
            items = cast("tuple[object, ...]", value)
            shown[name] = [_masked(item) if isinstance(item, Section) else item for item in items]
    return shown


# --- each source becomes a layer --------------------------------------------------------------------------------------


def _read_file(path: str) -> str:
    try:
        return _read_bytes(path, FILE_BYTES_MAX).decode("utf-8-sig")
    except FileNotFoundError:
        where = path or "'', which is no path"
        raise ConfigInvalid(f"there is no settings file at {where}; give the path of one, or none", path=path) from None
    except UnicodeDecodeError as error:
        fact = f"the settings file {path} is not UTF-8 (byte {error.start})"
        raise ConfigInvalid(f"{fact}; save it as UTF-8", path=path) from None
    except (OSError, ValueError) as error:
        fact = f"the settings file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigInvalid(f"{fact}; give a file that this user may read", path=path) from None


def _read_bytes(path: str, bytes_max: int) -> bytes:
    """Raises OSError, and ValueError for a file that is larger: a device may have no end."""
    with open(path, "rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise ValueError(f"it is larger than {bytes_max} bytes")
    return data


def _layer_of_text(text: str, source: str) -> Layer:
    from adjourn.yamltext import parse_yaml

    raw, lines = parse_yaml(text, source)
    layer = Layer(source, {path: f"{source}:{line}" for path, line in lines.items()})
    layer.read(raw)
    return layer


def variable_of(name: str) -> str:
    """`server.port` → `ADJOURN_SERVER__PORT`."""
    return PREFIX + name.replace(".", "__").upper()


def _layer_of_variables(environ: Mapping[str, str]) -> Layer:
    # An empty variable counts as unset: shells and compose files pass on what they do not have as "".
    given = {v: text for v, text in environ.items() if v.startswith(PREFIX) and v not in NOT_SETTINGS and text}
    names = {variable_of(name): name for name in (*settings_by_name(), *ALIASES)}
    layer = Layer("environment", {names[variable]: variable for variable in given if variable in names})
    for variable, text in given.items():
        if variable in names:
            _give_text(layer, names[variable], text)
        else:
            meant = suggest(variable.removeprefix(PREFIX).lower().replace("__", "."), list(settings_by_name()))
            remedy = (
                f"did you mean {variable_of(meant)}?" if meant else "unset it: settings are ADJOURN_<SECTION>__<KEY>"
            )
            layer.problems.append(Problem(variable, f"unknown setting {variable!r} in the environment; {remedy}"))
    return layer


def _layer_of_arguments(overrides: Mapping[str, object]) -> Layer:
    layer = Layer("argument")
    for name, value in overrides.items():
        if isinstance(value, str):
            _give_text(layer, name, value)
        elif value is not None:
            layer.give(name, value)
    return layer


def _give_text(layer: Layer, name: str, text: str) -> None:
    """Text stays text for settings that are text; for others it is YAML: `9000`, `true`, `[a, b]`, `{file: PATH}`."""
    leaf = settings_by_name().get(ALIASES.get(name, name))
    if leaf is None or leaf.plain or (leaf.secret and not text.startswith("{")):
        layer.give(name, text)
        return
    from adjourn.yamltext import parse_yaml

    try:
        layer.give(name, parse_yaml(text, layer.origin(name))[0])
    except ConfigInvalid as error:
        layer.problems.append(Problem(name, error.message))


def _mapping(value: object) -> Mapping[object, object]:
    return cast("Mapping[object, object]", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return list(cast("Iterable[object]", value)) if isinstance(value, (list, tuple)) else []


# --- layers become settings -------------------------------------------------------------------------------------------


class _Values:
    """Turns what was given into typed values, resolves references to secrets, and gathers the problems."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[Problem] = []
        self.refused: list[str] = []  # paths for which a default stands in
        self.origins: dict[str, str] = {}
        self.referred = set[str]()  # names of environment variables

    def section(self, given: Mapping[str, Given], known: Mapping[str, Leaf], path: str) -> dict[str, object]:
        """The fields of one section that were given and fit. What does not is a problem, and its default stands in."""
        fields: dict[str, object] = {}
        for name, it in given.items():
            full, leaf = path + name, known[name]
            self.origins[full] = it.origin
            before = len(self.problems)
            value = self._resolve(leaf, full, it)
            try:
                fields[name] = leaf.fit(value)
            except ValueError:
                if len(self.problems) == before:
                    self.refuse(leaf.misfit(full, value))
        return fields

    def refuse(self, problem: Problem) -> None:
        self.refused.append(problem.path)
        self.problems.append(self.located(problem))

    def located(self, problem: Problem) -> Problem:
        origin = self.origins.get(problem.path) or self.origins.get(problem.path.rpartition(".")[0])
        return Problem(problem.path, f"{problem.text} ({origin})") if origin else problem

    def stands_in(self, path: str) -> bool:
        """Whether a default stands in there: what it implies is not worth a line of its own."""
        return any(path == refused or path.startswith((f"{refused}.", f"{refused}[")) for refused in self.refused)

    def _resolve(self, leaf: Leaf, path: str, given: Given) -> object:
        if leaf.secret:
            return self._secret(path, given.value)
        if leaf.type == Headers and (headers := _mapping(given.value)):
            paths = {name: f"{path}.{named(str(name))}" for name in headers}
            self.origins |= dict.fromkeys(paths.values(), given.origin)
            return {name: self._secret(paths[name], value) for name, value in headers.items()}
        if leaf.type == Secrets and (listed := _list(given.value)):
            self.origins |= {f"{path}[{i}]": given.origin for i in range(len(listed))}
            return [self._secret(f"{path}[{i}]", value) for i, value in enumerate(listed)]
        if isinstance(given.value, str) and _REFERENCE.search(given.value):
            fact = f"{path} holds ${{NAME}}, which only secrets may"
            self.refuse(Problem(path, f"{fact}; write the value itself, or set {variable_of(path.split('[')[0])}"))
        return given.value

    def _secret(self, path: str, value: object) -> object:
        if isinstance(value, str):
            return self._expand(path, value)
        entries = list(_mapping(value).items())
        kind, name = entries[0] if len(entries) == 1 else (None, None)
        if kind == "env" and isinstance(name, str):
            return Secret(self._variable(path, name), f"env {name}")
        if kind == "file" and isinstance(name, str):
            return Secret(self._file(path, name), f"file {name}")
        return value

    def _expand(self, path: str, text: str) -> str | Secret:
        names = [match["name"] for match in _REFERENCE.finditer(text) if not match["escaped"]]
        whole = _REFERENCE.sub(lambda m: m["escaped"] or self._variable(path, m["name"]), text)
        return Secret(whole, f"env {', '.join(dict.fromkeys(names))}") if names else whole

    def _variable(self, path: str, name: str) -> str:
        self.referred.add(name)
        value = self.environ.get(name, "")
        if not value and named(name) != name:
            fact = f"{path} refers to an environment variable by '{named(name)}', which is more than a name"
            self.refuse(Problem(path, f"{fact}; give the name alone: a reference has no default"))
        elif not value:
            fact = f"{path} refers to the environment variable {name!r}, which is not set or empty"
            self.refuse(Problem(path, f"{fact}; set it, or correct the name"))
        return value

    def _file(self, path: str, name: str) -> str:
        shown = repr(mask(name))  # whoever took `file` for the secret itself must not read it in a log
        try:
            value = _read_bytes(name, SECRET_BYTES_MAX).decode().rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = "it is not UTF-8 text" if isinstance(error, UnicodeError) else getattr(error, "strerror", None)
            fact = f"{path} refers to the file {shown}, which cannot be read ({reason or error})"
            self.refuse(Problem(path, f"{fact}; create it, or correct the path"))
            return ""
        if not value:
            self.refuse(Problem(path, f"{path} refers to the file {shown}, which is empty; write the secret into it"))
        return value


def _settle(layers: list[Layer], environ: Mapping[str, str]) -> Settings:
    values = _Values(environ)
    merged: dict[str, Given] = {}
    lists: dict[str, list[dict[str, Given]]] = {}
    for layer in layers:
        merged |= layer.values
        lists |= layer.lists
    fields = _fields(values, merged, lists)
    # A variable that a secret refers to is no unknown setting, whatever its name.
    problems = [p for layer in layers for p in layer.problems if p.path not in values.referred] + values.problems
    rules = [p for p in find_problems(Draft(**fields)) if not values.stands_in(p.path)]  # pyright: ignore[reportArgumentType]  each value fits its Leaf
    if problems := problems + [values.located(problem) for problem in rules]:
        raise invalid(problems)
    return Settings(**fields)  # pyright: ignore[reportArgumentType]  as above


def _fields(
    values: _Values, merged: Mapping[str, Given], lists: Mapping[str, list[dict[str, Given]]]
) -> dict[str, object]:
    fields: dict[str, object] = values.section({k: v for k, v in merged.items() if "." not in k}, leaves(Draft), "")
    for name in section_names():
        prefix = f"{name}."
        given = {k.removeprefix(prefix): v for k, v in merged.items() if k.startswith(prefix)}
        kind = cast("type[Section]", leaves(Draft)[name].section)
        inner = values.section(given, leaves(kind), prefix)
        for path, items in lists.items():
            if path.startswith(prefix):
                listed = tuple(_item(values, LISTS[path], it, f"{path}[{i}]") for i, it in enumerate(items))
                inner[path.removeprefix(prefix)] = listed
        fields[name] = kind(**inner)
    return fields


def _item(values: _Values, listing: Listing, given: Mapping[str, Given], path: str) -> Section:
    values.origins[path] = next((it.origin for it in given.values()), "")
    fields = values.section(given, listing.settings, f"{path}.")
    if listing.key not in fields:
        # That is reported already. A stand-in keeps the numbers of those that follow, and what refers to its name.
        values.refused.append(path)
        fields = {"name": f"without-{listing.key}-{len(values.refused)}", **fields}
        if listing.key == "type":
            fields["type"] = listing.types[0]
    return listing.section(**fields)
