"""A real server in a process of its own, and what tests say to it.

`with serving(url) as server:` starts it on any free port over that database; `server.keys` has one secret for each role
of the tenants `acme` and `other`.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from adjourn.testing.faults import run_python

_PROGRAM = """
import asyncio, importlib, json, sys
from adjourn import configfile
from adjourn.http.server import serve
from adjourn.node import Node
from adjourn.security.roles import MAY

for name, value in json.loads(sys.argv[3]).items():
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module(module), constant, value)

node = Node(configfile.parse(json.loads(sys.argv[1]), "test", {}))

async def ready(url):
    keys = {}
    for tenant in ("acme", "other") if sys.argv[2] == "keys" else ():
        for role in MAY:
            keys[f"{tenant}/{role}"] = (await node.keys.create(tenant=tenant, name=role, role=role))[1]
    print(json.dumps({"url": url, "keys": keys}), flush=True)

asyncio.run(serve(node, on_ready=ready))
print("stopped", flush=True)
"""

_numbers = itertools.count()


class Serving:
    """A server that runs. Its process is killed at the end of the block unless it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, keys: Mapping[str, str]) -> None:
        self.process = process
        self.url = url
        self.keys = dict(keys)
        self.client = httpx.Client(base_url=url, timeout=20, trust_env=False)

    def bearer(self, who: str = "acme/admin") -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[who]}"}

    def request(
        self, method: str, path: str, *, who: str = "acme/admin", headers: Mapping[str, str] | None = None, **kw: Any
    ) -> httpx.Response:
        return self.client.request(method, path, headers={**self.bearer(who), **(headers or {})}, **kw)

    def get(self, path: str, *, who: str = "acme/admin") -> httpx.Response:
        return self.request("GET", path, who=who)

    def post(
        self, body: bytes, kind: str = "application/x-ndjson", *, who: str = "acme/admin", **headers: str
    ) -> httpx.Response:
        """`POST /v1/events`; the names of headers with `_` for `-`."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", "/v1/events", who=who, content=body, headers={"content-type": kind, **more})

    def socket(self) -> socket.socket:
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return socket.create_connection((host, int(port)), timeout=20)

    def head(self, *lines: str, who: str = "acme/admin") -> bytes:
        """A request's head for a raw socket: `server.head("POST /v1/events", "content-length: 3")`."""
        first, *rest = lines
        return "\r\n".join(
            [f"{first} HTTP/1.1", "host: x", f"authorization: Bearer {self.keys[who]}", *rest, "", ""]
        ).encode()

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(
    database_url: str,
    directory: Path,
    *,
    keys: Mapping[str, str] | None = None,
    patches: Mapping[str, float] | None = None,
    **settings: Mapping[str, object],
) -> Generator[Serving]:
    """`keys` are those of an earlier server on the same database; without, new ones are made. `patches` are constants
    of modules in the server's process, for bounds that nobody can wait for. `settings` are sections."""
    whole: dict[str, Any] = {name: dict(section) for name, section in settings.items()}
    whole.setdefault("server", {}).setdefault("port", 0)
    whole.setdefault("database", {})["url"] = database_url
    whole["data_dir"] = str(directory)
    process = run_python(_PROGRAM, json.dumps(whole), "keys" if keys is None else "", json.dumps(patches or {}))
    try:
        assert process.stdout is not None
        line = _line(process.stdout)
        started = json.loads(line or '{"url": "", "keys": {}}')
        assert started["url"], "the server did not start"
        server = Serving(process, started["url"], started["keys"] if keys is None else keys)
        try:
            yield server
        finally:
            server.client.close()
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _line(pipe: IO[bytes]) -> bytes:
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.readline()), daemon=True)
    reader.start()
    reader.join(60)
    return found[0] if found else b""


def event(event_id: str | None = None, **session: Any) -> bytes:
    """A small event, with an id of its own unless one is given."""
    number = next(_numbers)
    identity = event_id or f"evt_{os.getpid()}_{number}"
    return json.dumps({"event_id": identity, "session": {"session_id": f"sess_{number}", **session}}).encode()


def is_problem(response: httpx.Response, status: int, code: str) -> bool:
    """Whether it is the problem document that every refusal is."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert {"type", "title", "status", "detail", "code"} <= set(document)
    assert document["status"] == status
    assert document["type"].endswith(document["code"])
    return bool(document["code"] == code and document["detail"])
