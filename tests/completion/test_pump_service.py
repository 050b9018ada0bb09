"""The pump: real spools on one side; on the other the log of a node, or a receiver that fails as receivers do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.completion.spooling import files, live
from tests.databases.rigs import KINDS
from tests.faults.rigs import mapping, raw, settings_of, url_of

from adjourn.clock import ManualClock
from adjourn.completion import quarantine
from adjourn.completion.pump_service import KeepTorn, Pump, Send
from adjourn.completion.receipts import Receipt, ReceiptDesk, Settled
from adjourn.completion.segments import SpoolReader
from adjourn.completion.spool import Position, Spool
from adjourn.errors import Unavailable
from adjourn.node import Node
from adjourn.testing.account import logged


class Receiver:
    """Takes what it is sent, unless it is told to raise."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.torn: list[tuple[bytes, str]] = []
        self.tries = 0
        self.raises: BaseException | None = None

    async def send(self, producer: str, raws: Sequence[bytes], sequences: Sequence[int]) -> Sequence[Settled]:
        self.tries += 1
        await asyncio.sleep(0)
        if self.raises is not None:
            raise self.raises
        self.batches.append((producer, list(sequences)))
        return [Settled("accepted")] * len(raws)

    async def keep_torn(self, producer: str, torn: Sequence[tuple[bytes, str]]) -> None:
        self.tries += 1
        if self.raises is not None:
            raise self.raises
        self.torn.extend(torn)

    @property
    def numbers(self) -> list[int]:
        return [number for _, numbers in self.batches for number in numbers]


@asynccontextmanager
async def pumping(
    spool: Spool,
    send: Send,
    keep_torn: KeepTorn,
    desk: ReceiptDesk,
    *,
    directory: Path,
    batch_events_max: int = 100,
    look_every_ms: int = 20,
) -> AsyncGenerator[Pump]:
    reader = SpoolReader(directory, own=spool.live_stream)
    pump = Pump(reader, send, keep_torn, desk, batch_events_max=batch_events_max, look_every_ms=look_every_ms)
    running = asyncio.create_task(pump.run())
    try:
        yield pump
    finally:
        pump.stop()
        await asyncio.wait_for(running, 10)
        reader.close()


async def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)


def filled(directory: Path, names: Sequence[str]) -> Spool:
    spool = Spool(directory, fsync="never")
    for name in names:
        spool.append(raw(name))
    return spool


def asked(desk: ReceiptDesk, position: Position) -> str:
    return Receipt(*position, b"", desk).result(0).status


def test_batches_are_bounded_in_order_and_acknowledged_by_deletion(tmp_path: Path) -> None:
    """Each event is sent once, in order, at most so many at a time; what was taken leaves no file behind."""
    spool = filled(tmp_path, [f"s{n}" for n in range(95)])
    receiver, desk = Receiver(), ReceiptDesk()

    async def main() -> None:
        async with pumping(
            spool, receiver.send, receiver.keep_torn, desk, directory=tmp_path, batch_events_max=20
        ) as pump:
            await pump.drained()
            assert pump.moved == 95
            assert receiver.numbers == list(range(1, 96))
            assert max(len(numbers) for _, numbers in receiver.batches) == 20
            position = spool.append(raw("later"))
            await pump.drained()
            assert asked(desk, position) == "accepted"

    asyncio.run(main())
    spool.close()
    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a defect")])
def test_a_receiver_that_fails_gets_the_same_batch_again_and_nothing_overtakes_it(
    tmp_path: Path, error: Exception
) -> None:
    """While it fails nothing is acknowledged or settled and the pump says why; then each event arrives once, in order,
    and the batch that had failed is composed as it was."""
    spool = filled(tmp_path, [f"s{n}" for n in range(10)])
    receiver, desk = Receiver(), ReceiptDesk()
    receiver.raises = error

    async def main() -> None:
        async with pumping(spool, receiver.send, receiver.keep_torn, desk, directory=tmp_path) as pump:
            await until(lambda: receiver.tries >= 3)
            last = [spool.append(raw(f"late {n}")) for n in range(5)][-1]
            assert pump.failing == str(error)
            assert pump.moved == 0
            assert len(files(tmp_path)) == 2
            receiver.raises = None
            await pump.drained()
            assert pump.failing == ""
            assert asked(desk, last) == "accepted"

    asyncio.run(main())
    spool.close()
    assert [numbers for _, numbers in receiver.batches] == [list(range(1, 11)), list(range(11, 16))]


def test_stop_ends_a_pump_whose_receiver_fails_and_leaves_everything_to_the_next(tmp_path: Path) -> None:
    """A receiver that never answers well does not hold up the end; the next pump sends all of it."""
    spool = filled(tmp_path, [f"s{n}" for n in range(10)])
    failing, receiver = Receiver(), Receiver()
    failing.raises = Unavailable("away")

    async def main() -> None:
        async with pumping(spool, failing.send, failing.keep_torn, ReceiptDesk(), directory=tmp_path):
            await until(lambda: failing.tries >= 2)
        spool.close()
        nobody = Spool(tmp_path, fsync="never")
        async with pumping(nobody, receiver.send, receiver.keep_torn, ReceiptDesk(), directory=tmp_path) as pump:
            await pump.drained()

    asyncio.run(main())
    assert receiver.numbers == list(range(1, 11))
    assert files(tmp_path) == []


def test_damaged_lines_are_kept_before_what_is_behind_them_is_sent(tmp_path: Path) -> None:
    """As long as a damaged line cannot be kept nothing is acknowledged; then it is kept whole with the reason, and its
    receipt says that it was dropped."""
    spool = filled(tmp_path, ["a", "b", "c"])
    spool.close()
    (segment,) = tmp_path.glob("*.jsonl")
    lines = segment.read_bytes().splitlines()
    hostile = lines[1].replace(b'"session_id":', b'"session_id" :')
    segment.write_bytes(b"\n".join([lines[0], hostile, b"\x00\xff not a line", lines[2]]) + b"\n")
    receiver, desk = Receiver(), ReceiptDesk()
    receiver.raises = Unavailable("away")

    async def main() -> None:
        nobody = Spool(tmp_path, fsync="never")
        async with pumping(nobody, receiver.send, receiver.keep_torn, desk, directory=tmp_path) as pump:
            await until(lambda: receiver.tries >= 2)
            assert (receiver.torn, receiver.batches) == ([], [])
            receiver.raises = None
            await pump.drained()

    asyncio.run(main())
    assert [line for line, _ in receiver.torn] == [hostile, b"\x00\xff not a line"]
    assert "checksum" in receiver.torn[0][1]
    ((producer, numbers),) = receiver.batches
    assert numbers == [1, 3]
    assert [asked(desk, Position(producer, n)) for n in (1, 2, 3)] == ["accepted", "dropped", "accepted"]
    assert files(tmp_path) == []


def test_the_dead_are_sent_beside_the_living(tmp_path: Path) -> None:
    """Streams that others have left behind and the own one all arrive, each in its own order."""
    for name in ("x", "y", "z"):
        filled(tmp_path, [f"{name}{n}" for n in range(30)]).close()
    spool = filled(tmp_path, [f"own{n}" for n in range(30)])
    receiver = Receiver()

    async def main() -> None:
        async with pumping(
            spool, receiver.send, receiver.keep_torn, ReceiptDesk(), directory=tmp_path, batch_events_max=7
        ) as pump:
            await pump.drained()

    asyncio.run(main())
    by_producer: dict[str, list[int]] = {}
    for producer, numbers in receiver.batches:
        by_producer.setdefault(producer, []).extend(numbers)
    assert list(by_producer.values()) == [list(range(1, 31))] * 4
    assert receiver.batches[0][0] == live(spool).producer
    spool.close()
    assert files(tmp_path) == []


def test_a_hint_that_is_lost_costs_one_look_and_no_event(tmp_path: Path) -> None:
    """Nobody nudges this pump: what is captured while it rests arrives at its next look."""
    spool = filled(tmp_path, ["first"])
    receiver = Receiver()

    async def main() -> None:
        async with pumping(
            spool, receiver.send, receiver.keep_torn, ReceiptDesk(), directory=tmp_path, look_every_ms=300
        ):
            await until(lambda: receiver.numbers == [1])
            await asyncio.sleep(0.05)
            spool.append(raw("second"))
            await until(lambda: receiver.numbers == [1, 2])

    asyncio.run(main())
    spool.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_but_not_acknowledged_is_sent_again_and_stands_in_the_log_once(
    kind: str, tmp_path: Path
) -> None:
    """The log takes each batch, and the answer is lost: the resends, by the same pump and by its successor, are known
    by their numbers, also long after the window for events without them."""
    mapped, clock = mapping(tmp_path, url_of(kind, tmp_path)), ManualClock(1_790_000_000_000)
    names = [f"s{n}" for n in range(60)]
    spool = filled(tmp_path / "spool", names)
    sends = 0

    async def main() -> None:
        nonlocal sends
        async with Node(settings_of(mapped), clock=clock) as node:
            send, keep_torn = node.spool_sink("acme")

            async def unheard(producer: str, raws: Sequence[bytes], sequences: Sequence[int]) -> Sequence[Settled]:
                nonlocal sends
                await send(producer, raws, sequences)
                sends += 1
                clock.advance(3_600)
                raise Unavailable("the answer was lost")

            async with pumping(
                spool, unheard, keep_torn, ReceiptDesk(), directory=tmp_path / "spool", batch_events_max=25
            ):
                await until(lambda: sends >= 2)
            spool.close()
            nobody, desk = Spool(tmp_path / "spool", fsync="never"), ReceiptDesk()
            async with pumping(
                nobody, send, keep_torn, desk, directory=tmp_path / "spool", batch_events_max=25
            ) as pump:
                await pump.drained()
            assert sorted(await logged(node)) == sorted(names)

    asyncio.run(main())
    assert files(tmp_path / "spool") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_line_is_in_quarantine_and_a_hostile_event_too(kind: str, tmp_path: Path) -> None:
    """Bytes that are no line, and lines whose event is none, are in quarantine whole; the others are in the log."""
    spool = filled(tmp_path / "spool", ["before"])
    hostile = [b'{"session":{"session_id":"\xff\xfe"}}', b'{"a":"' + b"\x00" * 30 + b'"}', b"[" * 5_000, b"{}"]
    for event in hostile:
        spool.append(event)
    spool.append(raw("huge", usage={"input_tokens": 2**53, "model": "gpt-4o"}))
    spool.append(raw("after"))
    spool.close()
    (segment,) = (tmp_path / "spool").glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b"\x00\xff\x1b[2J\n")

    async def main() -> None:
        async with Node(settings_of(mapping(tmp_path, url_of(kind, tmp_path)))) as node:
            send, keep_torn = node.spool_sink("acme")
            nobody = Spool(tmp_path / "spool", fsync="never")
            async with pumping(nobody, send, keep_torn, ReceiptDesk(), directory=tmp_path / "spool") as pump:
                await asyncio.wait_for(pump.drained(), 20)
            assert sorted(await logged(node)) == ["after", "before", "huge"]
            kept = await node.database.read(quarantine.select, "acme", state=None, before="", limit=50)
            assert sorted(entry.body for entry in kept) == sorted([*hostile, b"\x00\xff\x1b[2J"])
            assert {entry.source for entry in kept} == {"spool"}

    asyncio.run(main())
    assert files(tmp_path / "spool") == []
