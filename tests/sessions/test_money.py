from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sessions.hosted import session

from adjourn.prices import COST_NANOUSD_MAX, PriceTable
from adjourn.runner import Agent, Cost, Part, RunnerConfig, ToolCall, Usage
from adjourn.sessions.money import (
    Meter,
    declared_cost,
    first_tranche,
    input_estimate,
    must_stop,
    next_tranche,
    rate_of,
    tranche_of,
    usd_of,
    worst_case,
    worst_of_turn,
)
from adjourn.sessions.session import Described, Price, Spent
from adjourn.sessions.turn import Message

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
TABLE = PriceTable()
PRICE = Price(input_usd_per_mtok=Decimal(3), output_usd_per_mtok=Decimal(15))


def by_token(usage: Usage) -> int | None:
    """One nano-USD a token; the model `none` has no price."""
    return None if usage.model == "none" else usage.input_tokens + usage.output_tokens


# --- prices ----------------------------------------------------------------------------------------------------------


def test_a_declared_price_is_exact() -> None:
    """Cached tokens cost what input does unless they have a price of their own; the sum is rounded once."""
    usage = Usage(input_tokens=1_000, output_tokens=10, cache_read_tokens=600, cache_creation_tokens=100)
    assert declared_cost(PRICE, usage) == 1_000 * 3_000 + 10 * 15_000
    cached = msgspec.structs.replace(PRICE, cache_read_usd_per_mtok=Decimal("0.3"))
    assert declared_cost(cached, usage) == 400 * 3_000 + 600 * 300 + 10 * 15_000
    tiny = Price(input_usd_per_mtok=Decimal("0.0005"), output_usd_per_mtok=Decimal("0.0005"))
    assert declared_cost(tiny, Usage(input_tokens=1)) == 0
    assert declared_cost(tiny, Usage(input_tokens=1, output_tokens=2)) == 2
    assert declared_cost(tiny, Usage(input_tokens=1, output_tokens=1)) == 1
    assert declared_cost(PRICE, Usage(input_tokens=2**53, output_tokens=2**53)) is None


@given(st.decimals(0, 10**9, allow_nan=False), st.integers(0, 2**53), st.integers(0, 2**53))
def test_a_declared_price_never_fails(usd: Decimal, read: int, more: int) -> None:
    """Whatever price is allowed, whatever was used: a cost that 64 bits hold, or none."""
    price = Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd)
    cost = declared_cost(price, Usage(input_tokens=read + more, cache_read_tokens=read, output_tokens=more))
    assert cost is None or 0 <= cost <= COST_NANOUSD_MAX


def test_a_usage_is_priced_by_the_model_that_it_names() -> None:
    """Else by the session's; a model without a price has none; a declared price is that of all of them."""
    rate = rate_of(None, "claude-sonnet-4-5", TABLE, WHEN)
    usage = Usage(input_tokens=1_000, output_tokens=1_000)
    assert rate(usage) == 1_000 * 3_000 + 1_000 * 15_000
    dearer = rate(msgspec.structs.replace(usage, model="claude-opus-4-1"))
    assert dearer is not None
    assert dearer > 18_000_000
    assert rate(msgspec.structs.replace(usage, model="no-such-model")) is None
    assert rate_of(None, "", TABLE, WHEN)(usage) is None
    declared = rate_of(PRICE, "no-such-model", TABLE, WHEN)
    assert declared(msgspec.structs.replace(usage, model="claude-opus-4-1")) == declared(usage) == 18_000_000


def test_the_worst_case_is_all_output_and_the_dearest_input() -> None:
    """No usage within its tokens costs more, whatever of it is cached; one model without a price leaves it unknown."""
    rate = rate_of(None, "claude-sonnet-4-5", TABLE, WHEN)
    worst = worst_case(rate, 10_000, 4_096)
    assert worst is not None
    for read, creation in ((0, 0), (10_000, 0), (0, 10_000), (3_000, 3_000)):
        used = Usage(input_tokens=10_000, output_tokens=4_096, cache_read_tokens=read, cache_creation_tokens=creation)
        assert (rate(used) or 0) <= worst
    assert worst == rate(Usage(input_tokens=10_000, output_tokens=4_096, cache_creation_tokens=10_000))
    both = worst_case(rate, 10_000, 4_096, ["", "claude-opus-4-1"])
    assert both is not None
    assert both > worst
    assert worst_case(rate, 10_000, 4_096, ["", "no-such-model"]) is None


def test_the_worst_case_of_a_turn_counts_all_that_it_may_read() -> None:
    """Prompts, what is said, the conversation so far, and the models of all agents."""
    config = RunnerConfig(
        system_prompt="é" * 50, max_output_tokens=7, agents=[Agent(name="a", model="none"), Agent(name="b")]
    )
    now = session(spent=Spent(turns=4, input_tokens=300, output_tokens=100), described=Described(config=config))
    said = Message(parts=[Part(type="text", text="x" * 20), Part(type="tool_result", output=msgspec.Raw(b"12345"))])
    assert input_estimate(now, Message(prompt="p")) == 100 + 1 + 2 * 100
    assert input_estimate(now, said) == 100 + 25 + 2 * 100
    assert worst_of_turn(now, said, by_token) is None
    now.described = Described(config=msgspec.structs.replace(config, agents=()))
    assert worst_of_turn(now, said, by_token) == 325 + 7


def test_usd_is_exact() -> None:
    """Nine places, no float between."""
    assert f"{usd_of(1):f}" == "0.000000001"
    assert f"{usd_of(-12_345_678_901):f}" == "-12.345678901"


# --- holds -----------------------------------------------------------------------------------------------------------


def test_tranches() -> None:
    """An eighth of the worst case before it begins; the next when half of what is held is spent; up to the worst case;
    and beyond that one ahead of what is spent."""
    assert first_tranche(800, 10_000) == 100
    assert first_tranche(800, 30) == 30, "what is left, if that is less"
    assert first_tranche(800, 0) == first_tranche(800, -5) == first_tranche(0, 100) == 0
    assert [next_tranche(800, 100, spent) for spent in (0, 50, 51, 100, 101)] == [0, 0, 100, 100, 200]
    assert next_tranche(800, 800, 700) == 0, "the worst case is held"
    assert next_tranche(800, 800, 701) == 100, "it will cost more than that"
    assert next_tranche(800, 800, 1_500) == 800


def test_a_turn_stops_when_all_that_it_holds_is_spent() -> None:
    """Not before, and not one that costs nothing."""
    assert [must_stop(held, spent) for held, spent in ((100, 99), (100, 100), (0, 5), (0, 0))] == [
        False,
        True,
        True,
        False,
    ]


class Child:
    """A turn that runs in a tree: it holds from all of `budgets`, which are indexes of balances."""

    def __init__(self, worst: int, costs: list[int], budgets: list[int]) -> None:
        self.worst, self.costs, self.budgets = worst, costs, budgets
        self.held = self.spent = self.last = 0
        self.began = self.stopped = False

    def begin(self, balances: list[int]) -> None:
        self.held = first_tranche(self.worst, min(balances[i] for i in self.budgets))
        self.began = self.held > 0 or self.worst == 0
        self.stopped = not self.began
        self._take(balances, self.held)

    def step(self, balances: list[int]) -> None:
        self.last = self.costs.pop(0)
        self.spent += self.last
        more = min(next_tranche(self.worst, self.held, self.spent), *(balances[i] for i in self.budgets))
        self.held += max(0, more)
        self._take(balances, max(0, more))
        self.stopped = must_stop(self.held, self.spent)

    def end(self, balances: list[int]) -> None:
        self._take(balances, self.spent - self.held)

    def _take(self, balances: list[int], nanousd: int) -> None:
        for i in self.budgets:
            balances[i] -= nanousd


COSTS = st.lists(st.integers(0, 400), max_size=12)
CHILDREN = st.lists(st.tuples(st.integers(0, 2_000), COSTS, st.integers(1, 3)), min_size=1, max_size=8)


@settings(max_examples=400, deadline=None)
@given(CHILDREN, st.lists(st.integers(0, 3_000), min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_nobody_overspends_by_more_than_one_usage(
    asked: list[tuple[int, list[int], int]], budgets: list[int], random: Random
) -> None:
    """However the turns of a tree interleave: no hold is ever more than is left, each turn is over by less than its
    last usage, and in the end each budget is short of exactly what was spent from it."""
    children = [Child(worst, list(costs), [0, which]) for worst, costs, which in asked]
    balances = list(budgets)
    running = list(children)
    for child in children:
        child.begin(balances)
    while running := [child for child in running if child.costs and not child.stopped]:
        random.choice(running).step(balances)
        assert min(balances) >= 0, "holds are never more than a budget"
    for child in children:
        assert child.spent - child.held <= child.last
        assert child.spent == 0 or child.spent - child.last < max(child.held, 1)
        assert child.held <= max(2 * child.spent, 0) + tranche_of(child.worst)
        child.end(balances)
    for i, budget in enumerate(budgets):
        assert balances[i] == budget - sum(child.spent for child in children if i in child.budgets)
        over = sum(max(0, child.spent - child.held) for child in children if i in child.budgets)
        assert balances[i] >= -over


@settings(max_examples=300, deadline=None)
@given(CHILDREN, st.randoms(use_true_random=False))
def test_no_worst_case_starves_a_tree(asked: list[tuple[int, list[int], int]], random: Random) -> None:
    """Where a budget has twice what its turns really cost and an eighth of each worst case, all run side by side to
    their ends, be the worst cases ever so large."""
    children = [Child(worst * 100, list(costs), [0]) for worst, costs, _ in asked]
    balances = [sum(2 * sum(child.costs) + tranche_of(child.worst) for child in children)]
    for child in children:
        child.begin(balances)
        assert child.began
    running = children
    while running := [child for child in running if child.costs]:
        random.choice(running).step(balances)
        assert not any(child.stopped for child in children)


# --- what was spent --------------------------------------------------------------------------------------------------


def test_a_meter_adds_up_tokens_and_cost() -> None:
    """Of all and of each agent; what names no agent is of the one that was spoken to."""
    meter = Meter(by_token, agent="a")
    for event in (
        Usage(input_tokens=10, output_tokens=5, reasoning_tokens=2),
        ToolCall(id="1", name="t"),
        Usage(input_tokens=20, cache_read_tokens=20, agent="b"),
        ToolCall(id="2", name="t", agent="b"),
    ):
        meter.add(event)
    assert meter.usage == Spent(
        input_tokens=30, output_tokens=5, cache_read_tokens=20, reasoning_tokens=2, tool_calls=2, cost_nanousd=35
    )
    assert meter.by_agent == {
        "a": Spent(input_tokens=10, output_tokens=5, reasoning_tokens=2, tool_calls=1, cost_nanousd=15),
        "b": Spent(input_tokens=20, cache_read_tokens=20, tool_calls=1, cost_nanousd=20),
    }
    assert Meter(by_token).by_agent == {}


def test_a_cost_that_is_told_replaces_the_price_of_tokens() -> None:
    """Of the whole turn, what came before it too; agents and the whole still add up."""
    meter = Meter(by_token)
    meter.add(Usage(input_tokens=1_000, agent="a"))
    assert meter.spent_nanousd == 1_000
    meter.add(Cost(nanousd=7, agent="b"))
    meter.add(Usage(input_tokens=1_000, model="none", agent="a"))
    meter.add(Cost(nanousd=3))
    assert (meter.spent_nanousd, meter.cost_nanousd, meter.usage.input_tokens) == (10, 10, 2_000)
    assert meter.usage.unpriced_turns == 0
    assert {name: spent.cost_nanousd for name, spent in meter.by_agent.items()} == {"a": 0, "b": 7}


def test_usage_without_a_price_has_no_cost() -> None:
    """Which is not the same as nothing; no usage at all costs nothing; and some of it with a price costs that."""
    meter = Meter(by_token)
    assert (meter.cost_nanousd, meter.unpriced_model) == (0, None)
    meter.add(Usage(input_tokens=5, model="none"))
    assert (meter.cost_nanousd, meter.unpriced_model, meter.spent_nanousd) == (None, "none", 0)
    assert meter.usage.unpriced_turns == 1
    meter.add(Usage(input_tokens=5))
    assert (meter.cost_nanousd, meter.usage.unpriced_turns) == (5, 0)


@pytest.mark.parametrize(
    "event",
    [
        Usage(input_tokens=-5, output_tokens=-5),
        Usage(cache_read_tokens=10, cache_creation_tokens=10),
        Usage(input_tokens=10**30, output_tokens=10**30),
        Cost(nanousd=-1),
        Cost(nanousd=10**30),
    ],
)
def test_no_slip_of_a_runner_gives_money_back(event: Usage | Cost) -> None:
    """Below zero is nothing, cached input is input, and what no 64 bits hold is as much as they do."""
    meter = Meter(rate_of(PRICE, "", TABLE, WHEN))
    meter.add(event)
    meter.add(event)
    assert 0 <= meter.spent_nanousd <= COST_NANOUSD_MAX
    assert 0 <= meter.usage.total_tokens <= 2**62
    assert meter.usage.input_tokens >= meter.usage.cache_read_tokens + meter.usage.cache_creation_tokens
