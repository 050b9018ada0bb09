"""The limits of a hosted session: what it may ask for, which one it has reached, and when the next one is due. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from adjourn.errors import LimitReached
from adjourn.prices import nanousd_of
from adjourn.sessions.hosting import PATTERNS, Pattern
from adjourn.sessions.session import Limits, Session
from adjourn.settings import HostingSettings
from adjourn.typed import convert

DAY_MS = 86_400_000

TimeLimit = Literal["max_idle_ms", "max_lifetime_ms"]


class Bound(NamedTuple):
    """The most of something; `allows` says for whom, `setting` where it was set."""

    most: int | Decimal
    allows: str
    setting: str


def bound(hosting: HostingSettings, tenant: str, name: str, of_tenant: str = "") -> Bound | None:
    """The tighter of the server's bound and the tenant's own, which may go by another name; None: there is none."""
    found: Bound | None = None
    if (most := _value(getattr(hosting, name))) is not None:
        found = Bound(most, "this server allows", f"hosting.{name}")
    for i, each in enumerate(hosting.tenants):
        if each.name == tenant:
            most = _value(getattr(each, of_tenant or name))
            if most is not None and (found is None or most < found.most):
                found = Bound(most, f"tenant {tenant} may ask for", f"hosting.tenants[{i}].{of_tenant or name}")
    return found


def bounded(asked: Limits, hosting: HostingSettings, tenant: str) -> Limits:
    """The limits of a session that asks for these: the tenant's or the server's where it asks for none. Raises
    LimitReached, with the path, where it asks for more than that."""
    found: dict[str, int | Decimal | None] = {}
    for name in Limits.__struct_fields__:
        most, value = bound(hosting, tenant, name), getattr(asked, name)
        if value is not None and most is not None and value > most.most:
            fact = f"limits.{name} is {value:f}" if isinstance(value, Decimal) else f"limits.{name} is {value}"
            remedy = f"give at most that, or raise {most.setting} in the server's settings"
            raise LimitReached(f"{fact}, more than the {most.most} that {most.allows}; {remedy}", path=f"limits.{name}")
        found[name] = value if value is not None or most is None else most.most
    return convert(found, Limits)


def changed(old: Limits, asked: Limits) -> Limits:
    """The limits of a session that had `old` and asks for these: what it does not ask for stays."""
    given = {name: value for name in Limits.__struct_fields__ if (value := getattr(asked, name)) is not None}
    return msgspec.structs.replace(old, **given)


def _value(most: float | None) -> int | Decimal | None:
    if isinstance(most, float):  # 5 of 5.0, as it was written
        return Decimal(int(most)) if most.is_integer() else Decimal(str(most))
    return most


def budget_nanousd(limits: Limits) -> int | None:
    """What a session may spend; None: no limit of its own."""
    return None if limits.max_budget_usd is None else nanousd_of(limits.max_budget_usd)


def reached(session: Session, limits: Limits) -> str | None:
    """The name of the limit by use that leaves nothing; None: it may run another turn."""
    spent, budget = session.spent, budget_nanousd(limits)
    if limits.max_turns is not None and spent.turns >= limits.max_turns:
        return "max_turns"
    if limits.max_tokens is not None and spent.total_tokens >= limits.max_tokens:
        return "max_tokens"
    # Nothing spent reaches no budget, so that one of 0 still lets through what is free.
    if budget is not None and 0 < spent.cost_nanousd >= budget:
        return "max_budget_usd"
    return None


def overdue(session: Session, now_ms: int) -> TimeLimit | None:
    """The name of the limit by time that a live session has passed, the one that came first."""
    first: TimeLimit | None = None
    times = _times(session)
    for name, at in times.items():
        if at <= now_ms and (first is None or at < times[first]):
            first = name
    return first


def due_ms(session: Session) -> int | None:
    """When a session must be looked at next: its record is to be deleted if it has ended, else a limit by time ends it.
    None: never."""
    if session.ended_ms is not None:
        kept = session.described.retention_ms
        return None if kept is None else session.ended_ms + kept
    return min(_times(session).values(), default=None)


def _times(session: Session) -> dict[TimeLimit, int]:
    """When each limit by time ends a live session. One whose turn runs, or waits to, is not idle."""
    limits, times = session.described.limits, dict[TimeLimit, int]()
    if limits.max_lifetime_ms is not None:
        times["max_lifetime_ms"] = session.created_ms + limits.max_lifetime_ms
    if limits.max_idle_ms is not None and session.turn_id is None and not session.queued:
        times["max_idle_ms"] = session.active_ms + limits.max_idle_ms
    return times


def retention_ms(pattern: Pattern, hosting: HostingSettings) -> int:
    """How long the record of a session of that pattern is kept once it has ended."""
    if PATTERNS[pattern].retention == "ephemeral_retention_ms":
        return hosting.ephemeral_retention_ms
    return round(hosting.retention_days * DAY_MS)
