"""From the settings to what runs turns: each configured runner by its name. No I/O: nothing is started here."""

from __future__ import annotations

from collections.abc import Mapping

from adjourn.hosting_settings import RunnerSettings
from adjourn.runner import Runner
from adjourn.runners.echo import EchoRunner
from adjourn.secret import reveal
from adjourn.settings import Settings


def runners_of(settings: Settings) -> Mapping[str, Runner]:
    return {runner.name: _runner(runner) for runner in settings.hosting.every_runner()}


def _runner(runner: RunnerSettings) -> Runner:
    if runner.type == "echo":
        return EchoRunner()
    from adjourn.runners.command import CommandRunner, CommandSettings  # here, since most servers have none

    return CommandRunner(
        CommandSettings(
            name=runner.name,
            command=runner.command,
            tools=runner.tools,
            models=runner.models,
            env={name: reveal(value) for name, value in runner.env.items()},
            network=runner.network,
            isolation=runner.isolation,
            memory_mb_max=runner.memory_mb_max,
            cpu_s_max=runner.cpu_s_max,
            processes_max=runner.processes_max,
            file_mb_max=runner.file_mb_max,
            output_mb_max=runner.output_mb_max,
            start_timeout_ms=runner.start_timeout_ms,
            stop_grace_ms=runner.stop_grace_ms,
        )
    )
