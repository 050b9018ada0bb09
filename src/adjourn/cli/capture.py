"""`adjourn capture FILE`: any NDJSON file, batch by batch, to a server or into the database of the settings."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Protocol

import msgspec
import typer

from adjourn.cli.options import Assignments, ConfigFile, load_settings
from adjourn.cli.output import finish, note, reason
from adjourn.errors import ConfigInvalid
from adjourn.secret import mask

if TYPE_CHECKING:
    from adjourn.settings import Settings

BATCH_LINES = 500
BATCH_BYTES = 1_000_000
LINE_BYTES_MAX = 8_000_000
"""Far above what an event may have: such a line is refused by name instead of filling the memory."""
PROBLEMS_SHOWN = 5
STATUSES = ("accepted", "duplicate", "conflict", "invalid")
BUSY_TRIES = 10


class Outcome(Protocol):
    @property
    def status(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def remedy(self) -> str: ...


Send = Callable[[Sequence[bytes], int], Awaitable[Sequence[Outcome]]]
"""(events, the number of the first in the file, from 1) → one outcome each, after they are durable."""


class Lines(msgspec.Struct):
    """Events of a file, and the line that each stood on."""

    events: list[bytes]
    numbers: list[int]


class Tally(msgspec.Struct):
    """What became of all, and the first few that were refused."""

    counts: Counter[str]
    problems: list[str]

    @property
    def clean(self) -> bool:
        return not (self.counts["conflict"] or self.counts["invalid"])

    def add(self, lines: Lines, outcomes: Sequence[Outcome]) -> None:
        self.counts.update(outcome.status for outcome in outcomes)
        for number, outcome in zip(lines.numbers, outcomes, strict=True):
            if outcome.status in ("conflict", "invalid") and len(self.problems) < PROBLEMS_SHOWN:
                why = reason(outcome.path, outcome.message, outcome.remedy)
                self.problems.append(f"line {number}: {outcome.status}: {why}")


def capture(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="NDJSON: one event a line. - is standard input.")],
    url: Annotated[
        str, typer.Option(envvar="ADJOURN_URL", help="Send to this server, with the key $ADJOURN_KEY.")
    ] = "",
    producer: Annotated[str, typer.Option(metavar="NAME", help="Take the file's n-th event once, for ever.")] = "",
    tenant: Annotated[
        str, typer.Option(help="Whose events they are, without --url. With it, the key says.")
    ] = "default",
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Send a file of events. Without --url they go into the database of the settings, and on to its destinations.

    Sent again, a file is not doubled: events are known by their ids within the dedupe window. --producer makes that
    exact for ever; use a name for one file only. Exit code 1 if any event was refused; it is in quarantine then."""
    settings = load_settings(config, assignments)
    with _source(file) as source:
        tally = asyncio.run(_capture(source, settings, url, producer, tenant))
    counts = ", ".join(f"{tally.counts[status]:,} {status}" for status in STATUSES)
    total = tally.counts.total()
    print(f"{total:,} {'event' if total == 1 else 'events'}: {counts}")
    for problem in tally.problems:
        note(problem)
    if not tally.clean:
        note("what was refused is kept whole: adjourn quarantine list")
    finish(tally.clean)


@contextmanager
def _source(file: str) -> Generator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            source = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            fact = f"{file} cannot be read ({error.strerror})"
            raise ConfigInvalid(f"{fact}; give an NDJSON file, or -", path="file") from None
        yield source


async def _capture(source: BinaryIO, settings: Settings, url: str, producer: str, tenant: str) -> Tally:
    tally = Tally(Counter(), [])
    sent = 0
    opened = _server(url, producer) if url else _embedded(settings, producer, tenant)
    async with opened as send:
        with _progress(source) as advance:
            for lines in batches(source):
                tally.add(lines, await send(lines.events, sent + 1))
                sent += len(lines.events)
                advance(lines.events, sent)
    return tally


def batches(source: BinaryIO) -> Generator[Lines]:
    """Lines that are not blank, by 500 or 1 MB. Raises ConfigInvalid at a line that no event can be."""
    held, size = Lines([], []), 0
    for number, line in enumerate(iter(lambda: source.readline(LINE_BYTES_MAX + 1), b""), 1):
        if len(line) > LINE_BYTES_MAX:
            raise ConfigInvalid(
                f"line {number} is longer than {LINE_BYTES_MAX} bytes; give one event a line: jq -c '.[]' makes NDJSON "
                "of an array",
                path="file",
            )
        event = line.strip()
        if not event:
            continue
        if held.events and (len(held.events) == BATCH_LINES or size + len(event) > BATCH_BYTES):
            yield held
            held, size = Lines([], []), 0
        held.events.append(event)
        held.numbers.append(number)
        size += len(event)
    if held.events:
        yield held


@asynccontextmanager
async def _server(url: str, producer: str) -> AsyncGenerator[Send]:
    from adjourn.sdk import AsyncClient

    async with AsyncClient(url, os.environ.get("ADJOURN_KEY") or None, retries=BUSY_TRIES) as client:

        async def send(events: Sequence[bytes], first: int) -> Sequence[Outcome]:
            answer = await client.send(events, producer=producer, first_sequence=first if producer else 0)
            return answer.results

        yield send


@asynccontextmanager
async def _embedded(settings: Settings, producer: str, tenant: str) -> AsyncGenerator[Send]:
    from adjourn.cli.store import delivered
    from adjourn.node import Node
    from adjourn.security.keys import check_new

    check_new(tenant, "", "writer")
    note(f"into {mask(settings.database_url)}, tenant {tenant}; --url sends to a server")
    async with Node(settings) as node:

        async def send(events: Sequence[bytes], first: int) -> Sequence[Outcome]:
            numbers = range(first, first + len(events)) if producer else None
            return await _patiently(
                lambda: node.ingest.take(tenant, events, source="cli", producer=producer, sequences=numbers)
            )

        yield send
        if not await delivered(node):
            note("not every destination has them yet; adjourn serve goes on with it")


async def _patiently(take: Callable[[], Awaitable[Sequence[Outcome]]]) -> Sequence[Outcome]:
    """Again after back-pressure, as the client of a server does; nothing of a refused batch was taken."""
    from adjourn.errors import TooBusy, Unavailable

    for _ in range(BUSY_TRIES - 1):
        try:
            return await take()
        except (TooBusy, Unavailable) as error:
            await asyncio.sleep((error.retry_after_ms or 500) / 1000)
    return await take()


Advance = Callable[[Sequence[bytes], int], None]
"""(the events just sent, how many were sent in all)"""


@contextmanager
def _progress(source: BinaryIO) -> Generator[Advance]:
    """A bar over the file's bytes on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda events, sent: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    size = None if source is sys.stdin.buffer else os.fstat(source.fileno()).st_size
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("0 events", total=size or None)

        def advance(events: Sequence[bytes], sent: int) -> None:
            bar.update(task, advance=sum(len(event) + 1 for event in events), description=f"{sent:,} events")

        yield advance
