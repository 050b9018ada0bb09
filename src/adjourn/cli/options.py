"""Options that commands share, and the settings that they lead to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.errors import ConfigInvalid

if TYPE_CHECKING:
    from adjourn.settings import Settings

ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Settings file. Without it: $ADJOURN_CONFIG, or adjourn.yaml if there is one.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="One setting, as in -s server.port=9000. May be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def load_settings(config: str | None, assignments: Sequence[str] | None, **given: object) -> Settings:
    """File, environment, `--set`, then `given` by dotted names (`__` for the dot); logging follows them.
    Raises ConfigInvalid."""
    from adjourn import configfile, eventlog

    overrides: dict[str, object] = {}
    for text in assignments or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigInvalid(f"--set {text!r} is no assignment; give it as --set server.port=9000", path=key)
        overrides[key.strip()] = value
    overrides |= {name.replace("__", "."): value for name, value in given.items() if value is not None}
    settings = configfile.load(config, environ=os.environ, overrides=overrides)
    eventlog.configure(settings.logging.level, settings.logging.format)
    return settings
