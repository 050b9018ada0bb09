"""What the fault tests share: settings with a database destination, events, and a process that forks programs quickly.

`Nursery` is a process that has imported everything and opened nothing; each `start` forks a child that runs a function
of the given program. So a start costs milliseconds, and hundreds of kills a few seconds.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests import postgres

from adjourn import configfile
from adjourn.delivery.conservation import Balance
from adjourn.node import Node
from adjourn.settings import Settings
from adjourn.testing.account import Account, compare, logged, stored
from adjourn.testing.faults import run_python

IMPORTS = """
import asyncio, itertools, json, os, random, signal, sys, threading, time
import psycopg
import adjourn, adjourn.http.server, adjourn.databases.postgres, adjourn.databases.sqlite, adjourn.logs.window
import adjourn.destinations.database_postgres, adjourn.http.app, numpy
from adjourn import configfile
from adjourn.node import Node
settings = configfile.parse(json.loads(sys.argv[1]), "test", {})
"""

_NURSERY = """
def _main():
    for line in sys.stdin:
        argument = json.loads(line)
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(out)
            try:
                run(argument, into)
            finally:
                os._exit(0)
        os.close(into)
        seconds = argument["kill_after_s"]
        import select
        if argument["once_it_spoke"]:
            select.select([out], [], [], 60)
        parts, deadline = [], time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([out], [], [], left)[0]:
                part = os.read(out, 65536)
                if not part:
                    break
                parts.append(part)
        ended = os.waitpid(pid, os.WNOHANG)[0] != 0
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        while part := os.read(out, 65536):
            parts.append(part)
        os.close(out)
        print(json.dumps({"ended": ended, "said": b"".join(parts).decode()}), flush=True)
_main()
"""


class Nursery:
    """`program` defines `run(argument, pipe)`; what a child writes to `pipe` survives its death."""

    def __init__(self, program: str, settings: Mapping[str, object]) -> None:
        self._process = run_python(IMPORTS + program + _NURSERY, json.dumps(settings))

    def kill_one(self, *, after_s: float, once_it_spoke: bool = False, **argument: object) -> tuple[bool, list[str]]:
        """Start a child, SIGKILL it after so long (behind its first line, if asked for: a busy machine starts slowly).
        (whether it was killed before its end, the lines that it said)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps({**argument, "kill_after_s": after_s, "once_it_spoke": once_it_spoke}).encode() + b"\n"
        )
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        *whole, cut = answer["said"].split("\n")
        assert cut == ""  # a line is one write
        return not answer["ended"], whole

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sender(threading.Thread):
    """Posts batches of events, each until it is answered, and keeps what was acknowledged."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.acknowledged: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.tries = self.batches = 0
        self.finish = threading.Event()
        self._port = port

    def run(self) -> None:
        while not self.finish.is_set():
            sessions = [f"{self.name}-{self.batches}-{number}" for number in range(5)]
            self.batches += 1
            body = b"\n".join(raw(session, event_id=f"evt_{session}") for session in sessions)
            while not self._posted(body):
                self.tries += 1
                time.sleep(0.005)
            self.acknowledged += sessions

    def _posted(self, body: bytes) -> bool:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)) as connection:
                connection.request("POST", "/v1/events", body, {"content-type": "application/x-ndjson"})
                answer = connection.getresponse()
                document = json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return False
        if answer.status != 202:
            assert answer.status in (429, 503), document
            return False
        self.statuses.update(result["status"] for result in document["results"])
        return True


def url_of(kind: str, directory: Path) -> str:
    return f"sqlite:///{directory}/adjourn.db" if kind == "sqlite" else postgres.fresh_database()


def mapping(directory: Path, url: str = "", **sections: Mapping[str, object]) -> dict[str, Any]:
    """Settings with one database destination beside the database, as a mapping that can be sent to a child."""
    whole: dict[str, Any] = {name: dict(section) for name, section in sections.items()}
    whole["data_dir"] = str(directory)
    whole.setdefault("database", {})["url"] = url or f"sqlite:///{directory}/adjourn.db"
    whole.setdefault("validation", {}).setdefault("require_authentication", False)
    whole.setdefault("capture", {}).setdefault("flush_interval_ms", 200)
    whole.setdefault("routing", {}).setdefault(
        "destinations", [{"type": "database", "connection_string": f"sqlite:///{directory}/out.db"}]
    )
    return whole


def settings_of(mapped: Mapping[str, object]) -> Settings:
    return configfile.parse(mapped, "test", {})


def event(session_id: str, **more: object) -> dict[str, object]:
    return {"session": {"session_id": session_id}, **more}


def raw(session_id: str, **more: object) -> bytes:
    return json.dumps(event(session_id, **more)).encode()


async def audited(node: Node, acknowledged: Sequence[str], out: str) -> tuple[Account, Account, list[Balance]]:
    """(the log's account, the destination's, the balances), after everything was delivered."""
    await node.delivery.drained()
    return (
        compare(acknowledged, await logged(node)),
        compare(acknowledged, stored(out)),
        await node.delivery.balances(),
    )


def assert_exact(accounts: tuple[Account, Account, list[Balance]]) -> None:
    """Nothing acknowledged is missing and nothing is doubled, in the log and at the destination; all is accounted."""
    log, destination, balances = accounts
    assert (log.missing, log.doubled) == ([], [])
    assert (destination.missing, destination.doubled) == ([], [])
    assert log.found == destination.found
    assert [(balance.difference, balance.pending) for balance in balances] == [(0, 0)] * len(balances)


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
