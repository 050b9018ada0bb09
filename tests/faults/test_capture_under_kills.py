"""Capture while the server is killed every few seconds, in short; `capture_under_kills.py` does it for minutes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.faults.capture_under_kills import run

SECONDS = 10.0
SHARE_MIN = 0.9995


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_kills_every_few_seconds_refuse_nothing_and_lose_nothing(tmp_path: Path, rng: random.Random, kind: str) -> None:
    """Three programs capture all the while, each in its way, and are accepted at the first or a retried call. All that
    was accepted is in the log once, and at both destinations."""
    # Not `client`: whether its retries outlast a restart depends on how long this machine takes for one.
    result = run(tmp_path, database=kind, seconds=SECONDS, rng=rng, kinds=("runtime", "patient", "plain"))
    print(result.said())
    assert result.log is not None
    assert result.table is not None
    assert result.hook is not None
    assert result.accepted >= SHARE_MIN * result.calls > 100
    assert sum(tally.retried for tally in result.tallies) > 0
    assert result.log.exact
    assert result.table.exact
    assert result.hook.missing == []
    assert result.log.found <= result.calls
    assert [(balance.difference, balance.pending) for balance in result.balances] == [(0, 0)] * 2
