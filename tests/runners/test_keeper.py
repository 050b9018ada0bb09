"""What keeps programs: they die with the server, however that ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from adjourn.runners.sandbox import Isolation
from tests.runners.rigs import NO_BUBBLEWRAP, strays

with_bubblewrap = pytest.param("bubblewrap", marks=pytest.mark.skipif(bool(NO_BUBBLEWRAP), reason=NO_BUBBLEWRAP))
either = pytest.mark.parametrize("isolation", ["none", with_bubblewrap])

SERVER = """
import asyncio, sys
from pathlib import Path
from adjourn.runners.command import CommandRunner
from tests.runners.rigs import asked, opening, settings

async def main():
    runner = CommandRunner(settings(sys.argv[1]))
    await runner.open(opening(Path(sys.argv[2])))
    async for event in runner.turn("sess_1", asked("hang", deed="fork")):
        sys.stdout.write("running\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


@either
def test_programs_die_with_a_server_that_is_killed(tmp_path: Path, isolation: Isolation) -> None:
    """SIGKILL of the server ends its programs and their grandchildren, also those that have left session and group."""
    command = [sys.executable, "-c", SERVER, isolation, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "running\n"
        assert strays(f"grandchild of {tmp_path}")
        server.kill()
    until = time.monotonic() + 60
    while strays(f"grandchild of {tmp_path}") or strays(str(tmp_path)):
        assert time.monotonic() < until, (strays(f"grandchild of {tmp_path}"), strays(str(tmp_path)))
        time.sleep(0.02)
