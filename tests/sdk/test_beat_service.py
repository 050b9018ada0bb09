"""Something that is done again and again: as a task, and as a thread."""

from __future__ import annotations

import asyncio
import threading
import time

from adjourn.sdk.beat_service import AsyncBeat, Beat


def test_a_task_beats_until_it_is_told_to_end_or_ends_itself() -> None:
    """Each step says when the next one is; None is the last, and stopping twice is harmless."""

    async def main() -> None:
        steps: list[int] = []
        three = asyncio.Event()

        async def step() -> float | None:
            steps.append(len(steps))
            if len(steps) == 3:
                three.set()
                return None
            return 0.001

        beat = AsyncBeat(step, 0.001)
        beat.start()
        await asyncio.wait_for(three.wait(), 30)
        await beat.stop()
        await beat.stop()
        assert steps == [0, 1, 2]
        silent = AsyncBeat(step, 3600)
        silent.start()
        await silent.stop()
        assert steps == [0, 1, 2]

    asyncio.run(main())


def test_a_thread_beats_until_it_is_told_to_end_or_ends_itself() -> None:
    """As the task does; a long wait is cut short by stopping."""
    steps: list[int] = []
    three = threading.Event()

    def step() -> float | None:
        steps.append(len(steps))
        if len(steps) == 3:
            three.set()
            return None
        return 0.001

    beat = Beat(step, 0.001)
    beat.start()
    assert three.wait(30)
    beat.stop()
    beat.stop()
    assert steps == [0, 1, 2]
    silent = Beat(step, 3600)
    silent.start()
    began_s = time.monotonic()
    silent.stop()
    assert time.monotonic() - began_s < 60
    assert steps == [0, 1, 2]


def test_a_step_that_hangs_does_not_hold_up_its_program() -> None:
    """Stopping returns although a step is still waiting for its answer; what that raises afterwards goes nowhere."""
    inside, release, ended = threading.Event(), threading.Event(), threading.Event()

    def step() -> float | None:
        inside.set()
        release.wait(60)
        ended.set()
        raise OSError("the connection was closed")

    beat = Beat(step, 0.0)
    beat.start()
    assert inside.wait(30)
    beat.stop()
    assert not ended.is_set()
    release.set()
    assert ended.wait(30)
