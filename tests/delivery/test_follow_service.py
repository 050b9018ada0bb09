"""One destination's way through one partition of the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.delivery.scripted import Slow, called, delivering, put, settled

from adjourn.delivery import follow_service


def test_what_is_not_at_hand_any_more_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was appended while another event was being sent is delivered although memory has let go of it, and nothing
    else is appended."""
    monkeypatch.setattr(follow_service, "POLL_S", 3600.0)

    async def run() -> None:
        destination = Slow()
        async with delivering(tmp_path, monkeypatch, destination, batch_size=1) as node:
            await put(node, 1)
            await called(destination)
            await put(node, 2, start=1)
            await node.log.retain(age_ms_max=10**12, bytes_max=None)
            assert node.log.at_hand(0, 1) is None
            destination.go.set()
            await settled(node)
        assert destination.taken == ["s0", "s1", "s2"]

    asyncio.run(run())
