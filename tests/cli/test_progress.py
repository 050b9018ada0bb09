"""Progress where there is no terminal."""

from __future__ import annotations

import pytest

from adjourn.cli.progress import progress


def test_plain_lines_are_few_and_end_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: a line at once, none within the same second, and one when all have arrived."""
    with progress(3, ["sent", "arrived"]) as show:
        for counts in ([0, 0], [1, 0], [2, 1], [3, 3], [3, 3]):
            show(counts)
    assert capsys.readouterr().out == "sent 0 · arrived 0 of 3\nsent 3 · arrived 3 of 3\n"
