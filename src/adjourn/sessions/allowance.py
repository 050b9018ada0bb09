"""What a tenant's sessions may use, and what is left of it."""

from __future__ import annotations

import msgspec

from adjourn.database import Reader
from adjourn.sessions import limits, queries
from adjourn.sessions.budgets import Total, Totals, left_of
from adjourn.sessions.session import Limits
from adjourn.settings import HostingSettings


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant or a user may use of a thing that it shares, and what of that; None: no bound of its own."""

    max_sessions: int | None
    live_sessions: int
    total_nanousd: int | None
    left_nanousd: int | None


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """`limits`: the most that one session may ask for, and what one has that asks for nothing. `user`: of the user who
    was asked about."""

    limits: Limits
    tenant: Share
    user: Share | None


def allowance(reader: Reader, hosting: HostingSettings, tenant: str, user_id: str = "") -> Allowance:
    totals = Totals(hosting).of(tenant, user_id)
    own = limits.bound(hosting, tenant, "max_sessions_per_tenant", "max_sessions")
    per_user = limits.bound(hosting, tenant, "max_sessions_per_user")
    return Allowance(
        limits=limits.bounded(Limits(), hosting, tenant),
        tenant=_share(reader, own, queries.live_of_tenant(reader, tenant), totals, ""),
        user=_share(reader, per_user, queries.live_of_user(reader, tenant, user_id), totals, user_id)
        if user_id
        else None,
    )


def _share(reader: Reader, most: limits.Bound | None, live: int, totals: list[Total], user_id: str) -> Share:
    mine = [total for total in totals if total.user_id == user_id]
    return Share(
        max_sessions=None if most is None else int(most.most),
        live_sessions=live,
        total_nanousd=mine[0].nanousd if mine else None,
        left_nanousd=left_of(reader, mine).get(user_id),
    )
