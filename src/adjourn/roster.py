"""From the settings to what runs turns: each configured runner by its name. No I/O: nothing is started here."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

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
    # Late, since most servers have none.
    from adjourn.runners.command import CommandRunner, CommandSettings  # here, since most servers have none
    from adjourn.runners.sandbox import Bounds

    given = msgspec.structs.asdict(runner)
    bounds = {name: given[name] for name in Bounds.__struct_fields__}
    env = {name: reveal(value) for name, value in runner.env.items()}
    own = {name: given[name] for name in CommandSettings.__struct_fields__ if name not in ("bounds", "env")}
    return CommandRunner(CommandSettings(**own, env=env, bounds=Bounds(**bounds)))
