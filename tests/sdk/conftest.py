"""Every test of a client is a test of both."""

from __future__ import annotations

import pytest

from tests.sdk.talking import Talk, talk_async, talk_sync


@pytest.fixture(params=[talk_async, talk_sync], ids=["async", "sync"])
def talk(request: pytest.FixtureRequest) -> Talk:
    """Does something with a client of either kind, and gives back what came of it."""
    return request.param
