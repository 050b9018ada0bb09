"""`adjourn serve` as a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

STOP_S = 20


class Serving(NamedTuple):
    process: subprocess.Popen[str]
    url: str
    told: list[str]
    """The lines that it printed until it listened, and those that were read since."""

    def read_until(self, pattern: str) -> str:
        """The first line that matches. Raises EOFError if it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(line)
            if re.search(pattern, line):
                return line
        raise EOFError("".join(self.told))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """(exit code, all that was printed)."""
        self.process.send_signal(how)
        rest, _ = self.process.communicate(timeout=STOP_S)
        return self.process.returncode, "".join(self.told) + rest


@contextmanager
def serving(directory: Path, *arguments: str) -> Generator[Serving]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ADJOURN_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "adjourn", "serve", "--port", "0", *arguments],
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        server = Serving(process, "", [])
        line = server.read_until(r"^Adjourn .* on http")
        yield server._replace(url=line.split()[-1])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
