"""`adjourn keys`: directly on the database, so that the first key can be made before anybody has one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, Json, load_settings
from adjourn.cli.output import note, print_columns, print_json

if TYPE_CHECKING:
    from adjourn.security.keys import Key
    from adjourn.security.service import Keys
    from adjourn.settings import Settings

app = typer.Typer(name="keys", help="Make, list and revoke API keys, in the database itself.", no_args_is_help=True)


@app.command("create")
def create(
    role: Annotated[str, typer.Option(help="admin, operator, writer, reader, auditor, beacon or relay.")],
    tenant: Annotated[str, typer.Option(help="Whose events it writes and reads.")] = "default",
    name: Annotated[str, typer.Option(help="What it is for, as `keys list` shows it.")] = "",
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Make a key. Its secret is printed this once, alone: KEY=$(adjourn keys create --role writer)."""
    key, secret = asyncio.run(_create(load_settings(config, assignments), tenant, name, role))
    note(f"{key.id}: role {key.role}, tenant {key.tenant}. The secret is shown this once:")
    print(secret)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    as_json: Json = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """List all keys, without their secrets."""
    from adjourn.http.views import KeyView

    found = [KeyView.of(key) for key in asyncio.run(_list(load_settings(config, assignments), tenant))]
    if as_json:
        print_json(found)
    elif found:
        rows = [(k.id, k.tenant, k.role, k.created_at, k.revoked_at or "-", k.name) for k in found]
        print_columns(("ID", "TENANT", "ROLE", "CREATED", "REVOKED", "NAME"), rows)
    else:
        note("there are no keys; make one with: adjourn keys create --role writer")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it: key_…")],
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Revoke a key. Servers that run refuse it within five seconds."""
    asyncio.run(_revoke(load_settings(config, assignments), key_id))
    note(f"{key_id} is revoked")


async def _create(settings: Settings, tenant: str, name: str, role: str) -> tuple[Key, str]:
    async with _opened(settings, create=True) as keys:
        return await keys.create(tenant=tenant, name=name, role=role)


async def _list(settings: Settings, tenant: str | None) -> list[Key]:
    async with _opened(settings) as keys:
        return await keys.list(tenant)


async def _revoke(settings: Settings, key_id: str) -> None:
    async with _opened(settings) as keys:
        await keys.revoke(key_id)


@asynccontextmanager
async def _opened(settings: Settings, *, create: bool = False) -> AsyncGenerator[Keys]:
    from adjourn.cli.store import opened
    from adjourn.clock import SystemClock
    from adjourn.security.service import Keys

    async with opened(settings, create=create) as database:
        yield Keys(database, SystemClock(), required=True)
