"""`adjourn gateway` as a process of its own, on a free port, and the completions that it made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

WAIT_S = 60.0
SETTINGS = "routing: {destinations: [{type: logfile, log_path: out.jsonl}]}\n"


class Gateway(NamedTuple):
    process: subprocess.Popen[str]
    url: str
    directory: Path
    told: list[str]
    """What it printed until it was ready."""

    def completions(self) -> list[dict[str, Any]]:
        return completions(self.directory)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(how)
        told, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, "".join(self.told) + told

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def completions(directory: Path) -> list[dict[str, Any]]:
    """All that were delivered, the oldest first."""
    path = directory / "out.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [found.get("event", found) if isinstance(found, dict) else found for found in map(json.loads, lines)]


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return found


@contextmanager
def gateway(directory: Path, upstream: str, *arguments: str, **environ: str) -> Generator[Gateway]:
    if not (directory / "adjourn.yaml").exists():
        (directory / "adjourn.yaml").write_text(SETTINGS)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ADJOURN_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "adjourn", "gateway", "--upstream", upstream, "--port", "0", *arguments],
        cwd=directory,
        env={**inherited, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("  completions"):  # the last line of what it says at the start
                break
        else:
            raise EOFError("".join(told))
        url = next(line for line in told if " gateway on http" in line).split()[-1]
        yield Gateway(process, url, directory, told)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
