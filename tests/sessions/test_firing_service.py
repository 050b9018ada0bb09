"""Turns that sessions start by themselves: each due time once, whatever stops, restarts, lies or hangs in between."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from tests.sessions.triggering import KINDS, Door, Rig, put_file, rigged, settled

from adjourn.errors import (
    BudgetReached,
    KeyReused,
    SessionEnded,
    TooBusy,
    TurnRunning,
    Unavailable,
)
from adjourn.sessions import firing_service
from adjourn.sessions import trigger_rows as rows
from adjourn.sessions.triggers import CronTrigger, FileTrigger, IntervalTrigger
from adjourn.sessions.turn import Message

HOUR = 3_600
EVERY = IntervalTrigger(name="a", prompt="look", every_ms=60_000)
HOURLY = CronTrigger(name="a", prompt="it is {time}", expression="@hourly")
FILES = FileTrigger(name="a", prompt="{files}", path="in", every_ms=1_000)
PATIENCE_S = 60


# --- time ------------------------------------------------------------------------------------------------------------


@KINDS
def test_an_interval_fires_each_time_once(tmp_path: Path, kind: str) -> None:
    """Not before its time, once at it, and not again until the next."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(EVERY)
        for seconds, count in ((0, 0), (59.999, 0), (0.001, 1), (0, 1), (59, 1), (1, 2), (60, 3)):
            await rig.later(seconds)
            assert len(rig.door.begun) == count
        assert {message.queue for _, message in rig.door.begun.values()} == {False}

    rigged(kind, tmp_path, work)


@KINDS
def test_what_was_missed_while_nobody_looked_is_made_up_once(tmp_path: Path, kind: str) -> None:
    """A server that was down for two days and a half: one turn for the hours missed, for the last of them; then each
    hour again."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(HOURLY)
        await rig.later(60.5 * HOUR, rig.node())
        await rig.later(0)
        assert rig.door.prompts == ["it is 2023-11-17T10:00:00.000Z"]
        await rig.later(HOUR)
        assert rig.door.prompts[1:] == ["it is 2023-11-17T11:00:00.000Z"]

    rigged(kind, tmp_path, work)


@KINDS
@pytest.mark.parametrize("trigger", [EVERY, HOURLY, FILES], ids=["interval", "cron", "file"])
def test_a_crash_before_the_turn_was_noted_does_not_begin_another(
    tmp_path: Path, kind: str, trigger: IntervalTrigger | CronTrigger | FileTrigger
) -> None:
    """The process dies when its turn has begun and nothing says so yet; the next one asks under the same key and in the
    same words, although more files have come, and goes on."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(trigger)
        put_file(rig, "in/one")

        def dies() -> None:
            raise asyncio.CancelledError

        rig.door.after = dies
        rig.clock.advance(HOUR)
        await settled(rig.triggers)
        rig.door.after = lambda: None
        assert len(rig.door.begun) == 1
        put_file(rig, "in/two")
        await rig.later(0.5, rig.node())
        assert (len(rig.door.begun), rig.door.asked) == (1, 2)
        await rig.later(HOUR, rig.node())
        assert len(rig.door.begun) == 2

    rigged(kind, tmp_path, work)


@KINDS
def test_two_nodes_that_look_at_once_fire_once(tmp_path: Path, kind: str) -> None:
    """While a role goes from one node to another both may look: each time still has one turn, and each file."""

    async def work(rig: Rig) -> None:
        nodes = [rig.node() for _ in range(3)]
        names = ("a", "b", "c")
        await rig.session()
        await rig.put(EVERY, msgspec.structs.replace(HOURLY, name="b"), msgspec.structs.replace(FILES, name="c"))
        for hour in range(1, 6):
            put_file(rig, f"in/{hour}")
            rig.clock.advance(HOUR)
            await asyncio.gather(*(settled(node) for node in nodes))
            await settled(nodes[0])
            began = [key.split("/")[2] for key in rig.door.begun]
            assert [began.count(name) for name in names] == [hour, hour, hour]

    rigged(kind, tmp_path, work)


@KINDS
def test_a_clock_that_was_ahead_keeps_nothing_waiting(tmp_path: Path, kind: str) -> None:
    """A wall clock that showed a wrong year, and is set right: what was worked out by it is worked out again, and an
    hour of the clock that comes again does not have its turn again."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(EVERY, msgspec.structs.replace(HOURLY, name="b"), msgspec.structs.replace(FILES, name="c"))
        await rig.later(0)
        rig.clock.step_wall(3e9)
        await rig.later(0)
        assert len(rig.door.begun) == 2
        rig.clock.step_wall(-3e9)
        await rig.later(0)
        put_file(rig, "in/new")
        await rig.later(HOUR)
        began = [key.split("/")[2] for key in rig.door.begun]
        assert sorted(began[2:]) == ["a", "b", "c"]
        rig.clock.step_wall(-HOUR)
        await rig.later(0)
        await rig.later(HOUR)
        began = [key.split("/")[2] for key in rig.door.begun]
        assert (began.count("a"), began.count("b")) == (3, 2)

    rigged(kind, tmp_path, work)


@KINDS
def test_a_node_that_starts_after_its_clock_was_set_back_finds_out(tmp_path: Path, kind: str) -> None:
    """Nothing in its memory tells; so it checks all that waits, in portions."""

    async def work(rig: Rig) -> None:
        for n in range(30):
            await rig.session(f"s{n}")
        rig.clock.step_wall(3e9)
        for n in range(30):
            await rig.put(EVERY, session_id=f"s{n}")
        rig.clock.step_wall(-3e9)
        node = rig.node()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(firing_service, "CHECK_PER_LOOK", 7)
            for _ in range(6):
                await rig.later(0, node)
        await rig.later(60, node)
        assert len(rig.door.begun) == 30

    rigged(kind, tmp_path, work)


# --- while a turn runs ------------------------------------------------------------------------------------------------


@KINDS
def test_a_time_that_finds_a_turn_running_is_left_out_or_waits(tmp_path: Path, kind: str) -> None:
    """`skip` asks to be refused and takes the next time; `queue` asks to wait."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(EVERY, msgspec.structs.replace(EVERY, name="q", overlap="queue"))

        async def runs(session_id: str, name: str) -> None:
            if name == "a":
                raise TurnRunning("turn turn_1 runs; wait for it")

        rig.door.refuses = runs
        await rig.later(60)
        assert [message.queue for _, message in rig.door.begun.values()] == [True]
        assert (await rig.kept()).seen.error == ""
        rig.door.refuses = None
        await rig.later(30)
        assert len(rig.door.begun) == 1
        await rig.later(30)
        assert len(rig.door.begun) == 3

    rigged(kind, tmp_path, work)


@KINDS
def test_files_that_find_a_turn_running_wait_for_its_end(tmp_path: Path, kind: str) -> None:
    """They are not left out, and are told once."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(FILES)
        put_file(rig, "in/one")
        rig.door.refuse(TurnRunning("turn turn_1 runs; wait for it"))
        for _ in range(5):
            await rig.later(1)
        assert rig.door.prompts == []
        rig.door.refuse(None)
        await rig.later(1)
        put_file(rig, "in/two")
        await rig.later(1)
        await rig.later(1)
        assert rig.door.prompts == ["in/one", "in/two"]

    rigged(kind, tmp_path, work)


# --- files -----------------------------------------------------------------------------------------------------------


@KINDS
def test_files_are_told_when_they_come_or_change_and_never_again(tmp_path: Path, kind: str) -> None:
    """Over restarts too; a look that finds nothing new starts nothing."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(FILES)
        await rig.later(1)
        put_file(rig, "in/one")
        put_file(rig, "in/two")
        for _ in range(3):
            await rig.later(1, rig.node())
        put_file(rig, "in/two", "changed")
        for _ in range(3):
            await rig.later(1, rig.node())
        (rig.folder / "t" / "s" / "in" / "one").unlink()
        await rig.later(1)
        assert rig.door.prompts == ["in/one\nin/two", "in/two"]

    rigged(kind, tmp_path, work)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@KINDS
def test_one_that_fails_stops_no_other(tmp_path: Path, kind: str) -> None:
    """Whatever asking for its turn raises, and whatever it holds: the others have theirs, and it is not asked for at
    every look."""

    async def work(rig: Rig) -> None:
        failures = {
            "bug": ValueError("a bug"),
            "away": Unavailable("the database is away; try again"),
            "busy": TooBusy("too much waits; try again"),
            "poor": BudgetReached("nothing is left; raise the budget"),
        }
        for session_id in (*failures, "strange", "good"):
            await rig.session(session_id)
            await rig.put(EVERY, session_id=session_id)
        strange = b'{"trigger":{"kind":"moon"}}'
        spoil = "UPDATE session_triggers SET spec = ? WHERE session_id = 'strange'"
        await rig.database.write(lambda tx: tx.run(spoil, (strange,)))

        async def refuses(session_id: str, name: str) -> None:
            if session_id in failures:
                raise failures[session_id]

        rig.door.refuses = refuses
        for count in (1, 2, 3):
            await rig.later(60)
            asked = rig.door.asked
            await rig.later(0)
            assert rig.door.asked == asked
            assert [session_id for session_id, _ in rig.door.begun.values()] == ["good"] * count
        assert (await rig.kept(session_id="poor")).seen.error == "nothing is left; raise the budget"
        assert "ValueError" in (await rig.kept(session_id="bug")).seen.error
        failures.clear()
        await rig.later(60)
        assert len(rig.door.begun) == 3 + 5

    rigged(kind, tmp_path, work)


@KINDS
def test_the_triggers_of_a_session_that_has_ended_stop(tmp_path: Path, kind: str) -> None:
    """At the first of them; they can be looked at still, and nothing is asked for again."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(EVERY, msgspec.structs.replace(EVERY, name="b", every_ms=90_000))
        rig.door.refuse(SessionEnded("it has ended; begin another"))
        for _ in range(5):
            await rig.later(60)
        assert rig.door.asked == 1
        assert [kept.next_ms for kept in await rig.triggers.list("t", "s")] == [None, None]

    rigged(kind, tmp_path, work)


@KINDS
def test_a_turn_that_is_slow_to_begin_keeps_no_look_waiting(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others begin meanwhile, it is not asked for twice, and its own is noted when it has begun."""
    monkeypatch.setattr(firing_service, "LOOK_S_MAX", 0.01)

    async def work(rig: Rig) -> None:
        begins = asyncio.Event()

        async def slow(session_id: str, name: str) -> None:
            if session_id == "slow":
                await begins.wait()

        for session_id in ("slow", "good"):
            await rig.session(session_id)
            await rig.put(EVERY, session_id=session_id)
        rig.door.refuses = slow
        for count in (1, 2):
            rig.clock.advance(60)
            deadline = time.monotonic() + PATIENCE_S
            while len(rig.door.begun) < count:
                assert time.monotonic() < deadline
                await rig.triggers.look()
        assert rig.door.asked == 3
        begins.set()
        await settled(rig.triggers)
        assert len(rig.door.begun) >= 3
        assert (await rig.kept(session_id="slow")).seen.fired_ms is not None

    rigged(kind, tmp_path, work)


@KINDS
def test_a_look_costs_what_is_due(tmp_path: Path, kind: str) -> None:
    """Of thousands of triggers, those that are due are read and begun, and no other; all of those that come due at once
    have their turns."""

    async def work(rig: Rig) -> None:
        def many(tx: rows.Tx) -> None:
            for n in range(3000):
                trigger = msgspec.structs.replace(EVERY, every_ms=HOUR * 1000 if n % 10 else 60_000)
                rows.put(tx, "t", f"s{n:04}", [trigger], rig.clock.wall_ms())

        await rig.database.write(many)
        while rig.triggers.checking or not rig.door.asked:
            await rig.later(1)
        read = list[int]()
        real = rows.due

        def due(reader: rows.Reader, now_ms: int, limit: int) -> object:
            found = real(reader, now_ms, limit)
            read.append(len(found[0]))
            return found

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rows, "due", due)
            while len(rig.door.begun) < 300:
                await rig.later(0)
            begun = len(rig.door.begun)
            read.clear()
            await rig.later(1)
        assert (begun, sum(read)) == (300, 0)
        while len(rig.door.begun) < 300 + 3000:
            await rig.later(HOUR if rig.door.asked == 300 else 0)

    rigged(kind, tmp_path, work)


def test_the_door_of_these_tests_is_as_strict_as_the_real_one() -> None:
    """One key, one turn: other words under it are refused."""

    async def run() -> None:
        door = Door()
        message = Message(prompt="x")
        first = await door("t", "s", "a", message, idempotency_key="k")
        assert first == await door("t", "s", "a", message, idempotency_key="k")
        with pytest.raises(KeyReused):
            await door("t", "s", "a", Message(prompt="y"), idempotency_key="k")

    asyncio.run(run())
