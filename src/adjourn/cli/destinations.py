"""`adjourn destinations`: what each one was given; try, pause and resume one; let go of one that is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, Json, load_settings
from adjourn.cli.output import finish, note, print_columns, print_json
from adjourn.errors import ConfigInvalid

if TYPE_CHECKING:
    from adjourn.delivery.conservation import Balance
    from adjourn.settings import Settings

app = typer.Typer(
    name="destinations", help="Show the destinations' balances; test, pause, resume, forget one.", no_args_is_help=True
)


Name = Annotated[str, typer.Argument(metavar="NAME", help="As `destinations list` shows it.")]


@app.command("list")
def list_destinations(as_json: Json = False, config: ConfigFile = None, assignments: Assignments = None) -> None:
    """List every destination that was ever configured: captured = all the other columns together."""
    from adjourn.delivery.conservation import KINDS

    found, paused = asyncio.run(_balances(load_settings(config, assignments)))
    if as_json:
        print_json(found)
        return
    columns = ("captured", *KINDS, "pending")
    rows = [(b.destination, *(f"{getattr(b, column):,}" for column in columns)) for b in found]
    print_columns(("DESTINATION", *(column.upper() for column in columns)), rows)
    for name, reason in sorted(paused.items()):
        note(f"{name} is paused: {reason}")


@app.command("test")
def try_destination(name: Name, config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Reach a destination now, from here, with a probe that is marked as one. Exit code 1 if it takes no events."""
    from adjourn.errors import DestinationOutage

    settings = load_settings(config, assignments)
    try:
        asyncio.run(_test(settings, name))
    except DestinationOutage as outage:
        note(outage.message)
        finish(False)
    print(f"{name} takes events")


@app.command("pause")
def pause_destination(
    name: Name,
    reason: Annotated[str, typer.Option(help="Shown wherever the destination is.")] = "by request",
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Deliver nothing there, on any node, until it is resumed. Its backlog waits; no restart changes that."""
    asyncio.run(_pause(load_settings(config, assignments), name, reason))
    note(f"{name} is paused; its events wait in the log until: adjourn destinations resume {name}")


@app.command("resume")
def resume_destination(name: Name, config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Deliver there again, from where it was paused."""
    was_paused = asyncio.run(_resume(load_settings(config, assignments), name))
    note(f"{name} is resumed" if was_paused else f"{name} was not paused")


@app.command("forget")
def forget_destination(
    name: Name,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Let retention pass a destination that is configured nowhere any more. Until then the log waits for it."""
    settings = load_settings(config, assignments)
    if name in [destination.name for destination in settings.routing.destinations]:
        raise ConfigInvalid(f"destination '{name}' is still configured; take it out of the settings first")
    asyncio.run(_forget(settings, name))
    note(f"the log waits for {name} no more")


async def _balances(settings: Settings) -> tuple[list[Balance], dict[str, str]]:
    from adjourn.cli.store import opened
    from adjourn.delivery import pauses
    from adjourn.delivery.conservation import balances

    async with opened(settings) as database:
        return await database.read(balances), await database.read(pauses.paused)


async def _test(settings: Settings, name: str) -> None:
    from adjourn.node import Node

    await Node(settings).probe(name)


async def _pause(settings: Settings, name: str, reason: str) -> None:
    from adjourn.cli.store import opened
    from adjourn.clock import SystemClock
    from adjourn.delivery import pauses

    async with opened(settings) as database:
        await database.write(pauses.pause, name, reason, SystemClock().wall_ms())


async def _resume(settings: Settings, name: str) -> bool:
    from adjourn.cli.store import opened
    from adjourn.delivery import pauses

    async with opened(settings) as database:
        return await database.write(pauses.resume, name)


async def _forget(settings: Settings, name: str) -> None:
    from adjourn.cli.store import opened
    from adjourn.delivery.known import forget

    async with opened(settings) as database:
        await database.write(forget, name)
