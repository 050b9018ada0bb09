"""Spans for tests, and a trace that takes them in as the service does, without a database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from adjourn.completion.otlp import Span, Usage, Value, node_of
from adjourn.completion.otlp_event import event_of
from adjourn.completion.otlp_trace import Run, Trace, Tree, merge
from adjourn.events import Completion, decode_completion

TRACE = "0af7651916cd43dd8448eb211c80319c"
START_NS = 1_760_000_000_000_000_000
SECOND_NS = 1_000_000_000

AGENT: Mapping[str, Value] = {"gen_ai.operation.name": "invoke_agent"}
TOOL: Mapping[str, Value] = {"gen_ai.operation.name": "execute_tool"}
HTTP: Mapping[str, Value] = {"http.request.method": "POST"}


def chat(input_tokens: int = 0, output_tokens: int = 0, model: str = "gpt-4o") -> Mapping[str, Value]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output_tokens,
    }


def span_id(name: str) -> str:
    """`root` → 16 hex digits that are its own."""
    return name.encode().hex().rjust(16, "f")[:16]


def span(
    name: str,
    parent: str = "",
    attributes: Mapping[str, Value] | None = None,
    *,
    start_s: float = 0,
    end_s: float = 10,
    trace_id: str = TRACE,
    remote: bool = False,
    error: bool = False,
    resource: Mapping[str, Value] | None = None,
) -> Span:
    """`name` and `parent` are names; times are seconds after START_NS."""
    return Span(
        trace_id=trace_id,
        span_id=span_id(name),
        parent_id=span_id(parent) if parent else "",
        remote_parent=remote,
        start_ns=START_NS + round(start_s * SECOND_NS),
        end_ns=START_NS + round(end_s * SECOND_NS),
        error=error,
        attributes=AGENT if attributes is None else attributes,
        resource=resource or {},
        scope="test/1",
    )


def price(model: str, end_ns: int, usage: Usage) -> int | None:
    """1 nano-USD a token of a model that is known."""
    return None if model.startswith("unknown") else usage.tokens


class Following:
    """A trace, and every event that it led to."""

    def __init__(self) -> None:
        self.trace = Trace({})
        self.events: list[Completion] = []

    def take(self, *spans: Span) -> Sequence[Completion]:
        """The events of one request."""
        nodes, links = [], {}
        for it in spans:
            node = node_of(it)
            if node is None:
                links[it.span_id] = it.parent_id, it.remote_parent
            else:
                nodes.append(node)
        merge(self.trace, nodes, links)
        # As it is between requests.
        self.trace = msgspec.msgpack.decode(msgspec.msgpack.encode(self.trace), type=Trace)
        return self.tell(run for run in self.runs() if run.news)

    def runs(self) -> list[Run]:
        return Tree(self.trace, price).runs

    def tell(self, runs: Iterable[Run]) -> Sequence[Completion]:
        told: list[Completion] = []
        for run in runs:
            told.append(decode_completion(event_of(TRACE, run, price)))
            run.node.done += 1
            run.node.told = run.sums.fingerprint()
        self.events += told
        return told


def followed(*requests: Sequence[Span]) -> list[Completion]:
    """The events of requests one after the other."""
    following = Following()
    for spans in requests:
        following.take(*spans)
    return following.events


def tokens(event: Completion) -> tuple[int | None, int | None]:
    usage = event.usage
    return (None, None) if usage is None else (usage.input_tokens, usage.output_tokens)
