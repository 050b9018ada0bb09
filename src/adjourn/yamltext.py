"""YAML as settings need it: no dates, no key twice, and the line of everything. Imported only where YAML is at hand,
since PyYAML costs 10 ms and 3 MB that a process which merely captures need not pay."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import cast

import yaml

from adjourn.errors import ConfigInvalid
from adjourn.setting import Problem
from adjourn.settings import invalid

NODES_MAX = 100_000
_STR = "tag:yaml.org,2002:str"
_TRAP = re.compile(r"[-+]?0[0-7_]+|[^:]+:.*")  # YAML 1.1 reads 010 as 8 and 2:30 as 150


class _Loader(yaml.SafeLoader):
    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: object) -> str:
        """What a plain scalar is. No setting is a date: a header's value 2025-01-01 is text."""
        tag = cast("str", super().resolve(kind, value, implicit))  # pyright: ignore[reportUnknownMemberType]  PyYAML has no types
        number = tag.endswith((":int", ":float"))
        return _STR if tag.endswith(":timestamp") or (number and _TRAP.fullmatch(value or "")) else tag

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            return cast("object", super().construct_object(node, deep))  # pyright: ignore[reportUnknownMemberType]  as above
        except (ValueError, LookupError, AttributeError, TypeError):
            # `!!int x`, `!!bool x`, an integer of 5,000 digits. The message may repeat the value: it is not passed on.
            fact = "the value is not of the type that it is marked as, or too long for it"
            raise yaml.constructor.ConstructorError(None, None, fact, node.start_mark) from None


def parse_yaml(text: str, source: str) -> tuple[object, Mapping[str, int]]:
    """The value, and the line of each path in it. Raises ConfigInvalid with the line."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        if _unfolded(node, {}) > NODES_MAX:
            fact = f"{source}: this cannot be read as YAML: with its aliases it has more than {NODES_MAX} values"
            raise ConfigInvalid(f"{fact}; write out what is meant", path=source)
        lines: dict[str, int] = {}
        problems: list[Problem] = []
        for path, line in _walk(node, "", set()):
            if path in lines:  # YAML lets the last silently win: whoever wrote both must be told
                fact = f"{path} is given twice, on line {lines[path]} too"
                problems.append(Problem(path, f"{fact}; keep one of them ({source}:{line})"))
            lines[path] = line
        if problems:
            raise invalid(problems)
        value = cast("object", loader.construct_document(node))  # pyright: ignore[reportUnknownMemberType]  PyYAML has no type there
        return value, lines
    except yaml.YAMLError as error:
        fact = f"{_where(error, text, source)}: this is not YAML: {_what(error)}"
        raise ConfigInvalid(f"{fact}; correct the line, or quote the value", path=source) from None
    except RecursionError:
        fact = f"{source}: this cannot be read as YAML: it is nested too deeply"
        raise ConfigInvalid(f"{fact}; simplify it", path=source) from None


def _where(error: yaml.YAMLError, text: str, source: str) -> str:
    mark = cast("yaml.Mark | None", getattr(error, "problem_mark", None))
    if mark is not None:
        return f"{source}:{mark.line + 1}:{mark.column + 1}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"{source}:{text.count(chr(10), 0, error.position) + 1}"
    return source


def _what(error: yaml.YAMLError) -> str:
    """What the parser says, without what it quotes: a password that begins with * or ! would be quoted there."""
    said = [cast("str | None", getattr(error, name, None)) for name in ("context", "problem", "reason")]
    return re.sub(r" ?'(?!<)[^']{3,}'", "", ", ".join(part for part in said if part)) or "unreadable"


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values it has once every alias is what it stands for: nine levels of nine aliases are millions."""
    if id(node) not in known:
        known[id(node)] = 0  # it may contain itself
        if isinstance(node, yaml.MappingNode):
            pairs = cast("list[tuple[yaml.Node, yaml.Node]]", node.value)
            parts = [part for pair in pairs for part in pair]
        else:
            parts = cast("list[yaml.Node]", node.value) if isinstance(node, yaml.SequenceNode) else []
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(node)]


def _walk(node: yaml.Node, path: str, seen: set[int]) -> Iterator[tuple[str, int]]:
    """The path and line of each thing in a node."""
    if id(node) in seen:  # an alias; it may even contain itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            inner = f"{path}.{key.value}".removeprefix(".")
            if not key.tag.endswith(":merge"):
                yield inner, key.start_mark.line + 1
            yield from _walk(value, inner, seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(cast("list[yaml.Node]", node.value)):
            yield f"{path}[{i}]", item.start_mark.line + 1
            yield from _walk(item, f"{path}[{i}]", seen)


def dump(value: Mapping[str, object]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
