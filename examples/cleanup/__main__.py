"""Ends sessions that have been quiet for long, and deletes those that ended long ago. It shows which; `--yes` does it.

    python -m examples.cleanup [--quiet-s 3600] [--ended-s 604800] [--tag TAG] [--yes]

What lives for long is better ended by `limits.max_idle_ms`, and what has ended is deleted by `hosting.retention_days`;
this is for what those have missed."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from examples.local_server import connected

from adjourn.sdk import Client
from adjourn.sdk.models_sessions import SessionAnswer

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.cleanup")
    parser.add_argument("--quiet-s", type=float, default=3_600)
    parser.add_argument("--ended-s", type=float, default=604_800)
    parser.add_argument("--tag", action="append", default=[])
    parser.add_argument("--yes", action="store_true")
    wanted = parser.parse_args()
    with connected(HERE) as adjourn:
        if "ADJOURN_URL" not in os.environ:
            make_some(adjourn)
        quiet, old = find(adjourn, wanted.tag, timedelta(seconds=wanted.quiet_s), timedelta(seconds=wanted.ended_s))
        for session in quiet:
            if wanted.yes:
                adjourn.sessions.terminate(session.id, reason="cleanup")
            print(f"{'ended' if wanted.yes else 'would end'} {line(session)}")
        for session in old:
            if wanted.yes:
                adjourn.sessions.delete(session.id)
            print(f"{'deleted' if wanted.yes else 'would delete'} {line(session)}")
        print(f"{len(quiet)} to end, {len(old)} to delete" + ("" if wanted.yes else "; --yes does it"))


def find(
    adjourn: Client, tags: list[str], quiet_for: timedelta, ended_for: timedelta
) -> tuple[list[SessionAnswer], list[SessionAnswer]]:
    """Those to end, the quietest first, and those to delete. One whose turn runs, or waits to, is not quiet."""
    now = datetime.now(UTC)
    quiet: list[SessionAnswer] = []
    for session in adjourn.sessions.iterate(live=True, tags=tags, order="active", descending=False):
        if now - datetime.fromisoformat(session.active_at) < quiet_for:
            break
        if session.turn_id is None and not session.queued:
            quiet.append(session)
    old = adjourn.sessions.iterate(tags=tags, order="ended", descending=False, ended_until=now - ended_for)
    return quiet, list(old)


def line(session: SessionAnswer) -> str:
    return f"{session.id} {session.pattern} {session.status} {session.cost_usd} USD {session.name!r}"


def make_some(adjourn: Client) -> None:
    """For a server that is new."""
    for name in ("Ask about shelves", "Ask about wood"):
        adjourn.sessions.create("hybrid", name=name, tags=["shop"])
    other = adjourn.sessions.create("hybrid", name="Somebody else's", tags=["office"])
    adjourn.sessions.send(other.id, "hello")
    for name in ("Count to one", "Count to two"):
        ended = adjourn.sessions.create("hybrid", name=name, tags=["shop"])
        adjourn.sessions.send(ended.id, name)
        adjourn.sessions.complete(ended.id)


main()
