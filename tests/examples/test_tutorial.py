"""docs/tutorial/first-session.md, as it is pasted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.serving import serving

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "first-session.md"
COMMAND = ".venv/bin/adjourn"


@pytest.mark.timeout(400)  # a dozen starts of the command line, on a machine that may be slow
def test_the_first_session_goes_as_the_tutorial_says(tmp_path: Path) -> None:
    """Each block of commands works in its turn: the third turn reaches the limit, and the completion says so."""
    first, *blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert first == f"{COMMAND} serve --set data_dir=tutorial\n"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / COMMAND).symlink_to(Path(sys.executable).with_name("adjourn"))
    with serving(tmp_path, *shlex.split(first)[2:]) as server:
        pasted = "\n".join(blocks).replace("http://127.0.0.1:8700", server.url)
        done = subprocess.run(
            ["/bin/bash", "-c", pasted],
            cwd=tmp_path,
            env={**os.environ, "ADJOURN_URL": server.url, "COLUMNS": "160"},
            capture_output=True,
            text=True,
            check=False,
            timeout=350,
        )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert re.search(r'event: text_delta\nid: 10\ndata: .*"text":"hello again"', said)
    assert "is terminated (max_turns) and takes no more messages" in said
    assert '"outcome":{"status":"timeout","error_code":"max_turns","final_message":"once more"}' in said
    assert re.search(r"second +hybrid +idle +2 +8 ", said)
