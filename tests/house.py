"""The house rules that a machine can judge: functions from source text to problems, each problem with its remedy.

test_house.py applies them to the tree, and shows of each one that it bites.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator

CONTRACTS = ("database.py", "log.py", "destination.py", "runner.py")
"""The contract files, under src/adjourn; the implementations of `log.py` are in `logs/`."""

PLURAL_BUT_NO_IMPLEMENTATIONS = ("sessions", "integrations", "migrations")
"""Folders whose name is a plural although they hold no implementations of a contract."""

LINES_PER_FILE = 400
LINES_PER_FUNCTION = 50
METHODS_PER_CONTRACT = 8

_ASYNC_PLACES = re.compile(
    r"(.*/)?(\w+_)?service\.py|runner\w*\.py|(runtime|node|capture)\.py|(destination|database|log)\.py|sdk/_async(_\w+)?\.py"
    r"|(runners|destinations|databases|logs|http|cli|testing|integrations)/.*"
)
_STUB = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
_SUPPRESSION = re.compile(
    r"(type|pyright): *ignore(\[[^\]]*\])?|noqa(: *[A-Z]+[0-9]+(, *[A-Z]+[0-9]+)*)?|pragma: no cover"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


def stray_async(path: str, source: str) -> list[str]:
    """Rule 2: async in service.py files and *_service.py, contracts with their implementations, the node and the
    runtime, http/ and cli/. `path` is relative to src/adjourn."""
    if _ASYNC_PLACES.fullmatch(path):
        return []
    return [
        f"{path}:{f.lineno} `async def {f.name}`: rules decide, services do: make it plain and await it in service.py "
        "or a *_service.py"
        for f in functions(source)
        if isinstance(f, ast.AsyncFunctionDef)
    ]


def homeless_implementations(paths: Iterable[str]) -> list[str]:
    """Rule 4. `paths` are all files relative to src/adjourn."""
    files = set(paths)
    folders = {path.split("/")[0] for path in files if path.endswith(".py") and "/" in path}
    return [
        f"{folder}/ holds implementations of no contract: write {folder[:-1]}.py, or name the folder for its feature"
        for folder in sorted(folders)
        if folder.endswith("s") and folder not in PLURAL_BUT_NO_IMPLEMENTATIONS and f"{folder[:-1]}.py" not in files
    ]


def wide_contracts(path: str, source: str) -> list[str]:
    """Rule 5."""
    problems: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
            methods = {item.name for item in node.body if isinstance(item, Function) and not item.name.startswith("_")}
            if len(methods) > METHODS_PER_CONTRACT:
                problems.append(
                    f"{path}:{node.lineno} {node.name} has {len(methods)} methods, {METHODS_PER_CONTRACT} may be: "
                    "merge methods that are always called together, or split the contract"
                )
    return problems


def undocumented_contracts(path: str, source: str) -> list[str]:
    """Rule 21, for contract files: classes and functions of the module."""
    return [
        f"{path}:{node.lineno} {node.name} has no docstring: say what it promises, its units and what it raises"
        for node in ast.parse(source).body
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]


def orphan_tests(tests: Iterable[str], sources: Iterable[str], cross_cutting: Iterable[str]) -> list[str]:
    """Rule 10. `tests` are relative to tests/, `sources` to src/adjourn; `cross_cutting` are files, or folders/."""
    known, allowed = set(sources), tuple(cross_cutting)
    problems: list[str] = []
    for test in sorted(tests):
        folder, _, name = test.rpartition("/")
        stem = name.removeprefix("test_")
        wanted = [f"{folder}/{s}".lstrip("/") for s in (stem, f"_{stem}")]
        exempt = any(test == a or (a.endswith("/") and test.startswith(a)) for a in allowed)
        if not exempt and known.isdisjoint(wanted):
            problems.append(f"tests/{test} has no src/adjourn/{wanted[0]}: give it the name of the file that it tests")
    return problems


def too_long(path: str, source: str) -> list[str]:
    """Rule 12."""
    remedy = "look for the noun that is hiding in it"
    lines = len(source.splitlines())
    problems = [f"{path} has {lines} lines, {LINES_PER_FILE - 1} may be: {remedy}"] if lines >= LINES_PER_FILE else []
    for f in functions(source):
        length = (f.end_lineno or f.lineno) - f.lineno + 1
        if length >= LINES_PER_FUNCTION:
            problems.append(f"{path}:{f.lineno} {f.name} has {length} lines, {LINES_PER_FUNCTION - 1} may be: {remedy}")
    return problems


def silent_tests(path: str, source: str) -> list[str]:
    """Rule 17."""
    return [
        f"{path}:{f.lineno} {f.name} has no docstring: open it with the truth that it proves"
        for f in functions(source)
        if f.name.startswith("test") and not ast.get_docstring(f)
    ]


def stubs(path: str, source: str) -> list[str]:
    """Rule 22."""
    return [
        f"{path}:{number} says {found[1]}: finish it, or take it out"
        for number, line in enumerate(source.splitlines(), 1)
        if (found := _STUB.search(line))
    ]


def bare_suppressions(path: str, source: str) -> list[str]:
    """A checker is silenced only with a reason (two words at least) behind it on the same line."""
    problems: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (found := _SUPPRESSION.search(token.string)):
            reason = _SUPPRESSION.sub(" ", token.string)
            if len(re.findall(r"\w{2,}", reason)) < 2:
                problems.append(
                    f"{path}:{token.start[0]} `{found[0]}`: mend what it hides, or write the reason behind it"
                )
    return problems


def prints(path: str, source: str) -> list[str]:
    """Only the command line prints. `path` is relative to src/adjourn."""
    if path.startswith("cli/"):
        return []
    return [
        f"{path}:{node.lineno} print(): log it through eventlog, return it, or move it to cli/"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def untyped(path: str, source: str) -> list[str]:
    """Types are worked out in `adjourn.typed`, one thread at a time. `path` is relative to src/adjourn."""
    if path == "typed.py":
        return []
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        f"{path}:{call.lineno} two threads that use a type for the first time crash msgspec: use adjourn.typed"
        for call in calls
        if ast.unparse(call.func) == "msgspec.convert"
        or (
            ast.unparse(call.func) in ("msgspec.json.decode", "msgspec.msgpack.decode")
            and any(k.arg == "type" and isinstance(k.value, ast.Name) and k.value.id != "str" for k in call.keywords)
        )
    ]
