"""The database contract over lanes, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.databases.rigs import KINDS, DatabaseRig

from adjourn.testing import exercise_database as suite


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_the_suite(kind: str, check: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check of the conformance suite holds on both databases."""
    monkeypatch.setattr(suite, "CHECKS", (check,))
    asyncio.run(suite.exercise_database(lambda: DatabaseRig(kind, tmp_path)))
