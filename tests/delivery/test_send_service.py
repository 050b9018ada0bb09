from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.delivery.scripted import Scripted

from adjourn.clock import SystemClock
from adjourn.delivery.channel import Channel
from adjourn.delivery.send_service import Sender
from adjourn.destination import Batch, Refusal
from adjourn.errors import DestinationOutage
from adjourn.events import StoredEvent

BATCH = Batch("a/0/0-1", (StoredEvent(0, 0, "default", b"{}", 1, None, ""),))


class Hanging(Scripted):
    """Says nothing until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def open(self) -> None:
        self.begun.set()
        await self.go_on.wait()

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        await self.open()
        return ()


@pytest.mark.parametrize("ending", ["opened", "cut off while it opens", "cut off while it sends"])
def test_a_probe_that_ends_without_a_word_lets_the_next_one_go(ending: str) -> None:
    """Whoever waits for a probe's end does not wait for as long as a lost probe may take."""

    async def run() -> None:
        destination = Hanging()
        channel = Channel(name="a", type="logfile", destination=destination, delay_ms=1, delay_ms_max=1)
        sender = Sender(channel, SystemClock(), on_gone=lambda name, reason: None)
        sender.failed(DestinationOutage("it is away"))
        if ending == "cut off while it sends":
            assert await sender.admitted()
            probe: asyncio.Task[object] = asyncio.create_task(sender.send(BATCH))
        else:
            probe = asyncio.create_task(sender.open())
        await destination.begun.wait()
        waiting = asyncio.create_task(sender.admitted())
        for _ in range(10):  # it asks for its turn, finds that another one probes, and waits
            await asyncio.sleep(0)
        assert not waiting.done()
        if ending == "opened":
            destination.go_on.set()
        else:
            probe.cancel()
        async with asyncio.timeout(20):
            assert await waiting

    asyncio.run(run())


def test_an_event_is_timed_when_it_is_taken() -> None:
    """The latency is there when the destination has answered, of what it took alone; settling comes later."""

    async def run() -> None:
        events = tuple(StoredEvent(0, n, "default", b'{"session":{"session_id":"s"}}', 1, None, "") for n in range(3))
        channel = Channel(name="a", type="logfile", destination=Refusing())
        sender = Sender(channel, SystemClock(), on_gone=lambda name, reason: None)
        await sender.send(Batch("a/0/0-3", events))
        assert sender.stats.latency.count == 2
        assert sender.stats.latency.mean_ms() > 1_000_000

    asyncio.run(run())


class Refusing(Hanging):
    """Does not take the second event."""

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        return [Refusal(1, "bad", "never")]
