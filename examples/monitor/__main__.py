"""A table of the sessions that live, once a second; `--once` prints it and ends. Made of the API alone: see also
`adjourn sessions watch`, which is at hand everywhere."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from examples.local_server import connected
from rich.console import Console
from rich.live import Live
from rich.table import Table

from adjourn.sdk import Client

HERE = Path(__file__).parent
COLUMNS = ("session", "name", "pattern", "status", "turns", "tokens", "USD", "quiet for")


def main() -> None:
    with connected(HERE) as adjourn:
        if "ADJOURN_URL" not in os.environ:
            make_some(adjourn)
        if "--once" in sys.argv:
            Console(width=140).print(table(adjourn))
            return
        with Live(table(adjourn), auto_refresh=False) as live:
            while True:
                time.sleep(1)
                live.update(table(adjourn), refresh=True)


def table(adjourn: Client) -> Table:
    total = adjourn.sessions.stats().total
    found = Table(*COLUMNS, title=f"{total.live} of {total.sessions} sessions live, {total.cost_usd} USD in all")
    for s in adjourn.sessions.list(live=True, order="active", limit=40).sessions:
        quiet = datetime.now(UTC) - datetime.fromisoformat(s.active_at)
        use = (f"{s.usage.turns}", f"{s.usage.total_tokens:,}", f"{s.cost_usd}", f"{quiet.seconds} s")
        found.add_row(s.id, s.name, s.pattern, s.status, *use)
    return found


def make_some(adjourn: Client) -> None:
    """For a server that is new."""
    for name in ("Ask about shelves", "Ask about wood"):
        options = {"cost_usd": "0.002", "reply": "{text}, you say."}
        session = adjourn.sessions.create("hybrid", name=name, config={"options": options})
        adjourn.sessions.send(session.id, name)
    adjourn.sessions.create("long_running", name="Wait for news")
    ended = adjourn.sessions.create("ephemeral", name="Count to one")
    adjourn.sessions.send(ended.id, "one")


main()
