from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from tests.sessions.hosted import session

from adjourn.errors import LimitReached
from adjourn.sessions.limits import bounded, budget_nanousd, due_ms, overdue, reached, retention_ms
from adjourn.sessions.session import Described, Limits, Session, Spent
from adjourn.settings import HostingSettings, TenantSettings

BOUNDS = HostingSettings(max_turns=40, max_budget_usd=2.5, max_idle_ms=60_000)


def limited(limits: Limits, **fields: Any) -> Session:
    return session(described=Described(limits=limits, retention_ms=500), **fields)


def test_who_asks_for_nothing_gets_what_the_server_allows() -> None:
    """Each bound of the settings is the limit of a session that names none; where there is none, it has none."""
    assert bounded(Limits(), BOUNDS, "acme") == Limits(
        max_turns=40, max_budget_usd=Decimal("2.5"), max_idle_ms=60_000, turn_timeout_ms=600_000
    )
    assert bounded(Limits(), HostingSettings(turn_timeout_ms=None), "acme") == Limits()


def test_who_asks_for_less_or_all_gets_that() -> None:
    """Up to the bound itself; where there is no bound, anything."""
    asked = Limits(max_turns=40, max_budget_usd=Decimal("2.50"), max_idle_ms=1, max_tokens=2**53, turn_timeout_ms=1)
    assert bounded(asked, BOUNDS, "acme") == asked


@pytest.mark.parametrize(
    ("asked", "name", "shown"),
    [
        (Limits(max_turns=41), "max_turns", "limits.max_turns is 41, more than the 40"),
        (Limits(max_budget_usd=Decimal("2.500000001")), "max_budget_usd", "is 2.500000001, more than the 2.5"),
        (Limits(max_idle_ms=60_001), "max_idle_ms", "raise hosting.max_idle_ms"),
        (Limits(turn_timeout_ms=600_001), "turn_timeout_ms", "more than the 600000"),
    ],
)
def test_who_asks_for_more_is_told_where(asked: Limits, name: str, shown: str) -> None:
    """The refusal has the path, both numbers and the setting that would have to be raised."""
    with pytest.raises(LimitReached) as caught:
        bounded(asked, BOUNDS, "acme")
    assert caught.value.path == f"limits.{name}"
    assert shown in caught.value.message


def test_the_tighter_of_server_and_tenant_holds() -> None:
    """For who asks for nothing, and for who asks for more, who is told whose bound it is and where it was set; other
    tenants know nothing of it."""
    acme = TenantSettings(name="acme", max_budget_usd=5, max_turns=40, max_tokens=10, turn_timeout_ms=5)
    hosting = HostingSettings(max_turns=40, max_budget_usd=7.5, tenants=(TenantSettings(name="other"), acme))
    assert bounded(Limits(), hosting, "acme") == Limits(
        max_budget_usd=Decimal(5), max_turns=40, max_tokens=10, turn_timeout_ms=5
    )
    for tenant in ("other", "unknown"):
        assert bounded(Limits(), hosting, tenant) == bounded(
            Limits(), HostingSettings(max_turns=40, max_budget_usd=7.5), ""
        )
    with pytest.raises(LimitReached) as caught:
        bounded(Limits(max_budget_usd=Decimal(6)), hosting, "acme")
    assert caught.value.path == "limits.max_budget_usd"
    said = caught.value.message
    assert said.startswith(
        "limits.max_budget_usd is 6, more than the 5 that tenant acme may ask for; give at most that"
    )
    assert "raise hosting.tenants[1].max_budget_usd" in said
    with pytest.raises(LimitReached, match=r"the 40 that this server allows; .* raise hosting\.max_turns"):
        bounded(Limits(max_turns=41), hosting, "acme")


def test_a_budget_in_the_settings_is_that_decimal() -> None:
    """Not the fraction of two that is nearest to it: a tenth is a tenth."""
    for written, nanousd in ((0.1, 100_000_000), (1e-9, 1), (1e9, 10**18), (0.7, 700_000_000)):
        assert budget_nanousd(bounded(Limits(), HostingSettings(max_budget_usd=written), "acme")) == nanousd
    assert budget_nanousd(Limits()) is None


def test_a_limit_by_use_is_reached_when_nothing_is_left() -> None:
    """At the limit, not before it; the first of several is named."""
    spent = Spent(turns=3, input_tokens=60, output_tokens=40, cost_nanousd=1_000)
    used = session(spent=spent)
    assert reached(used, Limits()) is None
    assert reached(used, Limits(max_turns=4, max_tokens=101, max_budget_usd=Decimal("0.000001001"))) is None
    assert reached(used, Limits(max_turns=3, max_tokens=100)) == "max_turns"
    assert reached(used, Limits(max_tokens=100)) == "max_tokens"
    assert reached(used, Limits(max_budget_usd=Decimal("0.000001"))) == "max_budget_usd"


def test_a_budget_of_nothing_lets_through_what_is_free() -> None:
    """It is reached by the first thing that costs, not by having begun."""
    assert reached(session(), Limits(max_budget_usd=Decimal(0))) is None
    assert reached(session(spent=Spent(cost_nanousd=1)), Limits(max_budget_usd=Decimal(0))) == "max_budget_usd"


def test_what_is_due_first_is_due_next() -> None:
    """Of idleness and lifetime the earlier one, and it is the one that ends the session."""
    both = Limits(max_idle_ms=5_000, max_lifetime_ms=10_000)
    fresh = limited(both)
    assert (due_ms(fresh), overdue(fresh, 6_999), overdue(fresh, 7_000)) == (7_000, None, "max_idle_ms")
    busy = limited(both, active_ms=9_000)
    assert (due_ms(busy), overdue(busy, 10_999), overdue(busy, 11_000)) == (11_000, None, "max_lifetime_ms")
    assert overdue(busy, 20_000) == "max_lifetime_ms", "that one was passed first, however late anybody looks"
    assert due_ms(limited(Limits())) is None
    assert overdue(limited(Limits()), 10**15) is None


def test_a_session_whose_turn_runs_or_waits_is_not_idle() -> None:
    """Its lifetime ends it still."""
    both = Limits(max_idle_ms=5_000, max_lifetime_ms=10_000)
    assert due_ms(limited(both, turn_id="turn_1")) == due_ms(limited(both, queued=1)) == 11_000
    assert due_ms(limited(Limits(max_idle_ms=5_000), turn_id="turn_1")) is None


def test_an_ended_session_is_due_for_deletion() -> None:
    """That, and no limit any more."""
    ended = limited(Limits(max_idle_ms=1, max_lifetime_ms=1), status="completed", ended_ms=7_000)
    assert due_ms(ended) == 7_500
    kept = session(status="completed", ended_ms=7_000)
    assert due_ms(kept) is None


def test_ephemeral_sessions_are_kept_for_less_long() -> None:
    """A minute, all others for thirty days, unless the settings say otherwise."""
    assert retention_ms("ephemeral", HostingSettings()) == 60_000
    assert retention_ms("hybrid", HostingSettings()) == 30 * 86_400_000
    other = HostingSettings(retention_days=0.5, ephemeral_retention_ms=7 * 86_400_000)
    assert retention_ms("ephemeral", other) == 7 * 86_400_000
    assert retention_ms("single_container", other) == 43_200_000
