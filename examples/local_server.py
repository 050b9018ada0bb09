"""A server for an example: `adjourn serve` on a free port, over a folder of its own.

`ADJOURN_URL` and `ADJOURN_KEY` name one that runs already; `ADJOURN_DATA_DIR` a folder that is kept.
"""

from __future__ import annotations

import json
import os
import re
import signal
import string
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import adjourn
from adjourn.sdk import Client
from adjourn.sdk.models_sessions import SessionAnswer


@contextmanager
def connected(example: Path) -> Generator[Client]:
    """A client of the server that is named, or of one that runs as long as the block."""
    if url := os.environ.get("ADJOURN_URL"):
        with Client(url, os.environ.get("ADJOURN_KEY")) as client:
            yield client
        return
    with folder() as data:
        server = Server(example, data)
        server.start()
        try:
            with server.client() as client:
                yield client
        finally:
            server.stop()


def completion(adjourn: Client, session: SessionAnswer) -> str:
    """What the log has of how a session ended."""
    event = adjourn.event(session.event_id)
    said = event.completion()
    assert said.usage is not None
    assert said.outcome is not None
    how = f"{said.outcome.status} {said.outcome.error_code or ''}".strip()
    return f"completion {said.event_id}: {how}, {said.usage.total_tokens} tokens, {event.cost_usd} USD"


@contextmanager
def folder() -> Generator[Path]:
    """For what the server writes."""
    if kept := os.environ.get("ADJOURN_DATA_DIR"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Path(kept).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="adjourn-example-") as name:
        yield Path(name)


class Server:
    """A process that is started, stopped and killed; what it wrote stays in `data`."""

    def __init__(self, example: Path, data: Path) -> None:
        self._data = data
        self._config = data / "adjourn.yaml"
        self._config.write_text(filled_in(example, data))
        self._key = self._adjourn("keys", "create", "--role", "operator")
        self._url = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "adjourn", "serve", "--port", "0", *self._settings()]
        with open(self._data / "server.log", "a") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self._process = process
        first = process.stdout.readline() if process.stdout else ""
        if not (found := re.search(r"http://\S+", first)):
            process.wait()
            sys.exit(f"the server did not start: see {self._data}/server.log")
        self._url = found[0]

    def stop(self) -> None:
        """As `systemctl stop` does: what was begun is finished."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut does."""
        self._end(signal.SIGKILL)

    def client(self) -> Client:
        return Client(self._url, self._key)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.communicate()
            self._process = None

    def _settings(self) -> list[str]:
        return ["--config", str(self._config), "--set", f"data_dir={self._data}"]

    def _adjourn(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "adjourn", *arguments, *self._settings()]
        return subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout.strip()


def filled_in(example: Path, data: Path) -> str:
    """The example's adjourn.yaml with paths of this machine: Python, the example, what its agent imports, the data."""
    package = Path(adjourn.__file__).parents[1]
    readable = {str(example), str(package), sys.prefix, sys.base_prefix}
    paths = {
        "python": sys.executable,
        "here": str(example),
        "readable": json.dumps(sorted(readable)),
        "data": str(data),
    }
    return string.Template((example / "adjourn.yaml").read_text()).substitute(paths)
