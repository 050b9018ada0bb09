"""What a user sees of the settings of `capture`, and of how long stopping takes."""

from __future__ import annotations

import os
import socket
import time

import pytest
from tests.faults.rigs import event, raw, settings_of
from tests.flipping.rigs import Flipped

from adjourn.completion.spool import Spool
from adjourn.errors import SpoolFull
from adjourn.node import Node
from adjourn.runtime import Runtime
from adjourn.testing.account import logged

NO_DATABASE = {"database.url": "postgresql://postgres@127.0.0.1:1/none"}
"""Nothing leaves the spool."""


def batches(flip: Flipped) -> list[int]:
    """The sizes of the batches in which 100 spooled events reach the log: none waits for a batch to be full."""
    spool = Spool(flip.directory / "spool")
    for number in range(100):
        spool.append(raw(f"s{number}"))
    spool.close()
    with Runtime(settings_of(flip.mapped)) as runtime:
        runtime.start()
        runtime.drain()

        async def counts(node: Node) -> list[int]:
            rows = await node.database.read(lambda r: r.rows("SELECT count FROM log_blocks ORDER BY first_offset"))
            return [int(row[0] or 0) for row in rows]

        return runtime.call(counts)


def orphan_is_found(flip: Flipped) -> bool:
    """Whether what another process left is taken up within half a second; one's own events never wait."""
    with Runtime(settings_of(flip.mapped)) as runtime:
        runtime.start()
        runtime.capture(event("own")).result(20)
        orphan = Spool(flip.directory / "spool")
        orphan.append(raw("orphan"))
        orphan.close()
        deadline = time.monotonic() + (0.5 if settings_of(flip.mapped).capture.flush_interval_ms > 5_000 else 20)
        while (missing := "orphan" not in runtime.call(logged)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return not missing


def folder_of_the_spool(flip: Flipped) -> str:
    runtime = Runtime(settings_of(flip.mapped))
    runtime.capture(event("s"))
    runtime.stop(0.1)
    (segment,) = flip.directory.rglob("*.jsonl")
    return str(segment.parent)


def two_megabytes(flip: Flipped) -> str:
    """What becomes of them where nothing leaves the spool."""
    runtime, refused = Runtime(settings_of(flip.mapped)), 0
    for number in range(1000):
        try:
            runtime.capture(event(f"s{number}", padding="x" * 2000))
        except SpoolFull:
            refused += 1
    dropped = runtime.spool_stats().dropped
    runtime.stop(0.1)
    assert not (refused and dropped)
    return "some are refused" if refused > 300 else "the oldest are dropped" if dropped > 300 else "all are kept"


def flushes(flip: Flipped) -> int:
    """How often the spool's file is flushed while 40 events are captured in a fifth of a second."""
    flushed: list[int] = []
    real = os.fdatasync

    def counting(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".jsonl"):
            flushed.append(descriptor)
        real(descriptor)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fdatasync", counting)
        runtime = Runtime(settings_of(flip.mapped))
        for number in range(40):
            runtime.capture(event(f"s{number}"))
            time.sleep(0.005)
        count = len(flushed)
        runtime.stop(0.1)
        return count


def how_it_is_flushed(flip: Flipped) -> str:
    count = flushes(flip)
    return {0: "never", 40: "at each event"}.get(count, "now and then")


def how_often_it_is_flushed(flip: Flipped) -> str:
    count = flushes(flip)
    return "often" if count > 4 else "seldom" if count else "never"


def stop_of_one_whose_server_is_silent(flip: Flipped) -> str:
    """How long stopping goes on trying to send."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()[:2]
        runtime = Runtime(settings_of(flip.mapped), url=f"http://{host}:{port}", key="adj_none")
        runtime.capture(event("s"))
        runtime.start()
        began = time.monotonic()
        runtime.stop()
        return "long" if time.monotonic() - began > 1.1 else "short"
