"""`adjourn destinations`: what each one was given, and letting go of one that is configured nowhere any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, Json, load_settings
from adjourn.cli.output import note, print_columns, print_json
from adjourn.errors import ConfigInvalid

if TYPE_CHECKING:
    from adjourn.delivery.conservation import Balance
    from adjourn.settings import Settings

app = typer.Typer(name="destinations", help="Show the destinations' balances; forget one.", no_args_is_help=True)


@app.command("list")
def list_destinations(as_json: Json = False, config: ConfigFile = None, assignments: Assignments = None) -> None:
    """List every destination that was ever configured: captured = all the other columns together."""
    found = asyncio.run(_balances(load_settings(config, assignments)))
    if as_json:
        print_json(found)
        return
    columns = ("captured", "before", "delivered", "sampled_out", "dead_lettered", "expired", "lost", "pending")
    rows = [(b.destination, *(f"{getattr(b, column):,}" for column in columns)) for b in found]
    print_columns(("DESTINATION", *(column.upper() for column in columns)), rows)


@app.command("forget")
def forget_destination(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `destinations list` shows it.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Let retention pass a destination that is configured nowhere any more. Until then the log waits for it."""
    settings = load_settings(config, assignments)
    if name in [destination.name for destination in settings.routing.destinations]:
        raise ConfigInvalid(f"destination '{name}' is still configured; take it out of the settings first")
    asyncio.run(_forget(settings, name))
    note(f"the log waits for {name} no more")


async def _balances(settings: Settings) -> list[Balance]:
    from adjourn.cli.store import opened
    from adjourn.delivery.conservation import balances

    async with opened(settings) as database:
        return await database.read(balances)


async def _forget(settings: Settings, name: str) -> None:
    from adjourn.cli.store import opened
    from adjourn.delivery.known import forget

    async with opened(settings) as database:
        await database.write(forget, name)
