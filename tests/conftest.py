"""What every test shares: randomness that is printed and can be repeated, and Hypothesis without a stopwatch."""

from __future__ import annotations

import os
import random
import signal

import pytest
from hypothesis import settings

# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and stops with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Loaded machines make slow examples; a deadline would report the machine, not the code.
settings.register_profile("adjourn", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("adjourn")

SEED = int(os.environ.get("ADJOURN_SEED") or random.SystemRandom().randrange(2**32))
os.environ["ADJOURN_SEED"] = str(SEED)  # the workers among which tests are shared out draw none of their own


def pytest_sessionstart(session: pytest.Session) -> None:
    # Not in pytest_report_header, which -q hides; and at the start, since a run that is killed prints no summary.
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"seed={SEED}   (repeat with ADJOURN_SEED={SEED})")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Randomness of this test alone: the same seed gives it the same numbers, whichever tests run before it."""
    return random.Random(f"{SEED}:{request.node.nodeid}")
