"""SIGSTOP of one of two processes that share one SQLite file."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faults.rigs import IMPORTS, assert_exact, audited, ended, mapping, raw, settings_of

import adjourn.delivery.service
import adjourn.logs.leases
from adjourn.errors import Unavailable
from adjourn.node import Node
from adjourn.testing.faults import run_python, stopped

LEASE_MS = 800

OTHER = """
import adjourn.delivery.service, adjourn.logs.leases
adjourn.delivery.service.LEASE_MS = adjourn.logs.leases.LEASE_MS = int(sys.argv[2])
def hold(tx):
    tx.run("UPDATE installation SET created_ms = created_ms")
    print("holding", flush=True)
    time.sleep(1.5)
async def main():
    async with Node(settings) as node:
        print("open", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command, _, session = line.strip().partition(" ")
            if command == "hold":
                await node.database.write(hold)
            else:
                body = json.dumps({"session": {"session_id": session}, "event_id": f"evt_{session}"}).encode()
                print((await node.ingest.take("default", [body], source="test"))[0].status, flush=True)
asyncio.run(main())
"""


class Other:
    """A second node over the same file, in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()


@contextmanager
def other_node(mapped: dict[str, object]) -> Generator[Other]:
    other = Other(run_python(IMPORTS + OTHER, json.dumps(mapped), str(LEASE_MS)))
    try:
        assert other.hear() == "open"
        yield other
    finally:
        ended(other.process)


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adjourn.delivery.service, "LEASE_MS", LEASE_MS)
    monkeypatch.setattr(adjourn.logs.leases, "LEASE_MS", LEASE_MS)


async def take(node: Node, *sessions: str) -> list[str]:
    raws = [raw(session, event_id=f"evt_{session}") for session in sessions]
    return [result.status for result in await node.ingest.take("default", raws, source="test")]


def test_the_live_process_works_on_and_takes_the_roles_of_the_stopped_one(tmp_path: Path) -> None:
    """While the one that delivers stands still, the other writes at once and, after the lease has run out, delivers;
    when the first goes on it is fenced, and nothing is doubled or missing."""
    mapped = mapping(tmp_path)
    sessions: list[str] = []

    async def run(other: Other) -> None:
        async with Node(settings_of(mapped)) as node:
            other.tell("take first")
            assert await asyncio.to_thread(other.hear) == "accepted"
            sessions.append("first")
            await node.delivery.drained()
            assert node.delivery.stats["database"].success == 0
            with stopped(other.process.pid):
                began = time.monotonic()
                for number in range(30):
                    assert await take(node, f"live-{number}") == ["accepted"]
                    sessions.append(f"live-{number}")
                assert time.monotonic() - began < 2.0
                async with asyncio.timeout(15):
                    await node.delivery.drained()
                assert node.delivery.stats["database"].success == 30
            for number in range(10):
                other.tell(f"take again-{number}")
                assert await asyncio.to_thread(other.hear) == "accepted"
                assert await take(node, f"again-{number}") == ["duplicate"]
                sessions.append(f"again-{number}")
            assert_exact(await audited(node, sessions, f"sqlite:///{tmp_path}/out.db"))

    with other_node(mapped) as other:
        asyncio.run(run(other))


def test_while_the_stopped_process_holds_the_write_turn_callers_are_told_and_not_hung(tmp_path: Path) -> None:
    """A write behind a process that stands still inside its transaction ends with Unavailable within about twice the
    write timeout; when that process goes on, a resend is exact."""
    mapped = mapping(tmp_path, database={"write_timeout_ms": 700})

    async def run(other: Other) -> None:
        async with Node(settings_of(mapped)) as node:
            assert await take(node, "before") == ["accepted"]
            other.tell("hold")
            assert await asyncio.to_thread(other.hear) == "holding"
            with stopped(other.process.pid):
                began = time.monotonic()
                with pytest.raises(Unavailable, match="send it again"):
                    await take(node, "behind")
                assert time.monotonic() - began < 2 * 0.7 + 2.0
            async with asyncio.timeout(15):
                while True:
                    try:
                        assert (await take(node, "behind"))[0] in ("accepted", "duplicate")
                        break
                    except Unavailable:
                        continue
                assert_exact(await audited(node, ["before", "behind"], f"sqlite:///{tmp_path}/out.db"))

    with other_node(mapped) as other:
        asyncio.run(run(other))
