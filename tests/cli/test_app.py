"""The command line as a whole: what there is, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import adjourn
from adjourn.cli.app import app
from adjourn.security.roles import MAY
from tests.cli.conftest import Run
from tests.documented import differences, documented_names


def commands() -> dict[str, Any]:
    """`adjourn keys list` → the command, for the root and each one that does something."""
    root: Any = typer.main.get_command(app)
    found: dict[str, Any] = {"adjourn": root}
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"adjourn {name} {n}": c for n, c in inner.items()} if inner else {f"adjourn {name}": command}
    return found


def names_of(command: Any) -> set[str]:
    """Options by every name, arguments as the usage line shows them."""
    return {
        name
        for parameter in command.params
        for name in (parameter.opts if parameter.param_type_name == "option" else [parameter.metavar])
        if name not in ("--help", "-h")
    }


def test_every_command_is_documented() -> None:
    """docs/reference/cli.md has a section for each command, and no other."""
    documented = {name for name in documented_names("cli.md") if name.startswith("adjourn")}
    assert differences(commands(), documented, page="cli.md") == []


@pytest.mark.parametrize("name", commands())
def test_every_option_is_documented(name: str) -> None:
    """A command's section lists its arguments and options, and no other."""
    documented = documented_names("cli.md", section=f"`{name}`") - {name}
    assert differences(names_of(commands()[name]), documented, page=f"cli.md, {name}") == []


def test_version(run: Run) -> None:
    """`adjourn --version` prints the version alone."""
    assert run("--version") == (0, f"adjourn {adjourn.__version__}\n", "")


def test_an_error_is_one_line(run: Run) -> None:
    """What Adjourn raises on purpose ends as `adjourn: fact; remedy` and exit code 2, without a traceback."""
    done = run("keys", "create", "--role", "king")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"adjourn: unknown role 'king'; take one of: {', '.join(MAY)}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bogus"], "no such command 'bogus'; see: adjourn --help"),
        (["keys", "lst"], "no such command 'lst'; did you mean 'list'?"),
        (["serve", "--prot", "9"], "no such option: --prot; did you mean --host or --port?"),
        (["serve", "twice"], "got unexpected extra argument(s) (twice); see: adjourn serve --help"),
        (["keys", "create"], "missing option '--role'; see: adjourn keys create --help"),
        (["keys", "revoke"], "missing argument 'ID'; see: adjourn keys revoke --help"),
        (
            ["serve", "--port", "abc"],
            "server.port is 'abc'; give a whole number from 0 (any free port) to 65535, "
            "or leave it out for 8700 (argument)",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(run: Run, arguments: list[str], told: str) -> None:
    """What is wrong with the command line itself is told as everything else is: fact, remedy, exit code 2."""
    assert run(*arguments) == (2, "", f"adjourn: {told}\n")


@pytest.mark.parametrize("arguments", [[], ["keys"], ["db"]])
def test_without_a_command_there_is_help(run: Run, arguments: list[str]) -> None:
    """A command that only holds others shows them, and says with its exit code that nothing was done."""
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Usage: {' '.join(['adjourn', *arguments])} [OPTIONS] COMMAND")


@pytest.mark.parametrize("name", commands())
def test_help_is_plain(run: Run, name: str) -> None:
    """Help has no frames and no line that a terminal of 80 columns would break: it can be pasted anywhere."""
    done = run(*name.split()[1:], "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: {name} ")
    assert max(len(line) for line in done.out.splitlines()) <= 80
    assert not set("╭│─╰") & set(done.out)


def test_every_problem_of_the_settings_is_a_line(run: Run) -> None:
    """Two wrong settings are two lines, each with the prefix."""
    done = run("config", "show", "-s", "server.prt=1", "-s", "capture.fsync=often")
    assert done.code == 2
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["adjourn", "adjourn"]


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    """When the reader of standard output is gone, nothing is printed about it."""
    code = "import sys, adjourn.cli as c; sys.argv = ['adjourn', 'config', 'show']; sys.stdin.read(); c.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(b"")
    assert err == b""


def test_the_module_runs() -> None:
    """`python -m adjourn` is the command line, and loads no server, client or bars before a command needs them."""
    code = (
        "import sys; sys.argv = ['adjourn', '--version']; import adjourn.cli as c\n"
        "try: c.main()\nfinally: print([m for m in ('uvicorn', 'litestar', 'httpx', 'alembic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"adjourn {adjourn.__version__}", "[]"]
    done = subprocess.run([sys.executable, "-m", "adjourn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"adjourn {adjourn.__version__}\n"
