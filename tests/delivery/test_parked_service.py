from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.delivery.scripted import Judging, called, delivering, put_events, settled

from adjourn.delivery import held
from adjourn.delivery.held import Held
from adjourn.delivery.letters import Wanted
from adjourn.destination import BEHIND, Refusal
from adjourn.errors import DestinationOutage, ShapingFailed
from adjourn.events import StoredEvent
from adjourn.node import Node

NOT_NOW = Refusal(0, "odd", "not now", permanent=False)
LATER = Refusal(0, BEHIND, "", permanent=False)
BROKEN = DestinationOutage("it answers 500", answered=True)
AWAY = DestinationOutage("it is away")


async def letters(node: Node) -> list[Held]:
    return (await node.dead_letters.select(Wanted(), fits=None, limit=100)).letters


async def balanced(node: Node, **counts: int) -> None:
    (balance,) = await node.delivery.balances()
    assert {kind: getattr(balance, kind) for kind in (*counts, "difference")} == {**counts, "difference": 0}


def test_nothing_of_a_session_overtakes_what_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first event of a session is refused for now, its later ones wait, in order; other sessions flow on."""
    refusals = 3

    def judge(ids: Sequence[str]) -> Mapping[str, Refusal]:
        nonlocal refusals
        if "a1" in ids and refusals:
            refusals -= 1
            return {"a1": NOT_NOW, **({"a2": LATER} if "a2" in ids else {})}
        return {}

    async def run() -> None:
        destination = Judging(judge)
        async with delivering(tmp_path, monkeypatch, destination, attempts=5, delay_ms=300, delay_ms_max=300) as node:
            await put_events(node, ("a", "a1"), ("b", "b1"), ("a", "a2"))
            async with asyncio.timeout(20):
                while not destination.passed:
                    await asyncio.sleep(0.001)
            await put_events(node, ("a", "a3"), ("b", "b2"))
            await settled(node)
            await balanced(node, delivered=5, dead_lettered=0, pending=0)
        assert [one for one in destination.passed if one[0] == "a"] == ["a1", "a2", "a3"]
        assert [one for one in destination.passed if one[0] == "b"] == ["b1", "b2"]

    asyncio.run(run())


@pytest.mark.parametrize("together", [True, False])
def test_an_event_that_breaks_its_receiver_is_a_dead_letter_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """A destination that answers 500 whenever one event is in what it is sent: that event, and no other, is given up
    after its attempts, whether it was sent in a batch or alone."""

    def judge(ids: Sequence[str]) -> Mapping[str, Refusal]:
        if "poison" in ids:
            raise BROKEN
        return {}

    async def run() -> None:
        destination = Judging(judge)
        async with delivering(tmp_path, monkeypatch, destination, attempts=3) as node:
            if together:
                await put_events(node, ("a", "a1"), ("p", "poison"), ("b", "b1"), ("p", "p2"))
            else:
                await put_events(node, ("p", "poison"))
                async with asyncio.timeout(20):
                    while len(destination.calls) < 5:
                        await asyncio.sleep(0.001)
                await balanced(node, delivered=0, dead_lettered=0, pending=1)
                await put_events(node, ("a", "a1"), ("p", "p2"), ("b", "b1"))
            while not any("b1" in call for call in destination.calls):
                await asyncio.sleep(0.001)
            for number in range(200):
                if await letters(node):
                    break
                await put_events(node, (f"s{number}", f"s{number}"))
                await asyncio.sleep(0.05)
            await settled(node)
            (letter,) = await letters(node)
            assert (letter.event_id, letter.attempts) == ("poison", 3)
            assert "500" in letter.reason
            (balance,) = await node.delivery.balances()
            assert (balance.dead_lettered, balance.pending, balance.difference) == (1, 0, 0)
        assert {"a1", "b1", "p2"} <= set(destination.passed)
        assert len(destination.passed) == len(set(destination.passed))

    asyncio.run(run())


def test_an_outage_that_answers_makes_no_dead_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination that answers everything with 500 for a while is away: nothing is given up, all arrives in order."""
    broken = True

    def judge(ids: Sequence[str]) -> Mapping[str, Refusal]:
        if broken:
            raise BROKEN
        return {}

    async def run() -> None:
        nonlocal broken
        destination = Judging(judge)
        async with delivering(tmp_path, monkeypatch, destination, attempts=2, batch_size=3) as node:
            await put_events(node, *[(f"s{n % 4}", f"e{n:02}") for n in range(20)])
            async with asyncio.timeout(20):
                while len(destination.calls) < 60:
                    await asyncio.sleep(0.001)
            await balanced(node, delivered=0, dead_lettered=0, pending=20)
            broken = False
            await settled(node)
            await balanced(node, delivered=20, dead_lettered=0, pending=0)
        for session in range(4):
            of_one = [one for one in destination.passed if int(one[1:]) % 4 == session]
            assert of_one == sorted(of_one)

    asyncio.run(run())


def test_a_redriven_letter_keeps_its_id_and_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given back, it is pending, then delivered, under the id that it had; discarded, it is gone and counted so."""
    refused = {"e1": Refusal(0, "bad", "never"), "e2": Refusal(0, "bad", "never")}

    async def run() -> None:
        destination = Judging(lambda ids: {one: refused[one] for one in ids if one in refused})
        async with delivering(tmp_path, monkeypatch, destination) as node:
            await put_events(node, ("a", "e1"), ("b", "e2"), ("c", "e3"))
            await settled(node)
            await balanced(node, delivered=1, dead_lettered=2, pending=0)
            two, one = await letters(node)
            await node.delivery.pause("scripted", "a test")
            await node.database.write(held.redrive, None, one.id, node.clock.wall_ms())
            await balanced(node, delivered=1, dead_lettered=1, pending=1)
            await node.database.write(held.discard, None, two.id, node.clock.wall_ms())
            await balanced(node, delivered=1, dead_lettered=0, discarded=1, pending=1)
            refused.clear()
            assert await node.delivery.resume("scripted")
            await settled(node)
            await balanced(node, delivered=2, dead_lettered=0, discarded=1, pending=0)
        assert sorted(destination.passed) == ["e1", "e3"]

    asyncio.run(run())


def test_what_is_parked_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stops with parked events finds them again, before the later ones of their session."""

    async def run() -> None:
        first = Judging(lambda ids: {"a1": NOT_NOW} if "a1" in ids else {})
        async with delivering(tmp_path, monkeypatch, first, attempts=9, delay_ms=60_000, delay_ms_max=60_000) as node:
            await put_events(node, ("a", "a1"), ("b", "b1"))
            async with asyncio.timeout(20):
                while not await node.database.read(held.waiting, "scripted"):
                    await asyncio.sleep(0.001)
            await put_events(node, ("a", "a2"))
        second = Judging(lambda ids: {})
        async with delivering(tmp_path, monkeypatch, second) as node:
            await settled(node)
            await balanced(node, delivered=3, dead_lettered=0, pending=0)
        assert first.passed == ["b1"]
        assert second.passed == ["a1", "a2"]

    asyncio.run(run())


def test_an_outage_uses_up_no_attempt_of_a_parked_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parked once, then the destination is away ten times, then it takes it: no dead letter with two attempts."""
    said: list[Exception | None] = [None, *[AWAY] * 10]

    def judge(ids: Sequence[str]) -> Mapping[str, Refusal]:
        if said:
            error = said.pop(0)
            if error is not None:
                raise error
            return {"a1": NOT_NOW}
        return {}

    async def run() -> None:
        destination = Judging(judge)
        async with delivering(tmp_path, monkeypatch, destination, attempts=2) as node:
            await put_events(node, ("a", "a1"))
            await settled(node)
            await balanced(node, delivered=1, dead_lettered=0)
        assert len(destination.calls) == 12

    asyncio.run(run())


def test_a_redriven_event_with_nothing_to_send_keeps_nobody_from_probing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During an outage a dead letter is given back that the transform fails on: it dies again without being sent, and
    the destination is found well as soon as it is."""
    away = False

    def judge(ids: Sequence[str]) -> Mapping[str, Refusal]:
        if away:
            raise AWAY
        return {}

    class Failing:
        def shape(self, event: StoredEvent) -> StoredEvent | None:
            if b'"bad"' in event.body:
                raise ShapingFailed("no such field")
            return event

    async def run() -> None:
        nonlocal away
        destination = Judging(judge)
        async with delivering(tmp_path, monkeypatch, destination, shapes=Failing()) as node:
            await put_events(node, ("a", "bad"), ("b", "b1"))
            await settled(node)
            away = True
            await put_events(node, ("c", "c1"))
            async with asyncio.timeout(20):
                while len(destination.calls) < 3:
                    await asyncio.sleep(0.001)
            await node.database.write(held.redrive, None, (await letters(node))[0].id, node.clock.wall_ms())
            async with asyncio.timeout(20):
                while not await letters(node):
                    await asyncio.sleep(0.001)
            away = False
            await settled(node)
            await balanced(node, delivered=2, dead_lettered=1, pending=0)

    asyncio.run(run())


def test_what_only_waited_for_another_event_goes_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of which an event is tried again for a while catches up with what came behind it: in order, many at a
    time; one of them that is refused then holds up the rest again."""
    refusals = {"a000": 1, "a150": 2}
    held_up = True

    def judge(ids: Sequence[str]) -> Mapping[str, Refusal]:
        refused = {one: NOT_NOW for one in ids if (held_up and one == "a000") or refusals.get(one, 0) > 0}
        refusals.update({one: refusals.get(one, 0) - 1 for one in refused})
        if refused:  # as destinations do: no later event of the session before it
            refused |= {one: LATER for one in ids if one > min(refused)}
        return refused

    async def run() -> None:
        nonlocal held_up
        destination = Judging(judge)
        async with delivering(tmp_path, monkeypatch, destination, attempts=1000) as node:
            await put_events(node, ("a", "a000"))
            await called(destination)
            await put_events(node, *[("a", f"a{number:03}") for number in range(1, 300)])
            async with asyncio.timeout(20):
                while len(await node.database.read(held.parked, "scripted", 0)) < 300:
                    await asyncio.sleep(0.001)
            held_up, before = False, len(destination.calls)
            await settled(node)
            await balanced(node, delivered=300, dead_lettered=0, pending=0)
            assert len(destination.calls) - before < 100
        assert destination.passed == [f"a{number:03}" for number in range(300)]

    asyncio.run(run())
