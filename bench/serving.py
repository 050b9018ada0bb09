"""A server process to measure against: started on a free port in a folder of its own, stopped at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
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
    """In the server's process: both destinations, or none; the key and the port go into a file."""
    from adjourn.http.server import serve
    from adjourn.node import Node
    from adjourn.settings import DestinationSettings, RoutingSettings, ServerSettings, Settings

    both = (
        DestinationSettings(type="database", connection_string=f"sqlite:///{folder}/completions.db"),
        DestinationSettings(type="logfile", log_path=f"{folder}/completions.jsonl"),
    )
    settings = Settings(
        data_dir=folder,
        server=ServerSettings(port=0),
        routing=RoutingSettings(destinations=both if destinations == "both" else ()),
    )
    node = Node(settings)

    async def ready(url: str) -> None:
        _, secret = await node.keys.create(tenant="default", name="bench", role="admin")
        _announce(Path(folder), f"{url.rsplit(':', 1)[1]} {secret}")

    await serve(node, on_ready=ready)


def _announce(folder: Path, text: str) -> None:
    (folder / "ready.new").write_text(text)
    os.replace(folder / "ready.new", folder / "ready")


@contextmanager
def serving(*, destinations: str = "both") -> Generator[Serving, None, None]:
    with tempfile.TemporaryDirectory(prefix="adjourn-bench-", dir=Path.cwd()) as folder:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", ADJOURN, folder, destinations])
        try:
            ready = Path(folder) / "ready"
            while not ready.exists():
                if process.poll() is not None or time.perf_counter() - started > 30:
                    raise RuntimeError("the server did not start")
                time.sleep(0.005)
            port, key = ready.read_text().split()
            serving = Serving(int(port), key, process.pid, 0.0, Path(folder))
            while serving.get("/readyz")["status"] != "ok":
                time.sleep(0.005)
            serving.ready_s = time.perf_counter() - started
            yield serving
        finally:
            process.terminate()
            process.wait(30)
