"""Which agent runs of a trace are sessions, and what each used: nothing twice, nothing missed, in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.completion.spans import AGENT, HTTP, TOOL, Following, chat, followed, price, span, span_id, tokens

from adjourn.completion import otlp_trace
from adjourn.completion.otlp import Span, Value, node_of
from adjourn.completion.otlp_trace import Trace, Tree, merge


def test_children_are_counted_where_the_agent_says_nothing() -> None:
    """They came in an earlier request; the run is told of once, when it ends."""
    following = Following()
    assert following.take(span("c1", "root", chat(100, 10)), span("c2", "root", chat(200, 20))) == []
    (event,) = following.take(span("root"))
    assert tokens(event) == (300, 30)
    assert event.usage is not None
    assert event.usage.model == "gpt-4o"


def test_totals_of_the_agent_are_not_counted_beside_its_children() -> None:
    """pydantic-ai and others put the sum of all calls on the agent."""
    totals: dict[str, Value] = {
        **AGENT,
        "gen_ai.aggregated_usage.input_tokens": 300,
        "gen_ai.aggregated_usage.output_tokens": 30,
    }
    events = followed(
        [span("c1", "root", chat(100, 10)), span("c2", "root", chat(200, 20))], [span("root", "", totals)]
    )
    assert [tokens(event) for event in events] == [(300, 30)]


def test_totals_of_the_agent_stand_where_children_are_not_sent() -> None:
    """Some children were sampled out: the agent knows more."""
    totals: dict[str, Value] = {**AGENT, "gen_ai.usage.input_tokens": 300, "gen_ai.usage.output_tokens": 30}
    (event,) = followed([span("c1", "root", chat(100, 10)), span("root", "", totals)])
    assert tokens(event) == (300, 30)
    assert event.usage is not None
    assert event.usage.model == "gpt-4o"  # of the only model that was seen


def test_an_agent_that_was_called_and_not_counted_is_counted() -> None:
    """An agent's totals may leave out the agents that it called: all calls together are more, and stand."""
    totals: dict[str, Value] = {**AGENT, "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 10}
    (event,) = followed(
        [
            span("c1", "root", chat(100, 10)),
            span("c2", "inner", chat(50, 5)),
            span("inner", "tool"),
            span("tool", "root", TOOL),
            span("root", "", totals),
        ]
    )
    assert tokens(event) == (150, 15)
    assert event.usage is not None
    assert event.usage.tool_calls == 1


def test_a_call_that_two_layers_report_is_counted_once() -> None:
    """A framework's span around the model SDK's own."""
    (event,) = followed(
        [span("sdk", "framework", chat(100, 10)), span("framework", "root", chat(100, 10)), span("root")]
    )
    assert tokens(event) == (100, 10)


def test_what_is_between_is_seen_through() -> None:
    """Spans that are no GenAI spans link a call to its agent, whether they come with it or later."""
    for requests in (
        [[span("c", "http", chat(5, 1)), span("http", "graph", HTTP), span("graph", "root", HTTP), span("root")]],
        [[span("c", "http", chat(5, 1))], [span("http", "graph", HTTP)], [span("graph", "root", HTTP), span("root")]],
    ):
        (event,) = followed(*requests)
        assert tokens(event) == (5, 1)


def test_an_agent_inside_another_is_no_session() -> None:
    """It ends first, and waits until what is above it is known."""
    following = Following()
    assert following.take(span("inner", "tool"), span("c", "inner", chat(5, 1))) == []
    assert following.take(span("tool", "root", TOOL)) == []
    (event,) = following.take(span("root"))
    assert event.event_id == f"evt_otlp_0af7651916cd43dd8448eb211c80319c_{span_id('root')}"
    assert tokens(event) == (5, 1)


def test_an_agent_below_a_web_request_is_a_session() -> None:
    """Its run is outermost once the first span of the trace is there, or one whose parent is in another process."""
    for top in (span("server", "", HTTP), span("server", "browser", HTTP, remote=True)):
        following = Following()
        assert following.take(span("root", "server")) == []
        (event,) = following.take(top)
        assert event.session.session_id.endswith(f":{span_id('root')}")


def test_an_agent_that_another_process_called_is_a_session() -> None:
    """And its usage is not the caller's, though both traces meet here."""
    events = followed(
        [span("c1", "remote", chat(5, 1)), span("remote", "tool", remote=True)],
        [span("c2", "root", chat(7, 2)), span("tool", "root", TOOL), span("root")],
    )
    assert [tokens(event) for event in events] == [(5, 1), (7, 2)]


def test_two_agents_in_one_trace_are_two_sessions() -> None:
    """Each with its own calls."""
    events = followed(
        [
            span("c1", "one", chat(5, 1)),
            span("one", "server", end_s=5),
            span("c2", "two", chat(7, 2)),
            span("two", "server", start_s=6, end_s=9),
            span("server", "", HTTP),
        ]
    )
    assert [tokens(event) for event in events] == [(5, 1), (7, 2)]
    assert len({event.session.session_id for event in events}) == 2


def test_a_call_whose_parent_is_not_sent_belongs_to_the_run_around_it() -> None:
    """The shortest of the runs in whose time it began."""
    events = followed(
        [
            span("one", "server", start_s=0, end_s=5),
            span("two", "server", start_s=6, end_s=9),
            span("server", "", HTTP),
            span("c", "lost", chat(7, 2), start_s=7, end_s=8),
        ]
    )
    assert [tokens(event) for event in events] == [(None, None), (7, 2)]


def test_what_comes_late_amends() -> None:
    """The completion stands; each change of what was used is told anew, whole, under an id of its own."""
    following = Following()
    (first,) = following.take(span("c1", "root", chat(5, 1)), span("root"))
    (second,) = following.take(span("c2", "root", chat(7, 2)))
    (third,) = following.take(span("c3", "root", chat(1, 1)))
    assert [first.event_type, second.event_type, third.event_type] == ["session.completed", *["session.amended"] * 2]
    assert second.amends == third.amends == first.event_id
    assert len({first.event_id, second.event_id, third.event_id}) == 3
    assert [tokens(event) for event in (first, second, third)] == [(5, 1), (12, 3), (13, 4)]
    assert {event.session.session_id for event in following.events} == {first.session.session_id}


def test_what_is_sent_again_tells_nothing() -> None:
    """The same spans, in the same or another request."""
    spans = [span("c", "root", chat(5, 1)), span("root")]
    assert len(followed(spans, spans, [spans[1]], [spans[0], spans[0]])) == 1


def test_a_run_that_was_told_of_as_outermost_stays_one() -> None:
    """What was above it came after all: that is another session, and its totals are without what was told already."""
    following = Following()
    following.take(span("c", "inner", chat(100, 10)), span("inner", "root"))
    (inner,) = following.tell(following.runs())  # it has waited long enough
    totals: dict[str, Value] = {**AGENT, "gen_ai.usage.input_tokens": 130, "gen_ai.usage.output_tokens": 13}
    (outer,) = following.take(span("root", "", totals))
    assert (tokens(inner), tokens(outer)) == ((100, 10), (30, 3))


def test_traces_without_an_agent_are_not_kept() -> None:
    """A call of a model by itself is no session; one that may yet turn out to be part of one is kept."""
    for spans, kept in (
        ([span("c", "", chat(5, 1))], False),
        ([span("c", "server", chat(5, 1))], True),
        ([span("c", "server", chat(5, 1)), span("server", "", HTTP)], False),
        ([span("root")], True),
    ):
        following = Following()
        following.take(*spans)
        assert Tree(following.trace, price).worth_keeping == kept


@pytest.mark.parametrize("ring", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_spans_that_are_their_own_ancestors_end(ring: list[str]) -> None:
    """A hostile trace is read in finite time, and an agent in it is told of."""
    around = [span(name, ring[number - 1]) for number, name in enumerate(ring)]
    assert len(followed(around)) == 1
    links = [span(name, ring[number - 1], HTTP) for number, name in enumerate(ring)]
    assert len(followed([span("root", "a"), *links])) == 1


def test_a_deep_trace_is_read() -> None:
    """As deep as it may be long: no recursion."""
    chain = [span(str(number), str(number - 1), TOOL) for number in range(1, 5000)]
    (event,) = followed([span("c", "4999", chat(5, 1)), *chain, span("0")])
    assert tokens(event) == (5, 1)
    links = [span(str(number), str(number - 1), HTTP) for number in range(1, 5000)]
    (event,) = followed([*[span(f"c{number}", "4999", chat(1, 0)) for number in range(500)], *links, span("0")])
    assert tokens(event) == (500, 0)


def test_a_trace_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past so many spans the others are left out, and that is told."""
    monkeypatch.setattr(otlp_trace, "NODES_MAX", 3)
    trace = Trace({})
    nodes = [node for number in range(5) if (node := node_of(span(f"c{number}", "root", chat(1, 1)))) is not None]
    assert merge(trace, nodes, {}) == 2
    assert merge(trace, nodes[:3], {}) == 0
    assert len(trace.nodes) == 3


def test_models_are_told_apart_up_to_a_bound() -> None:
    """A run with a thousand model names has an event that can still be taken."""
    (event,) = followed([*[span(f"c{n}", "root", chat(1, 0, f"model-{n}")) for n in range(1000)], span("root")])
    assert tokens(event) == (1000, 0)


@st.composite
def _traces(draw: st.DrawFn) -> list[Span]:
    """Trees of GenAI spans below one agent, with usage here and there."""
    spans = [span("0")]
    for number in range(1, draw(st.integers(1, 14))):
        parent = draw(st.integers(0, number - 1))
        kind = draw(st.sampled_from(["agent", "tool", "chat"]))
        usage: dict[str, Value] = {}
        if kind != "tool" and draw(st.booleans()):
            usage = {"gen_ai.usage.input_tokens": draw(st.integers(0, 9)), "gen_ai.usage.output_tokens": 1}
        named = {"agent": "invoke_agent", "tool": "execute_tool", "chat": "chat"}[kind]
        spans.append(span(str(number), str(parent), {"gen_ai.operation.name": named, **usage}))
    return spans


@given(spans=_traces(), seed=st.integers(), cuts=st.integers(1, 5))
def test_order_and_requests_do_not_matter(spans: Sequence[Span], seed: int, cuts: int) -> None:
    """However a trace is cut into requests and shuffled, the last that is told of its run is what it used."""
    (whole,) = followed(spans)
    shuffled = list(spans)
    random.Random(seed).shuffle(shuffled)
    events = followed(*[shuffled[start::cuts] for start in range(cuts)])
    assert [event.event_type for event in events].count("session.completed") == 1
    assert events[0].event_type == "session.completed"
    assert {event.session.session_id for event in events} == {whole.session.session_id}
    assert events[-1].usage == whole.usage
