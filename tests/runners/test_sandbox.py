"""What a program that is run as an agent can see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adjourn.runners import sandbox

WHY_NOT = sandbox.why_no_bubblewrap()
needs_bubblewrap = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it works here")


@needs_bubblewrap
def test_the_python_of_a_virtual_environment_may_be_the_command(tmp_path: Path) -> None:
    """Its Python is a link within a folder that is readable; it starts, and knows its environment."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    command = [str(environment / "bin" / "python"), "-c", "import sys; print(sys.prefix)"]
    confined = sandbox.bubblewrap(
        command,
        str(workspace),
        sandbox.Bounds(processes_max=None),
        network=False,
        readable=[sys.base_prefix, str(environment)],
    )
    process = sandbox.spawn("bubblewrap", confined, env={}, cwd="/")
    said, wrong = process.communicate(b"\n")  # the line that it waits for
    assert (process.returncode, said.split()[-1].decode(), wrong) == (0, str(environment), b"")
