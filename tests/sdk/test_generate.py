"""The synchronous client is what the generator makes of the asynchronous one, byte for byte."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from adjourn.sdk import AsyncClient, Client, generate


def test_the_synchronous_client_is_the_generated_one() -> None:
    """_sync.py is, byte for byte, what the generator makes of _async.py."""
    wanted = generate.unasync(generate.SOURCE.read_text(encoding="utf-8")).encode()
    assert generate.TARGET.read_bytes() == wanted, "run: python -m adjourn.sdk.generate"


def test_the_command_checks_what_stands_there() -> None:
    """`python -m adjourn.sdk.generate --check` succeeds on the tree as it is, and writes nothing."""
    before = generate.TARGET.stat().st_mtime_ns
    command = [sys.executable, "-m", "adjourn.sdk.generate", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert generate.TARGET.stat().st_mtime_ns == before


def test_check_refuses_and_writing_mends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One byte more fails the check, which says what to run; running it mends the file."""
    target = tmp_path / "_sync.py"
    target.write_bytes(generate.TARGET.read_bytes() + b"\n")
    monkeypatch.setattr(generate, "TARGET", target)
    assert generate.main(["--check"]) == 1
    assert "run: python -m adjourn.sdk.generate" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    target.unlink()
    assert generate.main(["--check"]) == 1


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


def test_both_clients_have_the_same_methods() -> None:
    """Each public method of one is on the other, with the same parameters; only one of them is awaited."""
    names = [name for name in vars(AsyncClient) if not name.startswith("_")]
    assert names == [name for name in vars(Client) if not name.startswith("_")]
    for name in names:
        ours, theirs = getattr(AsyncClient, name), getattr(Client, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert (inspect.iscoroutinefunction(ours), inspect.iscoroutinefunction(theirs)) == (True, False)
