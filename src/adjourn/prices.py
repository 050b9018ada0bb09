"""What a completion cost, in integer nano-USD, exactly as genai-prices computes it in Decimal.

genai-prices needs about 0.3 ms for a call. Its prices are linear in the token counts between thresholds of the input
size, and change only at certain days or times of day; so each model is measured once per such period, by asking
genai-prices itself at a few points, and an event then costs a handful of integer multiplications.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

SENT = "sent"
"""The provenance of a cost that came with the event."""
UNKNOWN_MODELS_MAX = 1000
OTHER_MODELS = "(other)"
"""Where unknown models are counted once `UNKNOWN_MODELS_MAX` names are."""

COST_NANOUSD_MAX = 10**18
"""A thousand million USD. Past it there is no cost: such counts are a mistake, and 64 bits would not hold the sum."""

_NANOUSD_PER_USD = 1_000_000_000
_MODELS_MAX = 10_000
_PERIODS_MAX = 4096
_DAY_S = 86_400
_LAST_S = 253_402_214_400  # 9999-12-31: the last day that a datetime can name
_NANO = Decimal("1e-9")
_EXACT: Final = Context(prec=64, rounding=ROUND_HALF_EVEN)


class _Rate(msgspec.Struct, frozen=True, gc=False):
    """nano-USD = (fixed + input·tokens + …) / scale. Cached tokens are part of the input: theirs is the difference."""

    scale: int
    fixed: int
    input: int
    output: int
    cache_read_extra: int
    cache_creation_extra: int


class _Tariff(msgspec.Struct, frozen=True):
    """One rate per range of the input size: `rates[n]` holds above `starts[n - 1]` input tokens."""

    starts: tuple[int, ...]
    rates: tuple[_Rate, ...]


class _Model(msgspec.Struct):
    ref: str
    info: ModelInfo
    period_s: int
    """The price is constant within each such stretch of UTC time; 0: for ever."""
    fixed_tariff: _Tariff | None
    tariffs: dict[int, _Tariff | None]
    """By number of period, for prices that change."""


class PriceTable:
    """The bundled prices of genai-prices, loaded at the first question (28 MB, 0.2 s). Never touches the network."""

    def __init__(self) -> None:
        self._providers: list[Provider] | None = None
        self._version = ""
        self._models: dict[str, _Model | None] = {}
        self.unknown_models: dict[str, int] = {}
        """How often each model was asked for that has no price per token; at most `UNKNOWN_MODELS_MAX` names."""

    @property
    def loaded(self) -> bool:
        return self._providers is not None

    def load(self) -> None:
        """Do now what the first question would do; from any thread."""
        self._load()

    @property
    def version(self) -> str:
        """The version of genai-prices, as it stands in provenances."""
        self._load()
        return self._version

    def cost(
        self,
        model: str,
        when: datetime,
        input_tokens: int,
        output_tokens: int,
        cache_read: int = 0,
        cache_creation: int = 0,
    ) -> tuple[int | None, str]:
        """(nano-USD rounded half to even, provenance), or (None, "") for a model without a known price.

        `input_tokens` includes the cached ones; (None, "") as well when they exceed it, or the cost COST_NANOUSD_MAX.
        `when` must have an offset."""
        try:
            known = self._models[model]
        except KeyError:
            known = self._look_up(model)
        if known is None:
            return self._unknown(model)
        tariff = known.fixed_tariff
        if tariff is None:
            tariff = self._tariff_at(known, when)
            if tariff is None:
                return self._unknown(model)
        rate = tariff.rates[0]
        if tariff.starts:
            rate = tariff.rates[sum(input_tokens > start for start in tariff.starts)]
        scaled = rate.fixed + rate.input * input_tokens + rate.output * output_tokens
        if cache_read or cache_creation:
            if cache_read + cache_creation > input_tokens:
                return None, ""
            scaled += rate.cache_read_extra * cache_read + rate.cache_creation_extra * cache_creation
        scale = rate.scale
        nanousd = scaled
        if scale != 1:
            nanousd, rest = divmod(scaled, scale)
            rest += rest
            if rest > scale or (rest == scale and nanousd & 1):
                nanousd += 1
        return (nanousd, known.ref) if nanousd <= COST_NANOUSD_MAX else (None, "")

    def _load(self) -> list[Provider]:
        if self._providers is None:
            from genai_prices import __version__

            # The bundled list itself: a snapshot that the host process may have updated would belie our provenance.
            from genai_prices.data import providers

            self._version = __version__
            self._providers = providers
        return self._providers

    def _look_up(self, model: str) -> _Model | None:
        if len(self._models) >= _MODELS_MAX:
            self._models.clear()
        try:
            provider, info = _find(self._load(), model)
        except LookupError:
            known = None
        else:
            period_s = _period_s(info)
            known = _Model(
                ref=f"genai-prices/{self._version}:{provider.id}/{info.id}",
                info=info,
                period_s=period_s,
                fixed_tariff=None if period_s else _tariff(info.get_prices(datetime.fromtimestamp(0, UTC))),
                tariffs={},
            )
            if not period_s and known.fixed_tariff is None:
                known = None
        self._models[model] = known
        return known

    def _tariff_at(self, known: _Model, when: datetime) -> _Tariff | None:
        seconds = int(when.timestamp())
        if seconds < 0:
            seconds %= _DAY_S  # no price began before 1970, but the time of day still counts
        period = min(seconds, _LAST_S) // known.period_s
        try:
            return known.tariffs[period]
        except KeyError:
            if len(known.tariffs) >= _PERIODS_MAX:
                known.tariffs.clear()
            prices = known.info.get_prices(datetime.fromtimestamp(period * known.period_s, UTC))
            known.tariffs[period] = tariff = _tariff(prices)
            return tariff

    def _unknown(self, model: str) -> tuple[None, str]:
        counts = self.unknown_models
        name = model if model in counts or len(counts) < UNKNOWN_MODELS_MAX - 1 else OTHER_MODELS
        counts[name] = counts.get(name, 0) + 1
        return None, ""


def _find(providers: list[Provider], model: str) -> tuple[Provider, ModelInfo]:
    """As genai-prices finds it; else as `provider/model`, by the provider's exact id. Raises LookupError."""
    from genai_prices.data_snapshot import DataSnapshot

    # A new snapshot each time, because it remembers every name that it was ever asked for.
    snapshot = DataSnapshot(providers, False)
    try:
        return snapshot.find_provider_model(model, None, None, None)
    except LookupError:
        prefix, _, name = model.partition("/")
        if not any(provider.id == prefix for provider in providers):
            raise
        return snapshot.find_provider_model(name, None, prefix, None)


def nanousd_of(usd: Decimal) -> int:
    """Decimal USD (finite, below 10^40) as integer nano-USD, rounded half to even."""
    return int(_EXACT.scaleb(_EXACT.quantize(usd, _NANO), 9))


def _period_s(info: ModelInfo) -> int:
    """The longest stretch of UTC time, counted from 1970, within which this model's price cannot change."""
    from genai_prices.types import ModelPrice, StartDateConstraint, TimeOfDateConstraint

    if isinstance(info.prices, ModelPrice):
        return 0
    period_s = 0
    for conditional in info.prices:
        constraint = conditional.constraint
        if isinstance(constraint, StartDateConstraint):
            period_s = math.gcd(period_s, _DAY_S)
        elif isinstance(constraint, TimeOfDateConstraint):
            begin, end = _second_of_day(constraint.start_time), _second_of_day(constraint.end_time)
            period_s = math.gcd(period_s, _DAY_S, begin, end)
    return period_s


def _second_of_day(at: time) -> int:
    moment = datetime.combine(date(2000, 1, 1), at, tzinfo=at.tzinfo or UTC)
    return int(moment.timestamp()) % _DAY_S


def _tariff(prices: ModelPrice) -> _Tariff | None:
    """Measure a price at a few points per range of the input size. None if it has no price per token or per request
    (an hour of audio, say: what such a model's tokens cost is unknown, not 0), or is not linear in a range."""
    from genai_prices.types import TieredPrices

    if prices.input_mtok is None and prices.output_mtok is None and prices.requests_kcount is None:
        return None
    tiered = [price for price in vars(prices).values() if isinstance(price, TieredPrices)]
    starts = sorted({tier.start for price in tiered for tier in price.tiers})
    try:
        rates = tuple(_rate(prices, low, high) for low, high in _ranges(starts))
    except ValueError:
        return None
    return _Tariff(starts=tuple(starts), rates=rates)


def _ranges(starts: Sequence[int]) -> list[tuple[int, int]]:
    """Two input sizes within each range: `[100]` → `[(98, 100), (198, 200)]`. ValueError if one is too narrow."""
    ends = [*starts, 2 * max(starts, default=1000)]
    if any(end - start < 3 for start, end in itertools.pairwise([0, *ends])):
        raise ValueError("a range of this price is too narrow to measure")
    return [(end - 2, end) for end in ends]


def _rate(prices: ModelPrice, low: int, high: int) -> _Rate:
    """The straight line through what genai-prices says at `low` and `high` input tokens. ValueError if it bends."""
    base = _nanousd(prices, high)
    per_input = (base - _nanousd(prices, low)) / (high - low)
    per_output = _nanousd(prices, high, output_tokens=1) - base
    read_extra = _nanousd(prices, high, cache_read_tokens=1) - base
    creation_extra = _nanousd(prices, high, cache_write_tokens=1) - base
    fixed = base - per_input * high
    check = fixed + per_input * low + per_output * 7 + read_extra * 3 + creation_extra * 2
    if _nanousd(prices, low, output_tokens=7, cache_read_tokens=3, cache_write_tokens=2) != check:
        raise ValueError("this price is not linear in the token counts")
    terms = (fixed, per_input, per_output, read_extra, creation_extra)
    scale = math.lcm(*(term.denominator for term in terms))
    return _Rate(scale, *(int(term * scale) for term in terms))


def _nanousd(prices: ModelPrice, input_tokens: int, **tokens: int) -> Fraction:
    from genai_prices import Usage

    with localcontext(_EXACT):
        total = prices.calc_price(Usage(input_tokens=input_tokens, **tokens))["total_price"]
    return Fraction(total) * _NANOUSD_PER_USD
