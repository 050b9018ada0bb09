"""How hosted sessions are shown: as a table, as lines, and as what happens in one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from adjourn.cli.output import note, print_columns, printable

if TYPE_CHECKING:
    from rich.table import Table

    from adjourn.sdk import Figures, SessionAnswer, SessionEvent, StatsAnswer

HEADS = ("ID", "NAME", "PATTERN", "STATUS", "TURNS", "TOKENS", "COST", "ACTIVE")
_NUMBERS = frozenset({"TURNS", "TOKENS", "COST", "ACTIVE", "SESSIONS", "LIVE", "P50", "P95"})
_STYLES = {"active": "green", "idle": "cyan", "error": "bold red", "terminated": "yellow"}
STATS_HEADS = ("", "SESSIONS", "LIVE", "TURNS", "TOKENS", "COST", "P50", "P95")
NAME_WIDTH = (8, 24)
"""At least, where there is no room, and at most; in whole characters."""


def cells(session: SessionAnswer, now: datetime | None = None) -> tuple[str, ...]:
    """How it stands: the outcome, where it has ended otherwise than well."""
    usage = session.usage
    return (
        session.id,
        session.name,
        session.pattern,
        session.status,
        f"{usage.turns:,}",
        f"{usage.total_tokens:,}",
        usd(session.cost_usd),
        age(session.active_at, now),
    )


def usd(amount: Decimal) -> str:
    """`$0`, `$1.25`, `$0.000012`"""
    return f"${amount.normalize():f}" if amount else "$0"


def age(at: str, now: datetime | None = None) -> str:
    """`3 s`, `5 min`, `7 h`, `3 d`"""
    seconds = max(0, ((now or datetime.now(UTC)) - datetime.fromisoformat(at)).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def print_sessions(sessions: Sequence[SessionAnswer]) -> None:
    show(HEADS, [cells(each) for each in sessions])


def show(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that fits a terminal; whole columns for whatever else reads."""
    if not rows:
        note("nothing")
    elif sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(table(heads, rows))
    else:
        print_columns(heads, rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A column without anything in it is left out, and so are the least important ones where there is no room."""
    from rich.table import Table
    from rich.text import Text

    widths = [max([len(head), *(len(row[n]) for row in rows)]) for n, head in enumerate(heads)]
    least = [min(width, NAME_WIDTH[0]) if head == "NAME" else width for head, width in zip(heads, widths, strict=True)]
    kept = [n for n, head in enumerate(heads) if not head or any(row[n] for row in rows)]
    columns = shutil.get_terminal_size().columns
    for spare in ("TOKENS", "PATTERN", "ACTIVE", "NAME"):
        if sum(least[n] + 2 for n in kept) - 2 > columns:
            kept = [n for n in kept if heads[n] != spare]
    for n in kept:
        if heads[n] == "NAME":  # takes what is left; what cannot wrap, rich does not make narrower
            spare_width = columns - (sum(least[each] + 2 for each in kept) - 2)
            least[n] = max(least[n], min(widths[n], NAME_WIDTH[1], least[n] + spare_width))
    made = Table(box=None, pad_edge=False, header_style="bold")
    for n in kept:
        made.add_column(
            heads[n],
            justify="right" if heads[n] in _NUMBERS else "left",
            no_wrap=True,
            width=least[n],
        )
    for row in rows:
        made.add_row(*[Text(printable(row[n]), style=_STYLES.get(row[n], "")) for n in kept])
    return made


def print_session(session: SessionAnswer) -> None:
    """What is known of one, a field a line; what is empty is left out."""
    usage = session.usage
    limits = {name: getattr(session.limits, name) for name in session.limits.__struct_fields__}
    fields: Mapping[str, object] = {
        "id": session.id,
        "name": session.name,
        "description": session.description,
        "pattern": session.pattern,
        "status": f"{session.status}{f' ({session.outcome})' if session.outcome else ''}",
        "error": session.error_code,
        "runner": " ".join(filter(None, (session.runner, session.model))),
        "user": session.user_id,
        "tags": ", ".join(session.tags),
        "limits": "  ".join(f"{name}={value}" for name, value in limits.items() if value is not None),
        "turns": f"{usage.turns:,}{f', {usage.errors:,} failed' if usage.errors else ''}",
        "tokens": f"{usage.total_tokens:,} ({usage.input_tokens:,} in, {usage.output_tokens:,} out)",
        "cost": f"{usd(session.cost_usd)}{f', {usage.unpriced_turns} turns unpriced' if usage.unpriced_turns else ''}",
        "agents": "  ".join(f"{name} {one.usage.turns} turns" for name, one in session.by_agent.items()),
        "running": f"{session.turn_id} on {session.node}" if session.turn_id else "",
        "waiting": f"{session.queued} messages" if session.queued else "",
        "parent": session.parent_id,
        "resumed from": session.resumed_from,
        "created": session.created_at,
        "active": session.active_at,
        "ended": session.ended_at,
        "completion": session.event_id if session.ended_at else "",
        "amended by": session.amendment_id,
        "answered": session.final_message,
        "revision": session.revision,
    }
    shown = [(name, printable(str(value))) for name, value in fields.items() if value not in (None, "")]
    for name, value in shown:
        print(f"{name:<12}  {value}")


def line_of(event: SessionEvent) -> str:
    """Number, time, what happened."""
    return printable(f"{event.seq:>5}  {event.at[11:23]}  {event.type:<14}  {said(event)}".rstrip())


def said(event: SessionEvent) -> str:
    """What an event brings, in a few words."""
    from adjourn import sdk

    match event.detail:
        case sdk.TextDelta(text=text):
            return repr(text)[1:-1]
        case sdk.StatusChanged(before=before, after=after, reason=reason):
            return f"{before} -> {after}" + (f" ({reason})" if reason else "")
        case sdk.TurnBegan(number=number, agent=agent, trigger=trigger):
            return " ".join(filter(None, (f"#{number}", agent, f"by {trigger}" if trigger else "")))
        case sdk.TurnAnswer() as turn:
            cost = "unpriced" if turn.cost_usd is None else usd(turn.cost_usd)
            why = f": {turn.error.message}" if turn.error else ""
            return f"#{turn.number} {turn.status}  {turn.usage.total_tokens:,} tokens  {cost}{why}"
        case sdk.ToolCall(name=name, arguments=arguments):
            return f"{name} {_json(arguments)}"
        case sdk.ToolResult(output=output, is_error=is_error):
            return f"{'failed: ' if is_error else ''}{_json(output)}"
        case sdk.UsageTold(input_tokens=taken, output_tokens=made):
            return f"{taken:,} in, {made:,} out"
        case sdk.CostTold(cost_usd=cost):
            return usd(cost)
        case sdk.Failed(code=code, message=message):
            return f"{code}: {message}"
        case sdk.Completed(outcome=outcome, error_code=code, event_id=event_id):
            return "  ".join(filter(None, (outcome, code, event_id)))
        case sdk.Done(stop_reason=reason):
            return reason
        case _:
            return bytes(event.data).decode(errors="replace")


def _json(value: object) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()


def print_stats(stats: StatsAnswer, by: Sequence[str]) -> None:
    rows = [_figures("all", stats.total)]
    for name in by:
        found: Mapping[str, Figures] = getattr(stats, f"by_{name}")
        rows += [_figures(f"{name} {value or '-'}", figures) for value, figures in found.items()]
    show(STATS_HEADS, rows)


def _figures(name: str, one: Figures) -> tuple[str, ...]:
    def took(ms: int | None) -> str:
        return "-" if ms is None else f"{ms / 1000:,.1f} s"

    return (
        name,
        f"{one.sessions:,}",
        f"{one.live:,}",
        f"{one.usage.turns:,}",
        f"{one.usage.total_tokens:,}",
        usd(one.cost_usd),
        took(one.durations.p50_ms),
        took(one.durations.p95_ms),
    )
