"""`adjourn gateway`: what it says at the start, and what it refuses. What it does is in tests/gateway/."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.cli.conftest import Run
from tests.gateway.gatewaying import gateway


def test_it_says_where_it_is(tmp_path: Path) -> None:
    """Address, upstream and where completions go; Ctrl-C is a clean end."""
    with gateway(tmp_path, "https://api.openai.com") as running:
        assert running.url.startswith("http://127.0.0.1:")
        code, told = running.stop(signal.SIGINT)
    assert code == 0
    assert "upstream     https://api.openai.com" in told
    assert "completions  sqlite:///data/adjourn.db" in told
    assert told.splitlines()[-1] == "stopped"


def test_wrong_options_are_one_line_each(run: Run, tmp_path: Path) -> None:
    """Exit code 2, fact and remedy; a port that is taken is told in terms of the option."""
    for options in (["--upstream", "ftp://x"], ["--upstream", "http://x", "--name", "a/b"]):
        done = run("gateway", *options)
        assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "--upstream" in run("gateway").err
    with gateway(tmp_path, "http://127.0.0.1:1") as running:
        port = running.url.rsplit(":", 1)[1]
        taken = run("gateway", "--upstream", "http://x", "--port", port, "--name", "other")
    assert taken.code == 2
    assert "set --port" in taken.err
