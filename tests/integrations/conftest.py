"""The runtime that captures what the servers of a test do."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from adjourn import Runtime
from tests.faults.rigs import mapping, settings_of


@pytest.fixture
def runtime(tmp_path: Path) -> Generator[Runtime]:
    with Runtime(settings_of(mapping(tmp_path))) as made:
        yield made
