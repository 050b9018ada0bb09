"""What a caller may say of a session."""

from __future__ import annotations

import msgspec
import pytest

from adjourn.sessions.session import NewSession
from adjourn.typed import decoder


@pytest.mark.parametrize(
    "amount", ["-1", "-0.000000001", "1000000000.1", "1e999999", '"NaN"', '"-Infinity"', '"Infinity"']
)
@pytest.mark.parametrize(
    "body",
    [
        '"limits": {"max_budget_usd": %s}',
        '"price": {"input_usd_per_mtok": %s, "output_usd_per_mtok": 1}',
        '"price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1, "cache_read_usd_per_mtok": %s}',
    ],
)
def test_money_is_neither_negative_nor_boundless(amount: str, body: str) -> None:
    """Budgets and prices alike: what 64 bits would not hold is refused too, and the refusal says which it is."""
    with pytest.raises(msgspec.ValidationError, match="usd"):
        decoder(NewSession).decode('{"pattern": "hybrid", ' + body % amount + "}")


def test_money_is_exact() -> None:
    """As a number or as text."""
    for text in ("0.1", '"0.1"'):
        new = decoder(NewSession).decode('{"pattern": "hybrid", "limits": {"max_budget_usd": ' + text + "}}")
        assert str(new.limits.max_budget_usd) == "0.1"
