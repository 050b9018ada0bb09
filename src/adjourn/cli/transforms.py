"""`adjourn transforms`: try filters and transforms on written cases, and on the last real events; nothing is sent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, Json, load_settings
from adjourn.cli.output import finish, note, print_columns, print_json, printable
from adjourn.errors import ConfigInvalid, NotFound, ShapingFailed

if TYPE_CHECKING:
    from adjourn.delivery.route import Wants
    from adjourn.delivery.transform import Shaping
    from adjourn.events import StoredEvent
    from adjourn.settings import Settings

app = typer.Typer(name="transforms", help="Try filters and transforms before they are used.", no_args_is_help=True)

Filter = Annotated[str, typer.Option("--filter", metavar="EXPRESSION", help="Instead of a destination's.")]
Transform = Annotated[str, typer.Option("--transform", metavar="NAME|EXPRESSION", help="Instead of a destination's.")]


@app.command("list")
def list_transforms(as_json: Json = False) -> None:
    """List the built-in transforms."""
    from adjourn.delivery.transform_builtin import BUILTINS

    if as_json:
        print_json([{"name": name, "gives": builtin.gives} for name, builtin in BUILTINS.items()])
    else:
        print_columns(("NAME", "GIVES"), [(name, builtin.gives) for name, builtin in BUILTINS.items()])


@app.command("test")
def test_transforms(file: Annotated[Path, typer.Argument(metavar="FILE", help="Cases, in YAML.")]) -> None:
    """Run the cases of a file; what differs from what was expected is shown. Exit code 1 if any does."""
    from adjourn.delivery.transform_cases import read_cases

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{file}: {error}; give a file of cases in YAML", path=str(file)) from None
    cases = read_cases(text, str(file))
    failed = 0
    for case in cases:
        difference = case.difference()
        failed += bool(difference)
        print(f"{'FAILED' if difference else 'ok'}  {printable(case.name)}")
        for line in difference:
            print(f"    {printable(line)}")
    note(f"{len(cases) - failed} of {len(cases)} cases passed")
    finish(not failed)


@app.command("preview")
def preview(
    destination: Annotated[str, typer.Option("--destination", metavar="NAME", help="Use its settings.")] = "",
    filter: Filter = "",
    transform: Transform = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="How many events, the last ones.")] = 5,
    as_json: Json = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Show what the last events of the log become. Reads only; exit code 1 if a filter or transform fails on one."""
    settings = load_settings(config, assignments)
    wants, shaping = _tried(settings, destination, filter, transform)
    outcomes = [_outcome(wants, shaping, event) for event in asyncio.run(_last_events(settings, count))]
    if as_json:
        print_json(outcomes)
    else:
        for outcome in outcomes:
            _show(outcome)
    told = [str(outcome["outcome"]) for outcome in outcomes]
    note(
        f"{len(told)} event{'s' * (len(told) != 1)}: "
        + ", ".join(f"{told.count(kind)} {kind}" for kind in ("sent", "filtered", "failed"))
    )
    finish("failed" not in told)


def _tried(settings: Settings, name: str, filter: str, transform: str) -> tuple[Wants | None, Shaping | None]:
    from adjourn.delivery.route import wants_of
    from adjourn.delivery.transform import shaping_of

    if bool(name) == bool(filter or transform):
        raise ConfigInvalid("say what to try: --destination NAME, or --filter and --transform", path="destination")
    if not name:
        return None, shaping_of(filter=filter, transform=transform)
    for one in settings.routing.destinations:
        if one.name == name:
            return wants_of(one.events), shaping_of(filter=one.filter, transform=one.transform)
    raise NotFound(f"there is no destination {name[:100]} in the settings; list them with: adjourn config show")


def _outcome(wants: Wants | None, shaping: Shaping | None, event: StoredEvent) -> dict[str, object]:
    import msgspec

    from adjourn.events import decode_identity

    found: dict[str, object] = {
        "event_id": decode_identity(event.body).event_id,
        "partition": event.partition,
        "offset": event.offset,
    }
    if wants is not None and not wants(event.body):
        return found | {"outcome": "filtered"}
    try:
        shaped = event if shaping is None else shaping.shape(event)
    except ShapingFailed as error:
        return found | {"outcome": "failed", "reason": error.message}
    if shaped is None:
        return found | {"outcome": "filtered"}
    return found | {"outcome": "sent", "body": msgspec.Raw(shaped.body)}


def _show(outcome: Mapping[str, object]) -> None:
    import msgspec

    place = f"{outcome['partition']}/{outcome['offset']}"
    why = f": {outcome['reason']}" if "reason" in outcome else ""
    print(printable(f"{place}  {outcome['event_id']}  {outcome['outcome']}{why}"))
    if isinstance(body := outcome.get("body"), msgspec.Raw):
        for line in msgspec.json.format(bytes(body), indent=2).decode().splitlines():
            print(f"    {printable(line)}")


async def _last_events(settings: Settings, count: int) -> list[StoredEvent]:
    """The last `count` of the log, oldest first, of every partition."""
    from adjourn.cli.store import opened
    from adjourn.clock import SystemClock
    from adjourn.logs.sql import SqlLog

    found: list[StoredEvent] = []
    async with opened(settings) as database:
        log = SqlLog(database, SystemClock(), id_hash=lambda tenant, event_id: b"")
        for partition, head in enumerate(await log.heads()):
            offset = max(0, head - count)
            while offset < head:
                part = await log.read(partition, offset, count=count)
                if part.next_offset == offset:
                    break
                found += [event for event in part.events if event.offset >= offset]
                offset = part.next_offset
    found.sort(key=lambda event: event.received_ms)
    if not found:
        print("the log holds no events yet", file=sys.stderr)
    return found[-count:]
