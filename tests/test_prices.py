from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import ModelPrice, TieredPrices, TimeOfDateConstraint
from hypothesis import given, settings
from hypothesis import strategies as st

from adjourn.prices import COST_NANOUSD_MAX, OTHER_MODELS, UNKNOWN_MODELS_MAX, PriceTable, nanousd_of

NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)
TABLE = PriceTable()
TOKEN_PRICES = ("input_mtok", "output_mtok", "requests_kcount")


def variants(prices: object) -> list[ModelPrice]:
    return [prices] if isinstance(prices, ModelPrice) else [conditional.prices for conditional in prices]


def tier_starts(prices: object) -> set[int]:
    return {
        tier.start
        for variant in variants(prices)
        for price in vars(variant).values()
        if isinstance(price, TieredPrices)
        for tier in price.tiers
    }


def reachable_models() -> dict[str, str]:
    """Every name under which genai-prices finds a model without being told its provider."""
    found: dict[str, str] = {}
    for provider in providers:
        for info in provider.models:
            try:
                price = genai_prices.calc_price(genai_prices.Usage(input_tokens=1), info.id)
            except LookupError:
                continue
            found[info.id] = f"{price.provider.id}/{price.model.id}"
    return found


MODELS = reachable_models()
CHANGING = sorted(
    name
    for name in MODELS
    if not isinstance(genai_prices.calc_price(genai_prices.Usage(input_tokens=1), name).model.prices, ModelPrice)
)


def expected(name: str, when: datetime, counts: tuple[int, int, int, int]) -> int | None:
    usage = genai_prices.Usage(
        input_tokens=counts[0], output_tokens=counts[1], cache_read_tokens=counts[2], cache_write_tokens=counts[3]
    )
    price = genai_prices.calc_price(usage, name, genai_request_timestamp=when)
    if all(getattr(price.model_price, key) is None for key in TOKEN_PRICES):
        return None
    return int((price.total_price * 10**9).to_integral_value(ROUND_HALF_EVEN))


def test_every_model_costs_what_genai_prices_says() -> None:
    """For every model and around every threshold of its input size, the memoised cost equals calc_price's Decimal."""
    assert len(MODELS) > 300
    mismatches = []
    for name, ref in MODELS.items():
        info = genai_prices.calc_price(genai_prices.Usage(input_tokens=1), name).model
        sizes = {0, 1, 3, 1237, 999_983} | {start + step for start in tier_starts(info.prices) for step in (-1, 0, 1)}
        for size in sizes:
            counts = (size, 891, size // 3, size // 7)
            cost, provenance = TABLE.cost(name, NOON, *counts)
            want = expected(name, NOON, counts)
            want_ref = "" if want is None else f"genai-prices/{genai_prices.__version__}:{ref}"
            if (cost, provenance) != (want, want_ref):
                mismatches.append((name, counts, cost, want, provenance))
    assert mismatches == []


def test_prices_change_at_the_second_that_genai_prices_changes_them() -> None:
    """Around each start date and each boundary of a time of day, the cost equals calc_price's, in any time zone."""
    assert "deepseek-chat" in CHANGING
    zone = timezone(timedelta(hours=5, minutes=45))
    for name in CHANGING:
        moments = [datetime(1969, 5, 5, 7, 0, tzinfo=UTC), datetime(9998, 1, 1, 1, tzinfo=UTC)]
        for conditional in genai_prices.calc_price(genai_prices.Usage(input_tokens=1), name).model.prices:
            constraint = conditional.constraint
            if isinstance(constraint, TimeOfDateConstraint):
                days = [datetime.combine(NOON.date(), at) for at in (constraint.start_time, constraint.end_time)]
                assert all(at.second == 0 and at.microsecond == 0 for at in days)
            else:
                days = [datetime.combine(constraint.start_date, datetime.min.time(), UTC)] if constraint else []
            moments += [at + timedelta(seconds=step) for at in days for step in (-1, 0, 1, 1800)]
        for when in moments:
            for moment in (when, when.astimezone(zone)):
                cost, _ = TABLE.cost(name, moment, 1_250_001, 890_007, 111, 0)
                assert cost == expected(name, moment, (1_250_001, 890_007, 111, 0)), (name, moment)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)) | st.sampled_from(CHANGING),
    when=st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()),
    input_tokens=st.integers(0, 2_000_000) | st.integers(0, 2**53),
    output_tokens=st.integers(0, 2_000_000) | st.integers(0, 2**53),
    shares=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
)
def test_any_usage_at_any_time_costs_what_genai_prices_says(
    name: str, when: datetime, input_tokens: int, output_tokens: int, shares: tuple[float, float]
) -> None:
    """Whatever the model, the moment and the counts, not one nano-USD differs from calc_price in Decimal, up to the
    highest cost there is."""
    cached = tuple(min(int(input_tokens * share), input_tokens // 2) for share in shares)
    counts = (input_tokens, output_tokens, *cached)
    right = expected(name, when, counts)
    assert TABLE.cost(name, when, *counts)[0] == (None if right is None or right > COST_NANOUSD_MAX else right)


def test_an_unknown_model_has_no_cost_and_is_counted() -> None:
    """An unknown model costs None, never 0, and is counted under its name; the number of names is bounded."""
    table = PriceTable()
    assert table.cost("no-such-model", NOON, 10, 10) == (None, "")
    assert table.cost("no-such-model", NOON, 10, 10) == (None, "")
    assert table.cost("gpt-4o", NOON, 10, 10)[0] is not None
    assert table.unknown_models == {"no-such-model": 2}
    for n in range(UNKNOWN_MODELS_MAX + 500):
        table.cost(f"unheard-{n}", NOON, 1, 1)
    assert len(table.unknown_models) == UNKNOWN_MODELS_MAX
    assert sum(table.unknown_models.values()) == UNKNOWN_MODELS_MAX + 502
    assert table.unknown_models[OTHER_MODELS] == 502


def test_a_model_that_is_not_priced_by_tokens_has_no_cost() -> None:
    """Tokens of a model that is sold by the hour of audio have an unknown cost, not a cost of 0."""
    assert TABLE.cost("whisper-1", NOON, 100, 100) == (None, "") or expected("whisper-1", NOON, (100, 100, 0, 0))
    by_hour = [name for name in MODELS if expected(name, NOON, (100, 0, 0, 0)) is None]
    assert all(TABLE.cost(name, NOON, 100, 100) == (None, "") for name in by_hour)


def test_a_model_may_be_named_with_its_provider() -> None:
    """`openai/gpt-4o` costs what `gpt-4o` costs; an unknown prefix stays unknown."""
    assert TABLE.cost("openai/gpt-4o", NOON, 1000, 1000) == TABLE.cost("gpt-4o", NOON, 1000, 1000)
    assert TABLE.cost("nobody/gpt-4o", NOON, 1000, 1000) == (None, "")


def test_more_cached_than_input_tokens_have_no_cost() -> None:
    """Impossible counts are not priced, and do not make the model unknown."""
    table = PriceTable()
    assert table.cost("gpt-4o", NOON, 10, 10, 8, 3) == (None, "")
    assert table.unknown_models == {}


def test_a_cost_that_no_column_holds_is_no_cost() -> None:
    """Counts up to the limit of the schema are priced exactly up to a thousand million USD, and not at all past it."""
    table = PriceTable()
    most = COST_NANOUSD_MAX // 2_500  # gpt-4o: 2,500 nano-USD an input token
    assert table.cost("gpt-4o", NOON, most, 0)[0] == COST_NANOUSD_MAX
    assert table.cost("gpt-4o", NOON, most, 1) == (None, "")
    assert table.cost("gpt-4o", NOON, 2**53, 2**53) == (None, "")
    assert table.unknown_models == {}


@pytest.mark.parametrize(
    ("usd", "nanousd"),
    [
        ("0.0428", 42_800_000),
        ("0.0000000005", 0),
        ("0.0000000015", 2),
        ("0.00000000050000000000000000000000000000001", 1),
        ("999999999.9999999995", 1_000_000_000_000_000_000),
        ("1e-99999999", 0),
        ("-0.0", 0),
        ("1000000000", 10**18),
    ],
)
def test_a_sent_cost_is_rounded_once_half_to_even(usd: str, nanousd: int) -> None:
    """Decimal USD of any length become nano-USD by one rounding, half to even."""
    assert nanousd_of(Decimal(usd)) == nanousd


def test_the_price_list_is_loaded_at_the_first_question() -> None:
    """Making a table loads nothing of genai-prices: 28 MB are spent only where prices are asked for."""
    code = (
        "import sys; from adjourn.prices import PriceTable; table = PriceTable()\n"
        "assert 'genai_prices' not in sys.modules; print(table.version)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == genai_prices.__version__
