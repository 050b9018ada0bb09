"""`adjourn dead-letters`: what destinations would not take, whole; give it back, or discard it for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, Json, load_settings
from adjourn.cli.output import note, print_columns, print_json, printable
from adjourn.errors import ConfigInvalid

if TYPE_CHECKING:
    from adjourn.delivery.held import Held
    from adjourn.delivery.letters import Wanted
    from adjourn.delivery.letters_service import DeadLetters, Page
    from adjourn.settings import Settings

app = typer.Typer(
    name="dead-letters", help="Look at what destinations would not take; redrive or discard it.", no_args_is_help=True
)

PAGE = 500

LetterId = Annotated[str, typer.Argument(metavar="ID", help="As `dead-letters list` shows it.")]
MaybeId = Annotated[str, typer.Argument(metavar="ID", help="One dead letter; without it, all that the options pick.")]
Destination = Annotated[str | None, typer.Option(metavar="NAME", help="Only this destination's.")]
Code = Annotated[str | None, typer.Option(metavar="CODE", help="Only those that died of this error.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Only those that died at this RFC 3339 time or later.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only those that died before this RFC 3339 time.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]
Filter = Annotated[
    str, typer.Option("--filter", metavar="EXPRESSION", help="Only those whose event this expression is true of.")
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("list")
def list_letters(
    destination: Destination = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    expression: Filter = "",
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="How many.")] = 50,
    cursor: Annotated[str, typer.Option(metavar="CURSOR", help="Go on where the page before said.")] = "",
    as_json: Json = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """List dead letters, newest first."""
    from adjourn.http.deliveries import DeadLetterView

    wanted = _wanted(destination, code, since, until, tenant)
    page = asyncio.run(_select(load_settings(config, assignments), wanted, expression, cursor, limit))
    views = [DeadLetterView.of(letter) for letter in page.letters]
    if as_json:
        print_json(views)
    elif views:
        rows = [(v.id, v.event_id, v.died_at, v.code, str(v.attempts), printable(v.reason)) for v in views]
        print_columns(("ID", "EVENT", "DIED", "CODE", "ATTEMPTS", "WHY"), rows)
    else:
        note("nothing")
    if page.cursor:
        note(f"there may be more, by the same options and: --cursor {page.cursor}")


@app.command("show")
def show(
    letter_id: LetterId, as_json: Json = False, config: ConfigFile = None, assignments: Assignments = None
) -> None:
    """Show one dead letter: why on standard error, the event as it was sent on standard output."""
    import sys

    from adjourn.http.deliveries import DeadLetterView

    letter = asyncio.run(_show(load_settings(config, assignments), letter_id))
    view = DeadLetterView.of(letter)
    if as_json:
        print_json(view)
        return
    note(f"{view.id}  tenant {letter.tenant}, received {view.received_at}, died {view.died_at}")
    note(f"{view.code} after {view.attempts} attempts: {printable(view.reason)}")
    sys.stdout.buffer.write(letter.body + b"\n")


@app.command("redrive")
def redrive(
    letter_id: MaybeId = "",
    everything: All = False,
    destination: Destination = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    expression: Filter = "",
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Give dead letters back to their destinations, under their ids, with all attempts anew. A server delivers them."""
    wanted = _wanted(destination, code, since, until, tenant)
    _require_choice(letter_id, everything, wanted, expression)
    count, full = asyncio.run(_deal(load_settings(config, assignments), "redrive", letter_id, wanted, expression))
    note(f"{count} given back; a running server delivers them")
    if full:
        note(
            "a destination has as many to try again as may be at once; give it the rest later, by the same command "
            "(others have got theirs)"
        )


@app.command("discard")
def discard(
    letter_id: MaybeId = "",
    everything: All = False,
    destination: Destination = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    expression: Filter = "",
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Delete dead letters for good. The balance counts them as discarded."""
    wanted = _wanted(destination, code, since, until, tenant)
    _require_choice(letter_id, everything, wanted, expression)
    count, _ = asyncio.run(_deal(load_settings(config, assignments), "discard", letter_id, wanted, expression))
    note(f"{count} discarded")


def _wanted(
    destination: str | None, code: str | None, since: str | None, until: str | None, tenant: str | None
) -> Wanted:
    from adjourn.delivery.letters import Wanted

    return Wanted(
        tenant=tenant,
        destination=destination,
        code=code,
        since_ms=_ms("--since", since),
        until_ms=_ms("--until", until),
    )


def _ms(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigInvalid(f"{option} {text!r} is no time; give it as 2026-01-31T12:00:00Z") from error
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _require_choice(letter_id: str, everything: bool, wanted: Wanted, expression: str) -> None:
    import msgspec

    picked = any(value is not None for value in msgspec.structs.astuple(wanted)) or bool(expression)
    if (bool(letter_id) + everything + picked) != 1:
        raise ConfigInvalid(
            "say which: one ID, or options that pick some, or --all; list them with: adjourn dead-letters list"
        )


async def _select(settings: Settings, wanted: Wanted, expression: str, cursor: str, limit: int) -> Page:
    """A whole page, however long it takes to find: whoever waits for it can end it."""
    from adjourn.delivery.letters_service import Page
    from adjourn.delivery.transform import shaping_of

    fits = shaping_of(filter=expression, transform="")
    found: list[Held] = []
    async with _letters(settings) as letters:
        while True:
            page = await letters.select(wanted, fits=fits, cursor=cursor, limit=limit - len(found))
            found += page.letters
            cursor = page.cursor
            if not cursor or len(found) >= limit:
                return Page(found, cursor)


async def _show(settings: Settings, letter_id: str) -> Held:
    async with _letters(settings) as letters:
        return await letters.show(None, letter_id)


async def _deal(settings: Settings, verb: str, letter_id: str, wanted: Wanted, expression: str) -> tuple[int, bool]:
    """How many were dealt with, and whether others are left because a destination has enough to try again."""
    from adjourn.delivery.transform import shaping_of

    fits = shaping_of(filter=expression, transform="")
    async with _letters(settings) as letters:
        if letter_id:
            await (letters.redrive if verb == "redrive" else letters.discard)(None, letter_id)
            return 1, False
        count, cursor = 0, ""
        while True:
            dealt = await (letters.redrive_some if verb == "redrive" else letters.discard_some)(
                wanted, fits=fits, cursor=cursor
            )
            count, cursor = count + dealt.count, dealt.cursor
            if not cursor or dealt.full:
                return count, dealt.full


@asynccontextmanager
async def _letters(settings: Settings) -> AsyncGenerator[DeadLetters]:
    from adjourn.cli.store import opened
    from adjourn.clock import SystemClock
    from adjourn.delivery.letters_service import DeadLetters

    async with opened(settings) as database:
        yield DeadLetters(database, SystemClock())
