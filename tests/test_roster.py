from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from adjourn.roster import runners_of
from adjourn.runner import Opening, RunnerConfig
from adjourn.runners.echo import EchoRunner
from adjourn.secret import Secret
from adjourn.settings import HostingSettings, RunnerSettings, Settings


def test_every_runner_of_the_settings_is_there() -> None:
    """By its name; and without any, the echo."""
    assert [*runners_of(Settings())] == ["echo"]
    agent = RunnerSettings(name="agent", type="command", command=("x",))
    found = runners_of(Settings(hosting=HostingSettings(runners=(agent,))))
    assert [*found] == ["echo", "agent"]
    assert isinstance(found["echo"], EchoRunner)


def test_a_program_has_its_settings(tmp_path: Path) -> None:
    """It starts with the environment that is set for it, secrets revealed, and within the bounds that are set."""
    program = (
        "import os, resource, sys, json\n"
        "seen = [os.environ.get('TOKEN'), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]\n"
        "open('seen', 'w').write(json.dumps(seen))\n"
        'print(\'{"type": "ready"}\', flush=True)\n'
        "sys.stdin.read()\n"
    )
    agent = RunnerSettings(
        name="agent",
        type="command",
        command=(sys.executable, "-c", program),
        env={"TOKEN": Secret("s3cret", "env TOKEN")},
        isolation="none",
        open_files_max=77,
    )
    runner = runners_of(Settings(hosting=HostingSettings(runners=(agent,))))["agent"]
    workspace = tmp_path / "w"

    async def main() -> None:
        opening = Opening(tenant="t", session_id="s", config=RunnerConfig(), workspace=str(workspace))
        try:
            await asyncio.wait_for(runner.open(opening), 60)
        finally:
            await runner.close("s")

    asyncio.run(main())
    assert (workspace / "seen").read_text() == '["s3cret", 77]'
