"""Filter and transform expressions: CEL, run by Google's own C++ evaluator (the extra `adjourn[cel]`).

An expression has no clock and no I/O. Nesting, iterations and regular expressions (RE2) are bounded by the evaluator,
and what loops may go through is bounded here: whoever may send events or give filters cannot stop the node with them.
What an expression sees is in `transform_view`; docs/howto/transforms.md says why this evaluator.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal, Protocol, cast

from adjourn.delivery.transform_view import ROOTS, SECTIONS, View, largest, tamed, usd_text
from adjourn.errors import ConfigInvalid, ExtraMissing, ShapingFailed
from adjourn.prices import nanousd_of

Kind = Literal["filter", "transform"]

SOURCE_LENGTH_MAX = 10_000
ITERATIONS_MAX = 10_000
"""The evaluator's own bound, over all loops of one evaluation."""
LOOPED_BYTES_MAX = 100_000_000
"""What the loops of one evaluation may copy or search; the evaluator itself counts iterations alone. Measured: a
quarter of a second, 0.9 s in the worst case found; without this bound, 27 s and 5 GB."""

MEMBER_BYTES = 4
"""What it costs to compare a member of a list, in bytes that are searched."""
MATCH_BYTES = 150_000
"""The same for a pattern, which the evaluator compiles anew each time that it meets it: a millisecond for one that
repeats repetitions."""
PLAIN_MATCH_BYTES = 500
PLAIN_PATTERN_LENGTH_MAX = 100
"""Of a pattern that is written in the expression and counts no repetitions."""

# Text, raw text and comments: what looks like code in them is none.
_LITERALS = re.compile(
    r"""[rRbB]{0,2}(?:'''[\s\S]*?'''|\"\"\"[\s\S]*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")|//[^\n]*"""
)
_WORD = re.compile(r"[A-Za-z_]\w*")
_HAS = re.compile(r"\bhas\s*\(\s*(\w+)\s*\.\s*(\w+)\s*\)")
_AMOUNT_COMPARED = re.compile(r"\b(?:estimated_)?cost_usd\s*(?:[<>]=?|[-+*/%])")
_PATTERN = re.compile(r"""\.\s*matches\s*\(\s*([rR]?(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))\s*\)""")
_PLACE = re.compile(r"<input>:(\d+):(\d+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']+)'")
_LOOP = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(")
_TEXT_WORK = re.compile(r"\+|\b(?:contains|matches|startsWith|endsWith|string|bytes)\b")
# Of lists and objects, what looks at every member; a comparison with a literal does not.
_LIST_WORK = re.compile(r"[=!]=(?!\s*(?:'p?'|[-.\d]|(?:true|false|null)\b))|\bin\b")
_MAP = re.compile(r"\.\s*map\s*\(")
_MATCHED = re.compile(r"\bmatches\b")
_MATCHED_PLAINLY = re.compile(r"\.\s*matches\s*\(\s*'p'\s*\)")
_CODE = re.compile(r"^[A-Z_]+: | \[[A-Z_]+\]$")

# What an evaluator says of an operand that is not there, is null, or has no such field or members.
_ABSENT = re.compile(
    r"NOT_FOUND: |.*null_type|.*Applying SELECT to non-message type|.*overloads found : (<\w+>|@in|_&&_|_\|\|_|!_)$"
)


class Expression:
    """A compiled expression. `value` takes microseconds."""

    def __init__(self, kind: Kind, source: str, program: _Program) -> None:
        self._kind = kind
        self._program = program
        words = set(_WORD.findall(source))
        self._roots = tuple(root for root in ROOTS if root in words)
        code = _code_of(source)
        self._loops = len(_LOOP.findall(code))
        self._work = 1 + len(_TEXT_WORK.findall(code))
        # Each turn of `map` may give a whole list, which is copied into what a transform gives.
        given = len(_MAP.findall(code)) if kind == "transform" else 0
        self._list_work = len(_LIST_WORK.findall(code)) + given
        plain = len(_MATCHED_PLAINLY.findall(code))
        self._matched_bytes = PLAIN_MATCH_BYTES * plain + MATCH_BYTES * (len(_MATCHED.findall(code)) - plain)
        self._literal = (len(source), 1 + code.count(","))

    def holds(self, view: View) -> bool:
        """Of a filter. A part that asks for what is not there is neither true nor false: `||` and `&&` look at the
        other side, and a filter that ends so does not let the event pass. Raises ShapingFailed."""
        value, problem = self._evaluate(view)
        if problem:
            if _ABSENT.match(problem):
                return False
            raise self._failure(problem)
        if value is None or isinstance(value, bool):
            return value is True
        raise self._failure(f"it gives a value of type {type(value).__name__}, and a filter gives true or false")

    def fields(self, view: View) -> dict[str, object]:
        """Of a transform: the object that it gives. Raises ShapingFailed."""
        value, problem = self._evaluate(view)
        if problem:
            raise self._failure(problem, absent=_ABSENT.match(problem) is not None)
        if isinstance(value, dict):
            return cast("dict[str, object]", value)
        raise self._failure(f"it gives a value of type {type(value).__name__}, and a transform gives an object")

    def _evaluate(self, view: View) -> tuple[object, str]:
        bindings = view.bindings(self._roots)
        if self._loops and self._too_heavy(view, bindings):
            return None, "its loops would go through too much text; narrow the list, or the text, that it looks at"
        value, problem = _run(self._program, bindings)
        if problem and _untamed(problem):
            # Only a value that CEL has no form for costs the walk through all of them.
            value, problem = _run(self._program, cast("dict[str, object]", tamed(bindings)))
        return value, problem

    def _too_heavy(self, view: View, bindings: Mapping[str, object]) -> bool:
        size = max(len(view.event.body), self._literal[0])
        if ITERATIONS_MAX * self._each(size, size) <= LOOPED_BYTES_MAX:
            return False  # without a walk through all of it
        text, members = largest(bindings)
        text, most = max(text, self._literal[0]), max(members, self._literal[1])
        return min(ITERATIONS_MAX, most**self._loops) * self._each(text, members) > LOOPED_BYTES_MAX

    def _each(self, text: int, members: int) -> int:
        """What one iteration may go through, in bytes."""
        return text * self._work + MEMBER_BYTES * members * self._list_work + self._matched_bytes

    def _failure(self, problem: str, *, absent: bool = False) -> ShapingFailed:
        remedy = "; test the field with has() or != null, or give a default with .?field.orValue(…)" if absent else ""
        return ShapingFailed(f"the {self._kind} fails on this event: {_CODE.sub('', problem)[:300]}{remedy}")


def compile_expression(kind: Kind, source: str) -> Expression:
    """Raises ConfigInvalid with the place in the expression, and ExtraMissing where CEL is not installed."""
    if len(source) > SOURCE_LENGTH_MAX:
        fact = f"the {kind} is {len(source)} characters long; {SOURCE_LENGTH_MAX} is the most"
        raise ConfigInvalid(f"{fact}; simplify it", path=kind)
    _refuse_traps(kind, _code_of(source))
    environment = _environment()
    try:
        program = environment.compile(source)
    except RuntimeError as error:
        raise _uncompiled(kind, str(error)) from None
    cel = _cel()
    given, wanted = program.return_type(), cel.Type.BOOL if kind == "filter" else cel.Type.MAP
    name = given.name()
    if name != "DYN" and (name.partition("<")[0] != wanted.name().partition("<")[0]):
        remedy = "compare it, as in usage.total_tokens > 0" if kind == "filter" else "write {'name': value, …}"
        wants = "true or false" if kind == "filter" else "an object"
        raise ConfigInvalid(f"the {kind} gives {name.lower()}, and it must give {wants}; {remedy}", path=kind)
    _check_patterns(kind, source, environment)
    return Expression(kind, source, program)


def _code_of(source: str) -> str:
    """Without comments, and without what stands in text: `'p'` if it would do as a plain pattern, else `''`."""

    def shown(found: re.Match[str]) -> str:
        text = found[0]
        if text.startswith("//"):
            return " "
        plain = 2 < len(text) <= PLAIN_PATTERN_LENGTH_MAX and not set(text) & {"{", "\\"}
        return "'p'" if plain else "''"

    return _LITERALS.sub(shown, source)


def _refuse_traps(kind: Kind, code: str) -> None:
    """What compiles, and would not do what was meant."""
    for section, field in _HAS.findall(code):
        if field in SECTIONS.get(section, {}):
            fact = f"has({section}.{field}) is true of every event: a field of the schema that was not sent is null"
            raise ConfigInvalid(f"the {kind}: {fact}; write {section}.{field} != null", path=kind)
    if _AMOUNT_COMPARED.search(code):
        fact = "an amount in USD is text, so that no digit of it is lost, and text cannot be compared as a number"
        raise ConfigInvalid(f"the {kind}: {fact}; use adjourn.cost_nanousd, or nanousd(…) of the amount", path=kind)


def _check_patterns(kind: Kind, source: str, environment: _Environment) -> None:
    """Regular expressions are compiled with the first text that they meet; whoever wrote one should hear of it now."""
    for pattern in _PATTERN.findall(source):
        _, problem = _run(environment.compile(f"''.matches({pattern})"), {})
        if problem:
            fact = _CODE.sub("", problem)
            raise ConfigInvalid(f"the {kind}: {fact}; patterns are RE2: github.com/google/re2/wiki/Syntax", path=kind)


def _uncompiled(kind: Kind, message: str) -> ConfigInvalid:
    found = _PLACE.search(message)
    if found is None:
        return ConfigInvalid(f"the {kind} cannot be compiled: {_CODE.sub('', message)[:300]}; simplify it", path=kind)
    line, column, fact = found[1], found[2], found[3].removesuffix(" (in container '')")
    remedy = "see docs/howto/transforms.md for the language"
    if undeclared := _UNDECLARED.search(fact):
        near = difflib.get_close_matches(undeclared[1].partition(".")[0], ROOTS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(ROOTS)}; other fields are event.NAME"
    return ConfigInvalid(f"the {kind}, line {line}, column {column}: {fact[:300]}; {remedy}", path=kind)


def _run(program: _Program, bindings: Mapping[str, object]) -> tuple[object, str]:
    """(value, "") or (None, what is wrong)."""
    cel = _cel()
    try:
        found = program.eval(data=bindings)
        if found.type() == cel.Type.ERROR:
            return None, str(found.plain_value())
        return found.plain_value(), ""
    except (RuntimeError, TypeError, ValueError, RecursionError, MemoryError) as error:
        return None, str(error).partition("\n")[0] or type(error).__name__


def _untamed(problem: str) -> bool:
    return "out of range for '" in problem or "construction from null" in problem


# --- the library, which has no types that a checker can read without protobuf ----------------------------------------


class _Type(Protocol):
    def name(self) -> str: ...


class _Value(Protocol):
    def type(self) -> _Type: ...
    def plain_value(self) -> object: ...


class _Program(Protocol):
    def return_type(self) -> _Type: ...
    def eval(self, *, data: Mapping[str, object]) -> _Value: ...


class _Environment(Protocol):
    def compile(self, expression: str) -> _Program: ...


class _Types(Protocol):
    BOOL: _Type
    DYN: _Type
    ERROR: _Type
    INT: _Type
    MAP: _Type
    STRING: _Type

    def Map(self, key: _Type, value: _Type) -> _Type: ...


class _Cel(Protocol):
    Type: _Types

    def Overload(self, id: str, result: _Type, parameters: Sequence[_Type], member: bool, impl: object) -> object: ...
    def FunctionDecl(self, name: str, overloads: Sequence[object]) -> object: ...
    def NewEnv(self, **options: object) -> _Environment: ...


class _Optional(Protocol):
    def ExtOptional(self) -> object: ...


@functools.cache
def _cel() -> _Cel:
    try:
        return cast("_Cel", importlib.import_module("cel_expr_python.cel"))
    except ImportError as error:
        raise ExtraMissing(
            "filters and transform expressions need CEL, which is not installed; "
            "run: pip install 'adjourn[cel]' (built-in transforms and Python ones work without it)"
        ) from error


@functools.cache
def _environment() -> _Environment:
    cel = _cel()
    optional = cast("_Optional", importlib.import_module("cel_expr_python.ext.ext_optional"))
    t = cel.Type
    usd = cel.FunctionDecl("usd", [cel.Overload("usd_int", t.STRING, [t.INT], False, usd_text)])
    nanousd = cel.FunctionDecl("nanousd", [cel.Overload("nanousd_string", t.INT, [t.STRING], False, _nanousd)])
    section = t.Map(t.STRING, t.DYN)
    plain = dict.fromkeys(("event", "timestamp", "amends", "from", "to", "reason"), t.DYN)
    plain |= {"event_type": t.STRING, "event_id": t.STRING}
    return cel.NewEnv(
        variables={root: plain.get(root, section) for root in ROOTS},
        extensions=[optional.ExtOptional()],
        functions=[usd, nanousd],
    )


def _nanousd(usd: str) -> int:
    try:
        return nanousd_of(Decimal(usd))
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"{usd[:40]!r} is not an amount in USD") from None
