"""Pauses that meet what goes on beside them: looks at the database, a reload, a destination that is gone."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from tests.delivery.scripted import Scripted, Slow, called, delivering, put, reload, settled

import adjourn.delivery.service
from adjourn.database import Reader, Tx
from adjourn.delivery import pauses
from adjourn.errors import DestinationOutage
from adjourn.node import Node

DEADLINE_S = 60


class Held:
    """A function for the database that stands still behind its work, in the database's thread, while it is told to."""

    def __init__(self) -> None:
        self.holding = False
        self.count = 0
        self.worked = threading.Event()
        self.go = threading.Event()

    def done(self) -> None:
        self.count += 1
        if self.holding:
            self.worked.set()
            assert self.go.wait(DEADLINE_S)


class HeldLook(Held):
    def __call__(self, reader: Reader) -> dict[str, str]:
        found = paused(reader)
        self.done()
        return found


class HeldPause(Held):
    def __call__(self, tx: Tx, name: str, reason: str, now_ms: int) -> None:
        self.done()
        pause(tx, name, reason, now_ms)


paused, pause = pauses.paused, pauses.pause


async def stays(node: Node, state: str) -> None:
    for _ in range(30):
        assert node.delivery.gates["scripted"] == state
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("to", ["paused", "closed"])
def test_what_was_read_before_a_pause_or_a_resumption_does_not_undo_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """A look at the database began before, and is answered after; from the acknowledgement on, the new state holds."""
    look = HeldLook()
    monkeypatch.setattr(pauses, "paused", look)

    async def run() -> None:
        async with delivering(tmp_path, monkeypatch, Scripted()) as node, asyncio.timeout(DEADLINE_S):
            if to == "closed":
                await node.delivery.pause("scripted", "a move")
            look.holding = True
            await asyncio.to_thread(look.worked.wait, DEADLINE_S)
            look.holding = False
            change = node.delivery.pause("scripted", "a move") if to == "paused" else node.delivery.resume("scripted")
            changing = asyncio.create_task(change)
            while bool(await node.database.read(paused)) is not (to == "paused"):
                await asyncio.sleep(0.01)
            await asyncio.wait({changing}, timeout=1.0)
            look.go.set()
            await changing
            await stays(node, to)

    asyncio.run(run())


def test_a_pause_given_while_settings_are_reloaded_is_obeyed_by_what_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old destination still finishes its batch when the pause is acknowledged; the new one is paused from its
    first moment, and gets its backlog once it is resumed."""
    look = HeldLook()
    monkeypatch.setattr(pauses, "paused", look)
    monkeypatch.setattr(adjourn.delivery.service, "PAUSES_EVERY_S", 3600.0)

    async def run() -> None:
        slow = Slow()
        async with delivering(tmp_path, monkeypatch, slow) as node, asyncio.timeout(DEADLINE_S):
            await put(node, 1)
            await called(slow)
            reloading = asyncio.create_task(reload(node, batch_size=7))
            while look.count < 2:  # one at the start, and that of the reload
                await asyncio.sleep(0.01)
            await node.delivery.pause("scripted", "a move")
            slow.go.set()
            assert (await reloading).started == ["scripted"]
            await put(node, 1, start=1)
            await stays(node, "paused")
            assert slow.taken == ["s0"]
            await node.delivery.resume("scripted")
            await settled(node)
            assert slow.taken == ["s0", "s1"]

    asyncio.run(run())


def test_a_destination_that_is_gone_stays_paused_while_that_is_being_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the database is looked at before its pause is in it, it is asked no more; a resumption that comes
    meanwhile is of that pause, and gets it going."""
    look, held = HeldLook(), HeldPause()
    monkeypatch.setattr(pauses, "paused", look)
    monkeypatch.setattr(pauses, "pause", held)
    monkeypatch.setattr(adjourn.delivery.service, "PAUSES_EVERY_S", 0.05)
    held.holding = True

    async def run() -> None:
        gone = Scripted(DestinationOutage("no more, ever", gone=True))
        async with delivering(tmp_path, monkeypatch, gone) as node, asyncio.timeout(DEADLINE_S):
            while look.count < 4:  # what is written down at first is; the pause holds up whatever is written later
                await asyncio.sleep(0.01)
            await put(node, 1)
            await asyncio.to_thread(held.worked.wait, DEADLINE_S)
            seen = look.count
            while look.count == seen:
                await asyncio.sleep(0.01)
            await stays(node, "paused")
            assert len(gone.calls) == 1
            resuming = asyncio.create_task(node.delivery.resume("scripted"))
            held.go.set()
            assert await resuming
            await settled(node)
            assert gone.taken == ["s0"]
            assert node.delivery.gates["scripted"] == "closed"

    asyncio.run(run())
