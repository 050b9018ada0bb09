"""The synchronous client is what the generator makes of the asynchronous one, byte for byte."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import adjourn.sdk
from adjourn.sdk import generate

BOTH = [name for name in adjourn.sdk.__all__ if name.startswith("Async")]


def test_the_synchronous_client_is_the_generated_one() -> None:
    """Each _sync*.py is, byte for byte, what the generator makes of its _async*.py, and there is no other."""
    wanted = generate.wanted()
    assert len(wanted) > 1
    assert {path: path.read_bytes() for path in generate.HERE.glob("_sync*.py")} == wanted, (
        "run: python -m adjourn.sdk.generate"
    )


def test_the_command_checks_what_stands_there() -> None:
    """`python -m adjourn.sdk.generate --check` succeeds on the tree as it is, and writes nothing."""
    before = {path: path.stat().st_mtime_ns for path in generate.wanted()}
    command = [sys.executable, "-m", "adjourn.sdk.generate", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_check_refuses_and_writing_mends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One byte more fails the check, which says what to run; that mends it. One without a source is told."""
    for path in generate.HERE.glob("_*sync*.py"):
        shutil.copy(path, tmp_path)
    target = tmp_path / "_sync_sessions.py"
    target.write_bytes(target.read_bytes() + b"\n")
    assert generate.main(["--check"], tmp_path) == 1
    assert "run: python -m adjourn.sdk.generate" in capsys.readouterr().err
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    target.unlink()
    assert generate.main(["--check"], tmp_path) == 1
    target.with_name("_sync_more.py").touch()
    assert generate.main([], tmp_path) == 1
    assert "_sync_more.py has no source" in capsys.readouterr().err


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """An argument that it does not know writes nothing and shows the usage."""
    assert generate.main(["--chekc"]) == 2
    assert generate.USAGE in capsys.readouterr().err


@pytest.mark.parametrize("line", ["x = asyncpg.connect()", "from anyio import to_awaitable", "value = (await\n  f())"])
def test_what_has_no_synchronous_form_is_an_error(line: str) -> None:
    """A word of the asynchronous kind that no rule covers stops the generator."""
    with pytest.raises(ValueError, match=r"no synchronous form; add a rule to generate\.py"):
        generate.unasync(f'"""A client."""\n{line}\n')


def test_each_rule() -> None:
    """Coroutines, awaits, contexts, loops, sleeping and imports have their synchronous form."""
    source = '''"""It."""
import asyncio
import random

async def f():
    async with AsyncClient() as c:
        await asyncio.sleep(1)
        async for x in c: await c.aclose()
async def __aenter__(self): ...
'''
    assert generate.unasync(source).splitlines()[1:] == [
        "import random",
        "import time",
        "",
        "def f():",
        "    with Client() as c:",
        "        time.sleep(1)",
        "        for x in c: c.close()",
        "def __enter__(self): ...",
    ]


def test_imports_are_sorted_by_their_new_names() -> None:
    """As ruff wants them; a loop that only passes on is one word without `async`."""
    source = '"""It."""\nfrom a._async_b import (\n    B,\n)\nfrom a._c import C\n\nfor x in y.z:\n    yield x\n'
    made = generate.unasync(source).splitlines()[1:]
    assert made == ["from a._c import C", "from a._sync_b import (", "    B,", ")", "", "yield from y.z"]


@pytest.mark.parametrize("name", BOTH)
def test_both_kinds_have_the_same_methods(name: str) -> None:
    """Each public method of one class is on the other, with the same parameters; only one of them is awaited."""
    ours, theirs = getattr(adjourn.sdk, name), getattr(adjourn.sdk, name.removeprefix("Async"))
    names = [name for name in vars(ours) if not name.startswith("_")]
    assert names == [name for name in vars(theirs) if not name.startswith("_")]
    for each in names:
        mine, other = getattr(ours, each), getattr(theirs, each)
        if isinstance(mine, property):
            continue
        assert list(inspect.signature(mine).parameters.values()) == list(inspect.signature(other).parameters.values())
        assert not inspect.iscoroutinefunction(other)
        assert not inspect.isasyncgenfunction(other)
