"""`adjourn sessions watch`: a table of sessions that lives, or one session as it happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer

from adjourn.cli.options import Json
from adjourn.cli.output import note
from adjourn.cli.session_options import SERVER, Url, asking
from adjourn.errors import Unavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adjourn.sdk import Client, SessionAnswer, StatsAnswer

SHOWN = 100


class Look(NamedTuple):
    stats: StatsAnswer
    sessions: list[SessionAnswer]


def watch(
    session_id: Annotated[
        str, typer.Argument(metavar="ID", help="One session, as it happens; without it, a table of all.")
    ] = "",
    after: Annotated[int, typer.Option(min=0, metavar="N", help="With ID: behind the event of this number.")] = 0,
    ended: Annotated[bool, typer.Option("--ended", help="Show those that have ended, too.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval-s", min=0.1, metavar="SECONDS", help="How often to look.")
    ] = 1.0,
    as_json: Json = False,
    url: Url = SERVER,
) -> None:
    """Watch sessions: a table of those that live, or what happens in one, until it has ended. On no terminal, the table
    is printed again where it has changed. Ctrl-C ends it."""
    try:
        with asking(url, retries=0 if not session_id else 15) as client:
            if session_id:
                _follow(client, session_id, after, as_json)
            else:
                _table(client, ended, once, interval_s, as_json)
    except BrokenPipeError:  # whoever reads has seen enough
        return


def _follow(client: Client, session_id: str, after: int, as_json: bool) -> None:
    from adjourn.cli.session_tables import line_of

    with client.sessions.follow(session_id, after=after) as told:
        for event in told:
            print(msgspec.json.encode(event).decode() if as_json else line_of(event), flush=True)


def _table(client: Client, ended: bool, once: bool, interval_s: float, as_json: bool) -> None:
    looks = _looks(client, ended, interval_s)
    if sys.stdout.isatty() and not as_json and not once:
        from rich.live import Live

        with Live(auto_refresh=False, screen=False) as live:
            for look in looks:
                live.update(_shown(look), refresh=True)
        return
    before: object = None
    for look in looks:
        if look != before:
            _print(look, as_json)
        before = look
        if once:
            return


def _looks(client: Client, ended: bool, interval_s: float) -> Iterator[Look]:
    """For ever. A server that goes away is waited for."""
    away, seen = "", False
    while True:
        try:
            if ended:
                page = client.sessions.list(order="active", limit=SHOWN)
            else:
                page = client.sessions.list(order="active", limit=SHOWN, live=True)
            look = Look(client.sessions.stats(shown=1), list(page.sessions))
        except Unavailable as error:
            if not seen:
                raise
            if not away:
                note(error.message)
            away = error.message
        else:
            away, seen = "", True
            yield look
        time.sleep(interval_s)


def _totals(look: Look) -> str:
    from adjourn.cli.session_tables import usd

    total = look.stats.total
    return (
        f"{total.live:,} live of {total.sessions:,}   turns {total.usage.turns:,}   "
        f"tokens {total.usage.total_tokens:,}   {usd(total.cost_usd)}"
    )


def _print(look: Look, as_json: bool) -> None:
    from adjourn.cli.session_tables import print_sessions

    if as_json:
        told = {"stats": look.stats, "sessions": look.sessions}
        print(msgspec.json.encode(told).decode(), flush=True)
        return
    print(_totals(look))
    print_sessions(look.sessions)
    print(flush=True)


def _shown(look: Look) -> RenderableType:
    import shutil

    from rich.console import Group
    from rich.text import Text

    from adjourn.cli.session_tables import HEADS, cells, table

    room = max(1, shutil.get_terminal_size().lines - 4)
    rows = [cells(each) for each in look.sessions[:room]]
    more = look.stats.total.live - len(rows)
    left = [Text(f"and {more:,} more", style="dim")] if more > 0 and len(look.sessions) > room else []
    return Group(Text(_totals(look)), table(HEADS, rows), *left)
