"""`adjourn quarantine`: what was refused, whole, and how to send it again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, Json, load_settings
from adjourn.cli.output import finish, note, print_columns, print_json, reason
from adjourn.errors import ConfigInvalid

if TYPE_CHECKING:
    from adjourn.completion.quarantine import Quarantined, State
    from adjourn.completion.results import Result
    from adjourn.node import Node
    from adjourn.settings import Settings

app = typer.Typer(name="quarantine", help="Look at events that were refused, and retry them.", no_args_is_help=True)

PAGE = 500

EntryId = Annotated[str, typer.Argument(metavar="ID", help="As `quarantine list` shows it: qrn_…")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]


@app.command("list")
def list_entries(
    tenant: Tenant = None,
    accepted: Annotated[bool, typer.Option("--accepted", help="Those that a retry has accepted, instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="How many.")] = 50,
    before: Annotated[str, typer.Option(metavar="ID", help="Go on behind this one, on the next page.")] = "",
    as_json: Json = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """List what is held in quarantine, newest first."""
    from adjourn.http.views import QuarantineView

    state: State = "accepted" if accepted else "held"
    found = asyncio.run(_select(load_settings(config, assignments), tenant, state, before, limit))
    views = [QuarantineView.of(entry) for entry in found]
    if as_json:
        print_json(views)
    elif views:
        rows = [(v.id, v.received_at, v.code, v.path or "-", str(v.size_bytes), v.message) for v in views]
        print_columns(("ID", "RECEIVED", "CODE", "PATH", "BYTES", "WHY"), rows)
        if len(views) == limit:
            note(f"there may be more: adjourn quarantine list --before {views[-1].id}")
    else:
        note("nothing")


@app.command("show")
def show(entry_id: EntryId, as_json: Json = False, config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Show one refused body, whole: why on standard error, the body as it was sent on standard output."""
    import sys

    from adjourn.http.views import QuarantineView

    entry = asyncio.run(_show(load_settings(config, assignments), entry_id))
    view = QuarantineView.of(entry)
    if as_json:
        print_json(view)
        return
    note(f"{view.id}  {view.received_at}  tenant {entry.tenant}, from {view.source}, {view.state}")
    note(f"{view.code} {view.path}: {view.message}" if view.path else f"{view.code}: {view.message}")
    sys.stdout.buffer.write(entry.body + b"\n")


@app.command("retry")
def retry(
    entry_id: Annotated[str, typer.Argument(metavar="ID", help="As `quarantine list` shows it: qrn_…")] = "",
    all_held: Annotated[bool, typer.Option("--all", help="All that are held, oldest first.")] = False,
    tenant: Tenant = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Send refused events again as they are, under the settings of now. Exit code 1 if any is refused again."""
    if bool(entry_id) == all_held:
        raise ConfigInvalid("say what to retry: one ID, or --all; list them with: adjourn quarantine list")
    settings = load_settings(config, assignments)
    finish(asyncio.run(_retry(settings, entry_id, tenant)))


async def _select(settings: Settings, tenant: str | None, state: State, before: str, limit: int) -> list[Quarantined]:
    from adjourn.cli.store import opened
    from adjourn.completion import quarantine

    async with opened(settings) as database:
        return await database.read(quarantine.select, tenant, state=state, before=before, limit=limit)


async def _show(settings: Settings, entry_id: str) -> Quarantined:
    from adjourn.cli.store import opened
    from adjourn.completion import quarantine

    async with opened(settings) as database:
        return await database.read(quarantine.show, None, entry_id)


async def _retry(settings: Settings, entry_id: str, tenant: str | None) -> bool:
    from adjourn.cli.store import require_database
    from adjourn.node import Node

    require_database(settings)
    taken = refused = 0
    async with Node(settings) as node:
        for one in [entry_id] if entry_id else await _held(node, tenant):
            result = await node.ingest.retry(tenant, one)
            print(f"{one}  {_outcome(result)}")
            ok = result.status in ("accepted", "duplicate")
            taken, refused = taken + ok, refused + (not ok)
    note(f"{taken} taken, {refused} refused again")
    return not refused


async def _held(node: Node, tenant: str | None) -> list[str]:
    """The ids, oldest first: what was sent first is the original of what conflicts with it."""
    from adjourn.completion import quarantine

    ids: list[str] = []
    while True:
        before = ids[-1] if ids else ""
        page = await node.database.read(quarantine.select, tenant, state="held", before=before, limit=PAGE)
        ids.extend(entry.id for entry in page)
        if len(page) < PAGE:
            return ids[::-1]


def _outcome(result: Result) -> str:
    if result.status in ("accepted", "duplicate"):
        return f"{result.status}  {result.event_id}"
    return f"{result.status}  {reason(result.path, result.message, result.remedy)}"
