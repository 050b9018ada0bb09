"""`adjourn config`: look at settings before something runs with them."""

from __future__ import annotations

from typing import Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, load_settings
from adjourn.cli.output import note

app = typer.Typer(name="config", help="Check and show settings.", no_args_is_help=True)


@app.command("check")
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The settings file.")],
    assignments: Assignments = None,
) -> None:
    """Check a settings file, with the environment over it: every problem at once, each with its line."""
    from adjourn.channels import channel_of
    from adjourn.errors import ConfigInvalid

    settings = load_settings(file, assignments)
    for destination in settings.routing.destinations:
        if destination.enabled:
            try:
                channel_of(settings, destination)
            except ConfigInvalid as error:
                note(f"adjourn: the settings are good, but serve would refuse to start: {error.message}")
    print(f"{file}: good")


@app.command("show")
def show(config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Print all settings as they are in effect, as YAML; secrets are masked."""
    from adjourn.configfile import show as shown

    print(shown(load_settings(config, assignments)), end="")
