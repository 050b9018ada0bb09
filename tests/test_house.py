"""The house rules, applied to the tree; and a bad example for each one, which it must find."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import adjourn
from adjourn import errors
from tests import documented, house

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "adjourn"
TESTS = ROOT / "tests"

CROSS_CUTTING = {
    "test_house.py": "judges the tree, not a module",
    "test_documented.py": "tests the reader of reference pages, which stands in tests/",
    "test_readme.py": "runs what README tells its readers to run",
    "test_settings_matter.py": "flips every setting and looks at the product as a whole",
    "examples/": "runs the programs of examples/ as their readers do",
    "faults/": "breaks whole installations: kills, power cuts, full disks, dead connections",
}
"""Tests with no source file of their name, each with the reason."""


def texts(folder: Path, pattern: str = "**/*.py") -> dict[str, str]:
    """Path relative to `folder` → source."""
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in sorted(folder.glob(pattern))}


def judge(rule: Callable[[str, str], list[str]], sources: dict[str, str]) -> None:
    problems = [problem for path, source in sources.items() for problem in rule(path, source)]
    assert not problems, "\n" + "\n".join(problems)


def contracts() -> dict[str, str]:
    return {path: source for path, source in texts(PACKAGE, "*.py").items() if path in house.CONTRACTS}


def whole_tree() -> dict[str, str]:
    sources = {f"{f}/{path}": text for f in ("src", "tests", "bench") for path, text in texts(ROOT / f).items()}
    return {path: text for path, text in sources.items() if "/migrations/versions/" not in path}


def test_async_stays_at_the_edge() -> None:
    """Only services, contracts with their implementations, the node, the runtime, http/ and cli/ are async."""
    judge(house.stray_async, texts(PACKAGE))


def test_implementations_have_a_contract() -> None:
    """Each plural folder of implementations has its contract in the file of the singular."""
    problems = house.homeless_implementations(texts(PACKAGE))
    assert not problems, "\n" + "\n".join(problems)


def test_contracts_are_narrow() -> None:
    """No contract has more than eight public methods."""
    judge(house.wide_contracts, contracts())


def test_contracts_are_documented() -> None:
    """Each public class and function of a contract file says what it promises."""
    judge(house.undocumented_contracts, contracts())


def test_each_test_has_its_source() -> None:
    """tests/ mirrors src/adjourn/, but for the cross-cutting suites that are listed with a reason."""
    problems = house.orphan_tests(texts(TESTS, "**/test_*.py"), texts(PACKAGE), CROSS_CUTTING)
    assert not problems, "\n" + "\n".join(problems)


def test_files_and_functions_are_short() -> None:
    """A file has fewer than 400 lines and a function fewer than 50; migrations excepted."""
    judge(house.too_long, whole_tree())


def test_each_test_says_what_it_proves() -> None:
    """Every test function opens with a docstring."""
    judge(house.silent_tests, texts(TESTS, "**/test_*.py"))


def test_nothing_is_a_stub() -> None:
    """The source has no marker of unfinished work."""
    judge(house.stubs, texts(PACKAGE))


def test_checkers_are_silenced_with_a_reason() -> None:
    """Every suppression of a linter, type checker or coverage has its reason beside it."""
    judge(house.bare_suppressions, whole_tree())


def test_only_the_command_line_prints() -> None:
    """print() is called in cli/ and nowhere else."""
    judge(house.prints, texts(PACKAGE))


def test_types_are_worked_out_in_one_place() -> None:
    """msgspec's first use of a type is left to adjourn.typed."""
    judge(house.untyped, texts(PACKAGE))


SKELETON = (
    "database.py", "log.py", "destination.py", "databases/sqlite.py", "completion/service.py",
    "runtime.py", "http/app.py", "cli.py", "testing/faults.py",
)  # fmt: skip
"""A package small enough to break in known ways."""


def lint_imports(folder: Path, source: Path) -> subprocess.CompletedProcess[str]:
    program = (
        f"import sys; sys.path.insert(0, {str(source)!r}); from importlinter.cli import lint_imports_command as c; c()"
    )
    command = [sys.executable, "-c", program, "--no-logo", "--no-cache", "--config", str(ROOT / ".importlinter")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_point_down() -> None:
    """import-linter finds no import that .importlinter forbids."""
    done = lint_imports(ROOT, ROOT / "src")
    remedy = (
        "Move the code down a layer, or hand it in from the runtime; a new module needs its place in .importlinter."
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}\n{remedy}"


@pytest.mark.parametrize(
    ("module", "imports"),
    [
        ("events.py", "adjourn.database"),
        ("database.py", "adjourn.databases.sqlite"),
        ("delivery/service.py", "adjourn.completion.service"),
        ("delivery/service.py", "adjourn.runtime"),
        ("destinations/logfile.py", "adjourn.database"),
        ("databases/sqlite.py", "adjourn.log"),
        ("logs/sql.py", "adjourn.destination"),
        ("sdk/_async.py", "adjourn.database"),
        ("cli.py", "adjourn.testing"),
        ("http/app.py", "adjourn.cli"),
        ("prices.py", "httpx"),
        ("somewhere.py", "adjourn.errors"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, module: str, imports: str) -> None:
    """A package in which one module imports upwards or sideways, or stands in no layer, breaks a contract."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    modules = contracts["importlinter:contract:ground"]["source_modules"].split()
    for path in (*(f"{m.split('.')[1]}.py" for m in modules), *SKELETON, module):
        (tmp_path / "adjourn" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "adjourn" / path).touch()
        (tmp_path / "adjourn" / path).with_name("__init__.py").touch()
    assert lint_imports(tmp_path, tmp_path).returncode == (module == "somewhere.py")
    (tmp_path / "adjourn" / module).write_text(f"import {imports}\n")
    assert lint_imports(tmp_path, tmp_path).returncode == 1


def error_classes(root: type[errors.AdjournError] = errors.AdjournError) -> list[type[errors.AdjournError]]:
    return [
        cls
        for child in root.__subclasses__()
        for cls in (child, *error_classes(child))
        if cls.__module__ == errors.__name__
    ]


def test_errors_are_documented() -> None:
    """docs/reference/errors.md lists every error code with its class and HTTP status, and no other."""
    page = documented.documented_rows("errors.md")
    classes = {cls.code: cls for cls in error_classes()}
    problems = documented.differences(classes, page, page="errors.md")
    assert not problems, "\n" + "\n".join(problems)
    assert {code: page[code][1:3] for code in classes} == {
        c: (f"`{k.__name__}`", str(k.status)) for c, k in classes.items()
    }


def test_error_codes_are_distinct() -> None:
    """No two errors share a code, and each class says in a docstring what happened."""
    classes = error_classes()
    assert len({cls.code for cls in classes}) == len(classes)
    assert [cls.__name__ for cls in classes if not cls.__doc__] == []


def test_the_version_is_one() -> None:
    """`adjourn.__version__` and pyproject.toml agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert adjourn.__version__ == project["version"], "write it alike into pyproject.toml and adjourn/__init__.py"
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), "add it to CHANGELOG.md"


def test_the_package_is_licensed_and_typed() -> None:
    """The Apache licence stands at the root, and the package says that it is typed."""
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0" in licence
    assert (PACKAGE / "py.typed").exists(), "an empty src/adjourn/py.typed tells type checkers to read the annotations"


LONG = "def f() -> None:\n" + "    pass\n" * 49
WIDE = "class P(Protocol):\n" + "".join(f"    def m{n}(self) -> None: ...\n" for n in range(9))


@pytest.mark.parametrize(
    ("rule", "path", "bad", "good"),
    [
        (house.stray_async, "completion/validate.py", "async def f(): ...", "def f(): ..."),
        (house.stray_async, "ids.py", "class A:\n    async def f(self): ...", "class A: ..."),
        (house.wide_contracts, "log.py", WIDE, WIDE.replace("m8", "_m8")),
        (house.undocumented_contracts, "log.py", "class Log: ...", 'class Log:\n    """It keeps."""'),
        (house.undocumented_contracts, "log.py", "def f(): ...", 'def f():\n    """It does."""'),
        (house.too_long, "a.py", LONG, LONG.replace("    pass\n", "", 1)),
        (house.too_long, "a.py", "x = 1\n" * 400, "x = 1\n" * 399),
        (house.silent_tests, "test_a.py", "def test_a(): ...", 'def test_a():\n    """It holds."""'),
        (house.silent_tests, "test_a.py", "class TestA:\n    def test_a(self): ...", "def check(): ..."),
        (house.stubs, "a.py", "# TODO: later", "# later"),
        (house.stubs, "a.py", "raise NotImplementedError", "raise ValueError"),
        (house.bare_suppressions, "a.py", "x = 1  # type: ignore", "x = 1  # type: ignore[x]  # the stub lacks Raw"),
        (house.bare_suppressions, "a.py", "x = 1  # noqa: E501, B008", "x = 1  # noqa: E501 - one URL is one word"),
        (house.bare_suppressions, "a.py", "x = 1  # pyright: ignore[reportAny]", "x = '# type: ignore'"),
        (
            house.bare_suppressions,
            "a.py",
            "x = 1  # pragma: no cover",
            "x = 1  # pragma: no cover - runs on Windows only",
        ),
        (house.prints, "runtime.py", "print(1)", "log.info('one')"),
        (house.untyped, "a.py", "msgspec.convert(row, Key)", "typed.convert(row, Key)"),
        (house.untyped, "a.py", "msgspec.json.decode(x, type=Key)", "msgspec.json.decode(x, type=dict[str, int])"),
    ],
)
def test_each_rule_bites(rule: Callable[[str, str], list[str]], path: str, bad: str, good: str) -> None:
    """Every rule finds one problem, with a remedy, in its bad example, and none in the mended one."""
    found = rule(path, bad)
    assert len(found) == 1
    assert ": " in found[0]
    assert rule(path, good) == []


@pytest.mark.parametrize(
    "path",
    [
        "delivery/service.py",
        "completion/pump_service.py",
        "runner.py",
        "runners/echo.py",
        "log.py",
        "http/app.py",
        "cli/serve.py",
        "sdk/_async.py",
        "sdk/_async_sessions.py",
        "runtime.py",
        "node.py",
    ],
)
def test_services_may_be_async(path: str) -> None:
    """The places that do I/O may define coroutines; and only those, not files that sound like them."""
    assert house.stray_async(path, "async def f(): ...") == []
    like = f"completion/my{path}".replace("/service", "service").replace("_service", "service")
    assert house.stray_async(like, "async def f(): ...") != []


def test_a_folder_without_contract_is_found() -> None:
    """A plural folder with no singular file beside it is a problem; a feature's folder is none."""
    assert len(house.homeless_implementations(["stores/sql.py", "log.py", "logs/sql.py", "sessions/limits.py"])) == 1


def test_an_orphan_test_is_found() -> None:
    """A test with no source file of its name is a problem, unless its suite is listed as cross-cutting."""
    sources = ["completion/spool.py", "sdk/_async.py"]
    assert (
        house.orphan_tests(["completion/test_spool.py", "sdk/test_async.py", "faults/test_x.py"], sources, ["faults/"])
        == []
    )
    assert len(house.orphan_tests(["test_spool.py", "faults_too/test_x.py"], sources, ["faults/"])) == 2
