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
    command = [str(environment / "bin" / "python"), "-c", "import json, sys; print(sys.prefix)"]
    confined = sandbox.bubblewrap(
        command,
        str(workspace),
        sandbox.Bounds(processes_max=None),
        network=False,
        readable=[sys.base_prefix, str(environment)],
    )
    # Descriptor 3 is where bubblewrap says which process is the first.
    shell = ["/bin/sh", "-c", 'exec "$@" 3>/dev/null', "sh", *confined]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(environment), "")
