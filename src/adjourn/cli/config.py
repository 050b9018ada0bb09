"""`adjourn config`: look at settings before something runs with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, load_settings
from adjourn.cli.output import finish, note
from adjourn.errors import AdjournError, ConfigInvalid

if TYPE_CHECKING:
    from adjourn.settings import Settings

app = typer.Typer(name="config", help="Check and show settings.", no_args_is_help=True)


@app.command("check")
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The settings file.")],
    assignments: Assignments = None,
) -> None:
    """Check a settings file, with the environment over it: every problem at once, each with its line; where there is
    none, filters and transforms too. Exit code 1 if there is any; nothing is started, created or connected to."""
    try:
        problems = _problems_of(load_settings(file, assignments))
    except ConfigInvalid as error:
        if not Path(file).is_file():
            raise
        problems = error.message.splitlines()
    for problem in problems:
        note(f"adjourn: {problem}")
    if not problems:
        print(f"{file}: good")
    finish(not problems)


def _problems_of(settings: Settings) -> list[str]:
    """Of settings that can be read, what serve would refuse to start with, or refuse later: a destination that is off
    may be switched on."""
    from adjourn.channels import channel_of, shapes_of

    problems: list[str] = []
    for index, destination in enumerate(settings.routing.destinations):
        try:
            channel_of(settings, destination) if destination.enabled else shapes_of(destination)
        except AdjournError as error:
            problems += [f"routing.destinations[{index}]: {line}" for line in error.message.splitlines()]
    return problems


@app.command("show")
def show(config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Print all settings as they are in effect, as YAML; secrets are masked."""
    from adjourn.configfile import show as shown

    print(shown(load_settings(config, assignments)), end="")
