"""Sending completions until they are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.gateway.test_recorder import KEY, PRICES, whole

from adjourn.clock import ManualClock
from adjourn.completion.receipts import Outcome, Settled
from adjourn.errors import Unavailable
from adjourn.gateway.journal import Journal
from adjourn.gateway.outbox_service import Outbox
from adjourn.gateway.recorder import Recorder
from adjourn.gateway.requests import Asked


def recorder_of(path: Path) -> Recorder:
    return Recorder(Journal(path, fsync="never", fsync_interval_ms=1), PRICES, ManualClock(), idle_s=60)


def ended(recorder: Recorder, session_id: str) -> None:
    whole(recorder, Asked(session_id=session_id))
    assert recorder.end_session(KEY, session_id)


def test_failures_are_tried_again_in_order(tmp_path: Path) -> None:
    """The same completions under the same numbers, until the receiver takes them; what it refuses is told and not sent
    again, and `stop` waits for what is left."""
    recorder = recorder_of(tmp_path / "x.journal")
    sent: list[tuple[str, list[int]]] = []

    async def send(producer: str, raws: Sequence[bytes], sequences: Sequence[int]) -> Sequence[Outcome]:
        sent.append((producer, list(sequences)))
        if len(sent) < 3:
            raise Unavailable("away") if len(sent) == 1 else RuntimeError("a defect")
        return [Settled("invalid", message="no") for _ in raws]

    async def run() -> None:
        outbox = Outbox(recorder, send)
        running = asyncio.create_task(outbox.run())
        for name in ("a", "b"):
            ended(recorder, name)
        outbox.nudge()
        while recorder.sessions.waiting:
            await asyncio.sleep(0.01)
        ended(recorder, "c")
        outbox.stop()
        await running

    asyncio.run(run())
    producer = recorder.sessions.producer
    assert sent == [(producer, [1, 2])] * 3 + [(producer, [3])]
    recorder.close()
    again = recorder_of(tmp_path / "x.journal")
    assert not again.sessions.waiting
    again.close()
