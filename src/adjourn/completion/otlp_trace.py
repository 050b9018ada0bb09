"""A trace as its spans come in, in any order and more than once: which agent runs are sessions, and what they used.

Spans are exported when they end, so children come before what they are part of, often in an earlier request. Pure: a
`Trace` is what is kept between requests, `Tree` what it means.

- An agent span with no agent above it is a **run**, and each run is a session. It has ended once its span is there, and
  it is known to be outermost once the first span of the trace is reached, or a parent in another process. A parent that
  is not here may still be running, and be an agent: such a run waits.
- A parent that is no GenAI span is not kept: whoever names it is given the parent that it names itself.
- A span's usage is its own, or the sum of what is below it: whichever is more. Frameworks put totals on the agent, or
  nothing, or leave out the agents that it called; instrumentations of two layers report one call twice, one inside the
  other. Neither is counted double, and neither is missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import msgspec

from adjourn.completion.otlp import Node, Usage

NODES_MAX = 10_000
"""GenAI spans of one trace. Past it they are refused, and their sender is told."""
MODELS_MAX = 32
"""Told apart in one run; the others are counted as one."""
OTHER_MODELS = "(other)"

Price = Callable[[str, int, Usage], int | None]
"""(model, end of the call in ns, usage) → nano-USD, if the model's price is known."""
Links = Mapping[str, tuple[str, bool]]
"""Of spans that are not kept: id → (parent, whether that is in another process)."""


class Trace(msgspec.Struct, array_like=True):
    nodes: dict[str, Node]


class Total(msgspec.Struct):
    """Of one model."""

    calls: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_creation: int = 0
    reasoning: int = 0
    cost_nanousd: int = 0
    unpriced: int = 0
    """Calls whose cost neither span nor price table knows."""
    sent: int = 0
    """Calls whose cost the span says."""

    @property
    def usage(self) -> Usage:
        return Usage(self.input, self.output, self.cache_read, self.cache_creation, self.reasoning)

    def add(self, other: Total) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Sums(msgspec.Struct):
    """What a span and all below it used."""

    models: dict[str, Total] = msgspec.field(default_factory=lambda: dict[str, Total]())
    tools: int = 0
    unreadable: int = 0
    """Spans whose usage could not be read."""
    elsewhere: Usage = msgspec.field(default_factory=Usage)
    """What runs below it used that are sessions of their own."""

    @property
    def tokens(self) -> int:
        return sum(total.input + total.output for total in self.models.values())

    def add(self, other: Sums) -> None:
        for model, total in other.models.items():
            known = model in self.models or len(self.models) < MODELS_MAX - 1
            self.models.setdefault(model if known else OTHER_MODELS, Total()).add(total)
        self.tools += other.tools
        self.unreadable += other.unreadable
        self.elsewhere = _plus(self.elsewhere, other.elsewhere)

    def fingerprint(self) -> bytes:
        """Of what was used. Not of what it costs: prices may change between two looks at the same run."""
        counts = sorted((model, msgspec.structs.astuple(total.usage)) for model, total in self.models.items())
        sent = sum(total.cost_nanousd for total in self.models.values() if total.sent)
        return hashlib.blake2b(msgspec.msgpack.encode((counts, sent, self.tools)), digest_size=8).digest()


class Run(msgspec.Struct):
    """An agent's run that is a session."""

    node: Node
    known: bool
    """To be outermost; else it waits for what is above it."""
    sums: Sums

    @property
    def news(self) -> bool:
        """It has something to tell: that it ended, or that it used something else than was told."""
        node = self.node
        if node.refused:
            return False
        return self.known if not node.done else node.told != self.sums.fingerprint()


def merge(trace: Trace, nodes: Iterable[Node], links: Links) -> int:
    """Add spans to a trace, those it has left out. How many found no room."""
    left_out = 0
    for node in nodes:
        if node.span_id in trace.nodes:
            continue
        if len(trace.nodes) >= NODES_MAX:
            left_out += 1
            continue
        # A run is changed as it is told of, and the same spans may be merged into another reading of the trace.
        trace.nodes[node.span_id] = msgspec.structs.replace(node)
    if links:
        above: dict[str, tuple[str, bool]] = {}
        for node in trace.nodes.values():
            if node.parent in links and node.parent not in trace.nodes:
                node.parent, node.remote = _past(links, trace.nodes, node.parent, above)
    return left_out


def _past(links: Links, nodes: Mapping[str, Node], first: str, above: dict[str, tuple[str, bool]]) -> tuple[str, bool]:
    """The next span above that is not among the links. One that is its own ancestor has none."""
    seen: list[str] = []
    parent, remote = first, False
    met = {first}
    while parent in links and parent not in nodes:
        if parent in above:
            parent, remote = above[parent]
            break
        seen.append(parent)
        parent, remote = links[parent]
        if parent in met:
            parent, remote = "", False
            break
        met.add(parent)
    above.update(dict.fromkeys(seen, (parent, remote)))
    return parent, remote


class _Part(msgspec.Struct):
    """A span of which nobody here is the parent, and all below it."""

    top: Node
    order: list[Node]
    """Whatever is above comes before what is below."""
    known: bool
    """That nothing is above it."""
    runs: int


class Tree:
    """What a trace means as far as it is here."""

    def __init__(self, trace: Trace, price: Price | None = None) -> None:
        """Without `price` nothing costs anything, which does not matter to what is news."""
        self._nodes = trace.nodes
        self._price = price
        self._below: dict[str, list[Node]] = {}
        tops: list[Node] = []
        for node in self._nodes.values():
            if node.parent in self._nodes and node.parent != node.span_id:
                self._below.setdefault(node.parent, []).append(node)
            else:
                tops.append(node)
        self._runs: dict[str, bool] = {}
        """Outermost agents, and whether that is known."""
        self._parts = self._parted(tops)
        self._sums = {node.span_id: Sums() for node in self._nodes.values()}
        self.runs = self._summed()
        """In the order in which they ended."""

    @property
    def worth_keeping(self) -> bool:
        """It has a run, or may get one."""
        return any(part.runs or not part.known or part.top.remote for part in self._parts)

    def _parted(self, tops: Iterable[Node]) -> list[_Part]:
        seen: set[str] = set()
        parts = [self._part(top, seen, top.parent in ("", top.span_id) or top.remote) for top in tops]
        for node in self._nodes.values():  # what is left goes round in circles: it is cut anywhere
            if node.span_id not in seen:
                parts.append(self._part(node, seen, known=True))
        return parts

    def _part(self, top: Node, seen: set[str], known: bool) -> _Part:
        part = _Part(top, [], known, 0)
        stack = [(top, False)]
        while stack:
            node, inside = stack.pop()
            if node.span_id in seen:
                continue
            seen.add(node.span_id)
            part.order.append(node)
            if node.kind == "agent":
                if not inside or node.done or node.refused:
                    self._runs[node.span_id] = known
                    part.runs += 1
                inside = True
            stack.extend((child, inside) for child in self._below.get(node.span_id, ()))
        return part

    def _summed(self) -> list[Run]:
        runs = sorted((self._nodes[span_id] for span_id in self._runs), key=lambda node: (node.end_ns, node.span_id))
        for part in self._parts:
            if not part.runs:
                self._sum(part)
                self._lend(part, runs)
        for part in self._parts:
            if part.runs:
                self._sum(part)
        return [Run(node, self._runs[node.span_id], self._sums[node.span_id]) for node in runs]

    def _lend(self, part: _Part, runs: Iterable[Node]) -> None:
        """Nobody here is known to be above it: it belongs to the run in whose time it began, if there is one."""
        top = part.top
        if part.known and not top.remote:
            return
        around = [run for run in runs if run.start_ns <= top.start_ns <= run.end_ns]
        if around:
            shortest = min(around, key=lambda run: run.end_ns - run.start_ns)
            self._sums[shortest.span_id].add(self._sums[top.span_id])

    def _sum(self, part: _Part) -> None:
        for node in reversed(part.order):
            mine = self._sums[node.span_id]
            self._count(node, mine)
            if node is part.top:
                return
            above = self._sums[node.parent]
            if node.span_id in self._runs:
                above.elsewhere = _plus(above.elsewhere, _plus(mine.elsewhere, _usage(mine)))
            else:
                above.add(mine)

    def _count(self, node: Node, mine: Sums) -> None:
        """Its own usage, if that is more than what is below it."""
        mine.tools += node.kind == "tool"
        mine.unreadable += bool(node.unreadable)
        if node.usage is None:
            return
        usage = _minus(node.usage, mine.elsewhere)
        if usage.tokens > mine.tokens or not mine.models:
            named = node.model or (next(iter(mine.models)) if len(mine.models) == 1 else "")
            mine.models = {named: self._total(named, node.end_ns, usage)}
        elif node.model and mine.models.keys() == {""}:
            mine.models = {node.model: mine.models[""]}

    def _total(self, model: str, end_ns: int, usage: Usage) -> Total:
        cost, sent = usage.cost_nanousd, usage.cost_nanousd is not None
        if cost is None and model and self._price is not None:
            cost = self._price(model, end_ns, usage)
        return Total(
            1,
            usage.input,
            usage.output,
            usage.cache_read,
            usage.cache_creation,
            usage.reasoning,
            cost or 0,
            int(cost is None and usage.tokens > 0),
            int(sent),
        )


def _usage(sums: Sums) -> Usage:
    whole = Total()
    for total in sums.models.values():
        whole.add(total)
    return whole.usage


def _plus(a: Usage, b: Usage) -> Usage:
    return Usage(
        a.input + b.input,
        a.output + b.output,
        a.cache_read + b.cache_read,
        a.cache_creation + b.cache_creation,
        a.reasoning + b.reasoning,
    )


def _minus(a: Usage, b: Usage) -> Usage:
    if not b.tokens:
        return a
    return Usage(
        max(0, a.input - b.input),
        max(0, a.output - b.output),
        max(0, a.cache_read - b.cache_read),
        max(0, a.cache_creation - b.cache_creation),
        max(0, a.reasoning - b.reasoning),
    )
