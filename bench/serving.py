"""A server process to measure against: started on a free port in a folder of its own, stopped at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

ADJOURN = """
import sys, uvloop
from bench.serving import serve_from
uvloop.run(serve_from(sys.argv[1], sys.argv[2]))
"""


class Serving(msgspec.Struct):
    """A running server. `ready_s`: from the start of its process to its first 200 on /readyz."""

    port: int
    key: str
    pid: int
    ready_s: float
    folder: Path

    def get(self, path: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"authorization": f"Bearer {self.key}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def rss_mb(self) -> float:
        return rss_mb(self.pid)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pending(self) -> dict[str, int]:
        return {d["name"]: d["pending"] for d in self.get("/v1/destinations")}


def rss_mb(pid: int | str = "self") -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def serve_from(folder: str, destinations: str) -> None:
    """In the server's process; `destinations` is a JSON list. The key and the port go into a file."""
    from adjourn import configfile
    from adjourn.http.server import serve
    from adjourn.node import Node

    mapped = {"data_dir": folder, "server": {"port": 0}, "routing": {"destinations": json.loads(destinations)}}
    node = Node(configfile.parse(mapped, "bench", {}))

    async def ready(url: str) -> None:
        _, secret = await node.keys.create(tenant="default", name="bench", role="admin")
        _announce(Path(folder), f"{url.rsplit(':', 1)[1]} {secret}")

    await serve(node, on_ready=ready)


def _announce(folder: Path, text: str) -> None:
    (folder / "ready.new").write_text(text)
    os.replace(folder / "ready.new", folder / "ready")


def database() -> dict[str, object]:
    return {"type": "database", "connection_string": "sqlite:///{folder}/completions.db"}


def logfile() -> dict[str, object]:
    return {"type": "logfile", "log_path": "{folder}/completions.jsonl"}


@contextmanager
def serving(
    *, destinations: Sequence[dict[str, object]] | None = None, folder: Path | None = None
) -> Generator[Serving, None, None]:
    """With the foundation's two destinations unless told otherwise; in a folder that stays, if one is given."""
    wanted = [database(), logfile()] if destinations is None else destinations
    with tempfile.TemporaryDirectory(prefix="adjourn-bench-", dir=Path.cwd()) as fresh:
        place = str(folder or fresh)
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", ADJOURN, place, json.dumps(wanted).replace("{folder}", place)]
        )
        try:
            ready = Path(place) / "ready"
            while not ready.exists():
                if process.poll() is not None or time.perf_counter() - started > 30:
                    raise RuntimeError("the server did not start")
                time.sleep(0.005)
            port, key = ready.read_text().split()
            serving = Serving(int(port), key, process.pid, 0.0, Path(place))
            while serving.get("/readyz")["status"] != "ok":
                time.sleep(0.005)
            serving.ready_s = time.perf_counter() - started
            yield serving
        finally:
            process.terminate()
            process.wait(30)
            (Path(place) / "ready").unlink(missing_ok=True)
