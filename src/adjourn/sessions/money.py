"""The money of a turn: what it may cost, what it holds of the budgets over it while it runs, what it has cost. Pure, in
integer nano-USD.

A turn takes what it holds from its session's budget and from every ancestor's, in tranches of an eighth of its worst
case: one before it begins, and further ones as it spends. Each usage that is heard of goes through three steps:

1. the usage counts as spent;
2. `next_tranche` says whether more is to be held, and as much of that as the budgets still have is taken from them;
3. `must_stop` says whether the turn has to stop, because all that it holds is spent.

What follows from that:

- All holds together never exceed a budget, since a hold is taken out of it. Whoever goes on has spent less than it
  holds; so a turn is over by no more than the one usage that took it there, which is known only once it is spent.
- A turn holds at most twice what it has spent, and a tranche. Turns side by side need what they really cost, twice, and
  an eighth of their worst cases: not the sum of the worst cases, of which one may be the whole budget.
- A turn that ends gives back what it holds and is charged what it spent (`tx.debit(…, forced=True)` of the difference).
  One that dies with its node is charged all that it held, as an estimate: what it has spent is less than that, or more
  by one usage that nobody has heard of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal

import msgspec

from adjourn.prices import COST_NANOUSD_MAX, PriceTable, nanousd_of
from adjourn.runner import Cost, ToolCall, TurnEvent, Usage
from adjourn.sessions.session import Price, Session, Spent
from adjourn.sessions.turn import Message

TRANCHES = 8
TOKENS_MAX = 2**52
"""Of one usage, of a turn and of a session: input and output together are no more than an event can say."""

_EXACT = Context(prec=64, rounding=ROUND_HALF_EVEN)
_MTOK = Decimal(1_000_000)

Rate = Callable[[Usage], int | None]
"""What a usage costs, in nano-USD; None: its model has no price."""


def account_of(tenant: str, session_id: str) -> str:
    """The account that holds what is left of a session's budget."""
    return f"budget/{tenant}/{session_id}"


def most_of(name: str) -> int:
    """What a field of Spent may grow to."""
    return COST_NANOUSD_MAX if name == "cost_nanousd" else TOKENS_MAX


def usd_of(nanousd: int) -> Decimal:
    """Exact decimal USD."""
    return Decimal(nanousd).scaleb(-9)


# --- prices ----------------------------------------------------------------------------------------------------------


def rate_of(price: Price | None, model: str, table: PriceTable, when: datetime) -> Rate:
    """The price of what a session uses: the one that it declares, for whatever model; else that of the model which the
    usage names, or of `model`, in the table."""
    if price is not None:
        return lambda usage: declared_cost(price, usage)

    def cost(usage: Usage) -> int | None:
        counts = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_creation_tokens)
        named = usage.model or model
        return table.cost(named, when, *counts)[0] if named else None

    return cost


def declared_cost(price: Price, usage: Usage) -> int | None:
    """Rounded once, half to even. None above COST_NANOUSD_MAX, as in the price table."""
    read, creation = price.cache_read_usd_per_mtok, price.cache_creation_usd_per_mtok
    parts = (
        (price.input_usd_per_mtok, usage.input_tokens - usage.cache_read_tokens - usage.cache_creation_tokens),
        (price.output_usd_per_mtok, usage.output_tokens),
        (price.input_usd_per_mtok if read is None else read, usage.cache_read_tokens),
        (price.input_usd_per_mtok if creation is None else creation, usage.cache_creation_tokens),
    )
    total = Decimal(0)
    for usd, tokens in parts:
        total = _EXACT.add(total, _EXACT.multiply(usd, Decimal(tokens)))
    usd = _EXACT.divide(total, _MTOK)
    return nanousd_of(usd) if usd <= usd_of(COST_NANOUSD_MAX) else None


def worst_case(rate: Rate, input_tokens: int, output_tokens_max: int, models: Iterable[str] = ("",)) -> int | None:
    """What a step costs that writes as much as it may, by the dearest of the models, all its input being put into the
    cache where that is dearer. None if one of them has no price."""
    worst = 0
    for model in models:
        for creation in (0, input_tokens):
            cost = rate(
                Usage(
                    input_tokens=input_tokens,
                    output_tokens=output_tokens_max,
                    cache_creation_tokens=creation,
                    model=model,
                )
            )
            if cost is None:
                return None
            worst = max(worst, cost)
    return worst


def worst_of_turn(session: Session, message: Message, rate: Rate) -> int | None:
    """`worst_case` of a turn on a message; None if a model that its agents may use has no price."""
    config = session.described.config
    models = {session.model or config.model, *(agent.model for agent in config.agents if agent.model)}
    return worst_case(rate, input_estimate(session, message), config.max_output_tokens, sorted(models))


def input_estimate(session: Session, message: Message) -> int:
    """How many tokens a turn may read: at most one for each byte of what is new, and the conversation before it. In one
    that grows evenly, the last turn reads twice what turns read on average."""
    config, spent = session.described.config, session.spent
    texts = [config.system_prompt, *(agent.system_prompt for agent in config.agents), message.prompt or ""]
    size = sum(len(text.encode()) for text in texts)
    for part in message.parts or ():
        size += len(part.text.encode()) + len(bytes(part.arguments)) + len(bytes(part.output))
    return size + 2 * spent.total_tokens // max(spent.turns, 1)


# --- holds -----------------------------------------------------------------------------------------------------------


def tranche_of(worst: int) -> int:
    return max(1, -(-worst // TRANCHES))


def first_tranche(worst: int, left: int) -> int:
    """What a turn takes before it begins, of budgets the least of which has `left`; 0 where it cannot begin, or costs
    nothing."""
    return max(0, min(worst, tranche_of(worst), left))


def next_tranche(worst: int, held: int, spent: int) -> int:
    """How much more a turn is to hold: nothing until half of what it holds is spent; then whole tranches, but no more
    than the worst case, unless it costs more than that: then always one ahead of what is spent."""
    tranche = tranche_of(worst)
    enough = min(2 * spent, max(worst, spent + tranche))
    return -(-max(0, enough - held) // tranche) * tranche


def must_stop(held: int, spent: int) -> bool:
    """Whether a turn, having taken what it could get, has nothing left to go on with."""
    return 0 < spent >= held


# --- what was spent --------------------------------------------------------------------------------------------------


class Meter:
    """Adds up the usage and the cost of one turn, of all and of each agent, as its events come."""

    def __init__(self, rate: Rate, agent: str = "") -> None:
        """`agent`: whose the events are that name none."""
        self.unpriced_model: str | None = None
        """One that was used and has no price (empty if it was not named)."""
        self._rate = rate
        self._agent = agent
        self._all = Spent()
        self._agents: dict[str, Spent] = {}
        self._priced = False
        self._told: dict[str, int] | None = None

    def add(self, event: TurnEvent) -> None:
        if isinstance(event, Usage):
            self._use(event)
        elif isinstance(event, Cost):
            name = event.agent or self._agent
            if self._told is None:
                self._told = {}
            self._told[name] = self._told.get(name, 0) + _within(event.nanousd, COST_NANOUSD_MAX)
            self._agents.setdefault(name, Spent())
        elif isinstance(event, ToolCall):
            for spent in self._of(event.agent):
                spent.tool_calls += 1

    @property
    def told(self) -> bool:
        """Whether the runner tells what it costs."""
        return self._told is not None

    @property
    def spent_nanousd(self) -> int:
        """So far, by what is known. A turn whose runner tells its cost is not priced by its tokens."""
        spent = self._all.cost_nanousd if self._told is None else sum(self._told.values())
        return min(spent, COST_NANOUSD_MAX)

    @property
    def cost_nanousd(self) -> int | None:
        """The same; None where there was usage, and nothing of it has a price."""
        return (
            None if self._told is None and self.unpriced_model is not None and not self._priced else self.spent_nanousd
        )

    @property
    def usage(self) -> Spent:
        """Of all together, with the cost."""
        return msgspec.structs.replace(
            self._all, cost_nanousd=self.spent_nanousd, unpriced_turns=int(self.cost_nanousd is None)
        )

    @property
    def by_agent(self) -> Mapping[str, Spent]:
        """Of those that have a name."""
        named = {name: spent for name, spent in self._agents.items() if name}
        if self._told is None:
            return named
        told = self._told
        return {
            name: msgspec.structs.replace(spent, cost_nanousd=told.get(name, 0), unpriced_turns=0)
            for name, spent in named.items()
        }

    def _of(self, agent: str) -> tuple[Spent, Spent]:
        return self._all, self._agents.setdefault(agent or self._agent, Spent())

    def _use(self, event: Usage) -> None:
        usage = _counted(event)
        cost = self._rate(usage)
        if cost is None:
            self.unpriced_model = usage.model
        else:
            self._priced = True
        for spent in self._of(usage.agent):
            for name in _TOKENS:
                setattr(spent, name, _within(getattr(spent, name) + getattr(usage, name), TOKENS_MAX))
            spent.cost_nanousd += cost or 0
            spent.unpriced_turns = max(spent.unpriced_turns, int(cost is None))


_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "reasoning_tokens")


def added(one: Spent, other: Spent) -> Spent:
    """No more than a completion can say, whatever runners tell: it would be refused, and the session could not end."""
    names = Spent.__struct_fields__
    return Spent(**{name: min(getattr(one, name) + getattr(other, name), most_of(name)) for name in names})


def _counted(usage: Usage) -> Usage:
    """A runner is anybody's program: what it says is below zero is nothing, and cached input is input, so that no slip
    of it can give money back, or leave what it used without a price."""
    read = _within(usage.cache_read_tokens, TOKENS_MAX)
    creation = _within(usage.cache_creation_tokens, TOKENS_MAX)
    return msgspec.structs.replace(
        usage,
        input_tokens=max(_within(usage.input_tokens, TOKENS_MAX), read + creation),
        output_tokens=_within(usage.output_tokens, TOKENS_MAX),
        cache_read_tokens=read,
        cache_creation_tokens=creation,
        reasoning_tokens=_within(usage.reasoning_tokens, TOKENS_MAX),
    )


def _within(number: int, most: int) -> int:
    return max(0, min(number, most))
