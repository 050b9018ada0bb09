"""`adjourn tap`: events as they are committed, on the terminal or for the next program of a pipe."""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import typer

from adjourn.cli.options import Assignments, ConfigFile, load_settings
from adjourn.cli.output import note, printable
from adjourn.errors import AdjournError, Unauthenticated, Unavailable
from adjourn.events import AMENDED, STATUS_CHANGED
from adjourn.typed import convert, decoder

if TYPE_CHECKING:
    from adjourn.settings import Settings

POLL_S = 0.2
AGAIN_S = 1.0
SILENCE_S = 60.0
"""A server's stream says something every 15 s."""


class _Gap(msgspec.Struct):
    partition: int
    first_offset: int
    count: int
    reason: str


def tap(
    expression: Annotated[
        str, typer.Option("--filter", metavar="EXPRESSION", help="Only events that this expression is true of.")
    ] = "",
    since: Annotated[
        str, typer.Option(metavar="WHERE", help="Begin at an RFC 3339 time, at `start`, or at the id of a message.")
    ] = "now",
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many events.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event whole, one JSON object a line.")] = False,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's; with --url the key decides.")] = None,
    url: Annotated[
        str, typer.Option(envvar="ADJOURN_URL", help="Follow this server, with the key in $ADJOURN_KEY.")
    ] = "",
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Show events as they are committed. Without --url the database of the settings is read, beside whatever server has
    it open. Ctrl-C ends it."""
    settings = load_settings(config, assignments)
    portions = _of_server(url, expression, since) if url else _of_database(settings, expression, since, tenant)
    try:
        asyncio.run(_show(portions, as_json, count))
    except BrokenPipeError:  # whoever reads has seen enough
        return


async def _show(portions: AsyncGenerator[Sequence[bytes | _Gap]], as_json: bool, count: int | None) -> None:
    """A portion may be empty: then it is only asked whether somebody still reads."""
    left = count
    async with aclosing(portions):
        async for portion in portions:
            for one in portion if left is None else portion[:left]:
                _print(one, as_json)
                left = left if left is None or isinstance(one, _Gap) else left - 1
            sys.stdout.flush()
            if left == 0 or _reader_is_gone():
                return


async def _of_database(
    settings: Settings, expression: str, since: str, tenant: str | None
) -> AsyncGenerator[Sequence[bytes | _Gap]]:
    from adjourn.cli.store import log_of, opened
    from adjourn.delivery.feed_service import Feed, Item, Source
    from adjourn.delivery.transform import shaping_of
    from adjourn.events import StoredEvent
    from adjourn.http.views import StreamedEvent

    def rendered(item: Item) -> bytes | _Gap:
        if isinstance(item.what, StoredEvent):
            return msgspec.json.encode(StreamedEvent.of(item.what))
        return convert(item.what, _Gap, from_attributes=True)

    wanted = shaping_of(filter=expression, transform="")
    async with opened(settings) as database:
        source = Source(database, log_of(database))
        position, since_ms = await source.begin(since)
        feed = Feed(source, position, tenant=tenant, wanted=wanted, since_ms=since_ms)
        away = ""
        while True:
            try:
                await source.look()
                while (items := await feed.next()) is not None:
                    yield [rendered(item) for item in items]
            except Unavailable as error:
                away = _noted(away, error.message)
                await asyncio.sleep(AGAIN_S)
            else:
                away = ""
                yield []
                await asyncio.sleep(POLL_S)


async def _of_server(url: str, expression: str, since: str) -> AsyncGenerator[Sequence[bytes | _Gap]]:
    """Goes on exactly behind the last message when the connection or the server ends."""
    import os

    import httpx

    key = os.environ.get("ADJOURN_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    query = {"from": since, "filter": expression}
    last_id, away = "", ""
    timeout = httpx.Timeout(10, read=SILENCE_S)
    async with httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False) as client:
        while True:
            more = {"last-event-id": last_id} if last_id else {}
            try:
                async with client.stream("GET", "/v1/stream", params=query, headers={**headers, **more}) as answer:
                    if answer.status_code != 200:
                        raise _refusal(answer.status_code, await answer.aread())
                    away, kind = "", ""
                    async for line in answer.aiter_lines():
                        name, _, value = line.partition(": ")
                        if name == "id":
                            last_id = value
                        elif name == "event":
                            kind = value
                        elif name == "data":
                            yield [decoder(_Gap).decode(value) if kind == "gap" else value.encode()]
                            kind = ""
                        else:
                            yield []
            except (httpx.TransportError, Unavailable) as error:
                away = _noted(away, f"{url}: {error or type(error).__name__}; trying again")
            await asyncio.sleep(AGAIN_S)


class _Refusal(AdjournError):
    """What the server says, in its own words."""


def _refusal(status: int, body: bytes) -> AdjournError:
    try:
        said = msgspec.json.decode(body, type=dict[str, object]).get("detail", "")
    except msgspec.DecodeError:
        said = f"the server answered {status}; does --url name an Adjourn server?"
    if status == 401:
        return Unauthenticated(f"{said} (with --url, the key is in $ADJOURN_KEY)")
    return (Unavailable if status in (429, 502, 503, 504) else _Refusal)(str(said))


def _noted(before: str, now: str) -> str:
    """Once for each reason."""
    if now != before:
        note(now)
    return now


def _print(one: bytes | _Gap, as_json: bool) -> None:
    if isinstance(one, _Gap):
        last = one.first_offset + one.count - 1
        note(f"offsets {one.first_offset} to {last} of partition {one.partition} are missing: {one.reason}")
    elif as_json:
        sys.stdout.write(one.decode() + "\n")
    else:
        sys.stdout.write(line_of(decoder(_Seen).decode(one)) + "\n")


class _Seen(msgspec.Struct):
    """As much of an event as stands on a line."""

    event: dict[str, object]
    tenant: str
    received_at: str
    cost_usd: str | None


def line_of(seen: _Seen) -> str:
    """Time, tenant, session, outcome (or what changed), model, tokens, cost; what is not known is left out."""

    def part(section: str, field: str) -> str:
        found = seen.event.get(section)
        value = cast("dict[str, object]", found).get(field) if isinstance(found, dict) else None
        return "" if value is None else str(value)

    tokens = part("usage", "total_tokens") or "/".join(
        filter(None, (part("usage", "input_tokens"), part("usage", "output_tokens")))
    )
    kind = seen.event.get("event_type")
    amended = "amended" if kind == AMENDED else _change_in(seen.event) if kind == STATUS_CHANGED else ""
    words = [
        seen.received_at,
        seen.tenant,
        part("session", "session_id"),
        amended or part("outcome", "status"),
        part("outcome", "error_code"),
        part("usage", "model"),
        f"{tokens} tokens" if tokens else "",
        f"${seen.cost_usd}" if seen.cost_usd else "",
    ]
    return printable("  ".join(word for word in words if word))


def _change_in(event: dict[str, object]) -> str:
    """`idle -> active (message)`"""
    reason = event.get("reason")
    return f"{event.get('from')} -> {event.get('to')}" + (f" ({reason})" if reason else "")


def _reader_is_gone() -> bool:
    """A closed pipe shows only when it is written to, and it may be long until the next event."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(flags & (select.POLLERR | select.POLLNVAL) for _, flags in poll.poll(0))
    except (OSError, ValueError):  # no file at all, as under a test
        return False
