"""Leases and real processes: a dead holder on this machine is known to be dead, a stopped one is waited for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.databases.rigs import KINDS
from tests.logs.rigs import LogRig

from adjourn.clock import ManualClock
from adjourn.database import LEASE_MS
from adjourn.errors import Unavailable
from adjourn.log import Lease
from adjourn.logs.leases import process_is_gone, this_process
from adjourn.testing.faults import run_python, stopped

HOLDER = """
import asyncio, sys
from adjourn.clock import SystemClock
from adjourn.databases.choose import database_for
from adjourn.logs.leases import SqlLeases, this_process
from adjourn.testing.database_rig import Recorder

async def main():
    database = database_for(sys.argv[1])
    await database.open(Recorder())
    leases = SqlLeases(database, SystemClock(), this_process("node_child"))
    while await leases.take("role"):
        print("held", flush=True)
        await asyncio.sleep(0.1)

asyncio.run(main())
"""


def held_by_child(url: str) -> subprocess.Popen[bytes]:
    child = run_python(HOLDER, url)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    return child


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_holder_is_replaced_at_once(kind: str, tmp_path: Path) -> None:
    """After SIGKILL of the process that holds a role, another on this machine takes it over without waiting; before
    that, while it merely stands still, not until LEASE_MS have passed."""
    rig = LogRig(kind, tmp_path)
    child = held_by_child(rig.url)

    async def run() -> None:
        clock = ManualClock()
        node = await rig.open(clock, this_process("node_test"))
        with stopped(child.pid):
            assert await node.leases.take("role") is None
            clock.advance(LEASE_MS / 1000 - 0.01)
            assert await node.leases.take("role") is None, "stopped is not dead"
        child.kill()
        child.wait()
        taken = await node.leases.take("role")
        assert taken is not None
        assert taken.epoch > 1
        await rig.shut(node)

    asyncio.run(run())


async def patiently(take: Callable[[str], Awaitable[Lease | None]]) -> Lease | None:
    """A process that was stopped in the middle of a write holds its locks until the database takes them away."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return await take("role")
        except Unavailable:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_holder_is_replaced_after_its_lease(kind: str, tmp_path: Path) -> None:
    """A process that stands still loses its role after LEASE_MS, and finds out when it goes on."""
    rig = LogRig(kind, tmp_path)
    child = held_by_child(rig.url)

    async def run() -> None:
        clock = ManualClock()
        node = await rig.open(clock, this_process("node_test"))
        with stopped(child.pid):
            assert await patiently(node.leases.take) is None
            clock.advance(LEASE_MS / 1000)
            assert await patiently(node.leases.take) is not None
        assert await asyncio.to_thread(child.wait, 20) == 0, "it went on as if it held the role"
        await rig.shut(node)

    asyncio.run(run())


def test_a_process_is_gone_only_for_certain() -> None:
    """Death is judged by host, boot, process id and start time; anything unknown counts as alive."""
    me = this_process("node_x")
    assert me.startswith("node_x@")
    assert not process_is_gone(me)
    node, _, where = me.rpartition("@")
    host, boot, pid, start = where.split(":")
    assert process_is_gone(f"{node}@{host}:{boot}:{pid}:{int(start) + 1}"), "the id was given to another process"
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_is_gone(f"{node}@{host}:{boot}:{child.pid}:{start}"), "a zombie runs no more"
    child.wait()
    for other in (
        f"{node}@other:{boot}:{pid}:1",
        f"{node}@{host}:other:{pid}:1",
        "node_x",
        "",
        f"{node}@{host}:{boot}:x:1",
    ):
        assert not process_is_gone(other), other
