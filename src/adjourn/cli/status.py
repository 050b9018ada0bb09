"""`adjourn status`: how the log and each destination stand, once or as a table that lives."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from adjourn.cli.options import Assignments, ConfigFile, Json, load_settings
from adjourn.cli.output import finish, note, print_columns, print_json, printable
from adjourn.errors import Unavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adjourn.database import Reader
    from adjourn.delivery.standing import Standing
    from adjourn.settings import Settings

INTERVAL_S = 1.0
NAME_WIDTH = 12
"""On a narrow terminal a name is folded, but not below this."""


class DestinationStatus(msgspec.Struct):
    """Counts are events. `lag_s`: age of the oldest that is pending. `rate_per_s`: delivered since the last look; null
    at the first. `waiting`: why nothing is delivered, as the node that delivers said last."""

    name: str
    delivered: int
    filtered: int
    sampled_out: int
    dead_lettered: int
    expired: int
    discarded: int
    lost: int
    before: int
    pending: int
    parked: int
    difference: int
    lag_s: float
    rate_per_s: float | None
    paused: bool
    waiting: str
    waiting_since_ms: int | None


class Status(msgspec.Struct):
    """`captured`: events ever appended to the log. `difference` of each destination is 0, or something was lost."""

    captured: int
    captured_per_s: float | None
    log_bytes: int
    quarantine_held: int
    destinations: list[DestinationStatus]

    @property
    def balanced(self) -> bool:
        return all(one.difference == 0 for one in self.destinations)


def status(
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval-s", min=0.1, metavar="SECONDS", help="How often to look.")
    ] = INTERVAL_S,
    as_json: Json = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Show what came in and how each destination stands, from the database itself: a server may run, or none. Ctrl-C
    ends it. With --once, exit code 1 if anything is not accounted for."""
    settings = load_settings(config, assignments)
    try:
        finish(asyncio.run(_status(settings, once, interval_s, as_json)))
    except BrokenPipeError:
        return


async def _status(settings: Settings, once: bool, interval_s: float, as_json: bool) -> bool:
    async with aclosing(_looks(settings, interval_s)) as looks:
        if once:
            found = await anext(looks)
            print_json(found) if as_json else _print(found)
            return found.balanced
        if as_json:
            async for found in looks:
                print(msgspec.json.encode(found).decode(), flush=True)
        elif sys.stdout.isatty():
            await _live(looks)
        else:
            async for found in looks:
                _print(found)
                print(flush=True)
    return True


async def _looks(settings: Settings, interval_s: float) -> AsyncGenerator[Status]:
    """For ever. A database that goes away is waited for."""
    from adjourn.cli.store import log_of, opened
    from adjourn.delivery.standing_service import Standings

    async with opened(settings) as database:
        standings = Standings(database, log_of(database))
        last, last_s, away = None, 0.0, False
        while True:
            try:
                captured, log_bytes, held = await database.read(_totals)
                found = await standings.read()
            except Unavailable as error:
                if last is None:
                    raise
                if not away:
                    note(error.message)
                away = True
                await asyncio.sleep(interval_s)
                continue
            away = False
            now_s = time.monotonic()
            last = _as_status(captured, log_bytes, held, found, last, now_s - last_s)
            last_s = now_s
            yield last
            await asyncio.sleep(interval_s)


def _totals(reader: Reader) -> tuple[int, int, int]:
    from adjourn.completion import quarantine
    from adjourn.logs import upkeep

    captured = int(reader.rows("SELECT sum(next_offset) FROM log_heads")[0][0] or 0)
    return captured, upkeep.size_bytes(reader), quarantine.held(reader)


def _as_status(
    captured: int, log_bytes: int, held: int, found: Sequence[Standing], last: Status | None, took_s: float
) -> Status:
    from adjourn.delivery.conservation import KINDS

    before = {one.name: one.delivered for one in last.destinations} if last else {}
    now_ms = time.time() * 1000

    def rate(now: int, then: int | None) -> float | None:
        return None if then is None else round(max(0, now - then) / max(took_s, 0.001), 1)

    return Status(
        captured=captured,
        captured_per_s=rate(captured, last.captured if last else None),
        log_bytes=log_bytes,
        quarantine_held=held,
        destinations=[
            DestinationStatus(
                name=one.name,
                **{kind: getattr(one.balance, kind) for kind in KINDS},
                pending=one.balance.pending,
                parked=one.parked,
                difference=one.balance.difference,
                lag_s=0.0 if one.oldest_ms is None else round(max(0.0, now_ms - one.oldest_ms) / 1000, 3),
                rate_per_s=rate(one.balance.delivered, before.get(one.name)),
                paused=one.paused is not None,
                waiting=one.waiting,
                waiting_since_ms=one.outage_ms if one.paused is None else None,
            )
            for one in found
        ],
    )


# --- showing ----------------------------------------------------------------------------------------------------------

HEADS = ("DESTINATION", "DELIVERED", "RATE/S", "PENDING", "LAG", "PARKED", "DEAD", "LEFT OUT", "LOST", "DIFF")
"""DIFF: not accounted for. LEFT OUT: filtered, sampled out, expired, discarded, or deleted before the destination was
configured."""


def _cells(one: DestinationStatus) -> tuple[str, ...]:
    left_out = one.before + one.filtered + one.sampled_out + one.expired + one.discarded
    counts = (one.parked, one.dead_lettered, left_out, one.lost, one.difference)
    rate = "-" if one.rate_per_s is None else f"{one.rate_per_s:,.0f}"
    return (one.name, f"{one.delivered:,}", rate, f"{one.pending:,}", _age(one.lag_s), *(f"{n:,}" for n in counts))


def _totals_line(found: Status) -> str:
    rate = "" if found.captured_per_s is None else f", {found.captured_per_s:,.0f}/s"
    return (
        f"captured {found.captured:,}{rate}   log {found.log_bytes / 1e6:,.1f} MB   "
        f"quarantine {found.quarantine_held:,} held"
    )


def _reasons(found: Status) -> list[str]:
    now_ms = time.time() * 1000
    reasons: list[str] = []
    for one in found.destinations:
        if one.waiting:
            since = "" if one.waiting_since_ms is None else f" for {_age((now_ms - one.waiting_since_ms) / 1000)}"
            reasons.append(printable(f"{one.name} waits{since}: {one.waiting}"))
        if one.difference:
            reasons.append(f"{one.name}: {one.difference:,} events are not accounted for; run: adjourn db check")
    return reasons


def _age(seconds: float) -> str:
    """`0`, `3.2 s`, `5 min`, `7 h`, `3 d`"""
    if not seconds:
        return "0"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s"


def _print(found: Status) -> None:
    print(_totals_line(found))
    if found.destinations:
        print_columns(HEADS, [_cells(one) for one in found.destinations])
    else:
        print("no destination was ever configured: events wait in the log")
    for reason in _reasons(found):
        print(reason)


async def _live(looks: AsyncGenerator[Status]) -> None:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        async for found in looks:
            live.update(_table(found), refresh=True)


def _table(found: Status) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    longest = max((len(one.name) for one in found.destinations), default=0)
    table.add_column(HEADS[0], min_width=min(longest, NAME_WIDTH), overflow="fold")
    for head in HEADS[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    for one in found.destinations:
        cells = [Text(printable(cell)) for cell in _cells(one)]
        if one.waiting:
            cells[0].stylize("yellow")
        if one.difference:
            cells[-1].stylize("bold red")
        table.add_row(*cells)
    return Group(Text(_totals_line(found)), table, *(Text(reason, style="yellow") for reason in _reasons(found)))
