"""Control groups, where this machine lets one make them."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from adjourn.errors import RunnerFailed
from adjourn.runners.cgroup import Group
from adjourn.runners.command import CommandRunner
from adjourn.runners.sandbox import Bounds
from tests.runners.rigs import asked, in_loop, opening, settings, text_of

CANDIDATES = ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
"""Version 1, both side by side, version 2."""


@pytest.fixture(params=CANDIDATES)
def delegated(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A group of the tests' own, as an administrator would delegate one."""
    parent = Path(request.param)
    folder = parent / f"adjourn-test-{secrets.token_hex(4)}"
    if not (parent / "cgroup.procs").exists():
        pytest.skip(f"{parent} is no control group")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"{parent} cannot be written: {error.strerror}")
    yield folder
    folder.rmdir()


def below(folder: Path) -> list[Path]:
    return [found for found in folder.iterdir() if found.is_dir()]


def test_a_group_holds_kills_and_goes(delegated: Path) -> None:
    """A process that enters is in it; when it has gone, so is the group."""
    group = Group([str(delegated)], "one")
    group.make(Bounds(processes_max=7))
    with subprocess.Popen(["sleep", "600"]) as process:
        group.enter(process.pid)
        assert str(process.pid) in (delegated / "one" / "cgroup.procs").read_text().split()
        if (delegated / "one" / "pids.max").exists():
            assert (delegated / "one" / "pids.max").read_text().strip() == "7"
            assert "processes" in group.limits
        group.kill()
        process.kill()
    group.remove()
    assert not (delegated / "one").exists()


@in_loop
async def test_a_program_runs_in_a_group_of_its_own(delegated: Path, tmp_path: Path) -> None:
    """A session's program is in a group below the one that was delegated, which is gone when the session closes."""
    runner = CommandRunner(settings("none", cgroup=[str(delegated)]))
    await runner.open(opening(tmp_path))
    (group,) = below(delegated)
    facts = runner.facts("sess_1")
    assert facts is not None
    assert str(facts.pid) in (group / "cgroup.procs").read_text().split()
    assert text_of([event async for event in runner.turn("sess_1", asked("hi", deed="fork"))]) == "forked"
    await runner.close("sess_1", str(tmp_path / "sess_1"))
    assert not group.exists()


def test_a_group_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Limits that were asked for and cannot be set are an error with a remedy, not left away."""
    with pytest.raises(RunnerFailed, match="delegate the control group"):
        Group([str(tmp_path / "missing")], "one").make(Bounds())
    assert os.listdir(tmp_path) == []
