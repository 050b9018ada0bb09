"""What a completion says of an agent's run."""

from __future__ import annotations

import json

import msgspec
from tests.completion.spans import AGENT, TRACE, chat, followed, span, span_id

from adjourn.completion.otlp import COUNT_MAX
from adjourn.completion.otlp_trace import NODES_MAX
from adjourn.completion.validate import Context, prepare
from adjourn.events import Completion
from adjourn.prices import PriceTable


def _tag(event: Completion) -> dict[str, object]:
    assert event.metadata is not None
    assert event.metadata.custom_tags is not None
    return json.loads(bytes(event.metadata.custom_tags["otlp"]))


def test_a_run_is_told_of_whole() -> None:
    """Ids, times, user, usage, outcome, and where it came from."""
    attributes = {**AGENT, "user.id": "u1", "gen_ai.agent.name": "researcher", "gen_ai.provider.name": "openai"}
    (event,) = followed(
        [
            span("c", "root", {**chat(100, 10), "gen_ai.usage.cache_read.input_tokens": 40}),
            span("root", "", attributes, end_s=2.5, resource={"service.name": "bot", "deployment.environment": "prod"}),
        ]
    )
    assert json.loads(msgspec.json.encode(event)) == {
        "event_id": f"evt_otlp_{TRACE}_{span_id('root')}",
        "timestamp": "2025-10-09T08:53:22.500000Z",
        "session": {
            "session_id": TRACE,
            "session_type": "autonomous",
            "start_time": "2025-10-09T08:53:20Z",
            "end_time": "2025-10-09T08:53:22.500000Z",
            "duration_ms": 2500,
        },
        "user": {"user_id": "u1"},
        "usage": {
            "input_tokens": 100,
            "output_tokens": 10,
            "total_tokens": 110,
            "model": "gpt-4o",
            "cache_read_input_tokens": 40,
        },
        "outcome": {"status": "success"},
        "metadata": {
            "client_version": "test/1",
            "source": "otlp",
            "custom_tags": {
                "service.name": "bot",
                "deployment.environment": "prod",
                "otlp": {
                    "trace_id": TRACE,
                    "span_id": span_id("root"),
                    "agent": "researcher",
                    "provider": "openai",
                    "calls": 1,
                    "mapping": 1,
                },
            },
        },
    }


def test_turns_of_one_conversation_are_sessions_of_their_own() -> None:
    """Their ids begin with what the spans name, and are told apart even where sessions are deduplicated by their id."""
    turns = [span(name, "", {**AGENT, "gen_ai.conversation.id": "conv"}) for name in ("one", "two")]
    first, second = (followed([turn])[0] for turn in turns)
    assert first.session.session_id == f"conv:{span_id('one')}"
    assert second.session.session_id == f"conv:{span_id('two')}"
    assert first.session.session_type == "chat"
    assert _tag(first)["conversation_id"] == _tag(second)["conversation_id"] == "conv"


def test_a_long_name_of_a_conversation_still_makes_an_id() -> None:
    """It is cut; the span's id at its end is not."""
    (event,) = followed([span("root", "", {**AGENT, "session.id": "x" * 5000})])
    assert len(event.session.session_id) <= 256
    assert event.session.session_id.endswith(f":{span_id('root')}")


def test_a_run_that_failed_says_how() -> None:
    """By `error.type`, or by its status alone."""
    for it, code in (
        (span("root", "", {**AGENT, "error.type": "RateLimitError"}), "RateLimitError"),
        (span("root", error=True), "_OTHER"),
    ):
        (event,) = followed([it])
        assert event.outcome is not None
        assert (event.outcome.status, event.outcome.error_code) == ("error", code)


def test_calls_of_several_models_cost_the_sum() -> None:
    """Each at its own price; the model that is named is the one that most tokens went through."""
    calls = [span("c1", "root", chat(100, 10, "small")), span("c2", "root", chat(1000, 100, "large"))]
    (event,) = followed([*calls, span("root")])
    assert event.usage is not None
    assert (event.usage.model, str(event.usage.estimated_cost_usd)) == ("large", "0.000001210")
    assert _tag(event)["models"] == {
        "small": {"calls": 1, "input_tokens": 100, "output_tokens": 10, "cost_usd": 1.1e-07},
        "large": {"calls": 1, "input_tokens": 1000, "output_tokens": 100, "cost_usd": 1.1e-06},
    }


def test_a_sum_with_an_unknown_price_has_none() -> None:
    """Nor is a model named, at whose price it might be taken for."""
    calls = [span("c1", "root", chat(100, 10, "small")), span("c2", "root", chat(1, 1, "unknown"))]
    (event,) = followed([*calls, span("root")])
    assert event.usage is not None
    assert (event.usage.model, event.usage.estimated_cost_usd) == (None, None)


def test_what_spans_say_that_they_cost_is_believed() -> None:
    """It is the sender's own figure, as `estimated_cost_usd` is."""
    calls = [span(name, "root", {**chat(100, 10), "operation.cost": 0.25}) for name in ("c1", "c2")]
    (event,) = followed([*calls, span("root")])
    assert event.usage is not None
    assert str(event.usage.estimated_cost_usd) in ("0.5", "0.500000000")


def test_usage_that_cannot_be_read_is_counted() -> None:
    """The completion says of how many spans."""
    broken = {**chat(), "gen_ai.usage.input_tokens": -5}
    (event,) = followed([span("c1", "root", broken), span("c2", "root", chat(5, 1)), span("root")])
    assert _tag(event)["spans_unreadable"] == 1
    assert event.usage is not None
    assert event.usage.input_tokens == 5


def test_every_completion_is_one_that_is_taken() -> None:
    """Absent times, counts at their limits, names of all kinds: the schema holds."""
    huge = {**chat(), "gen_ai.usage.input_tokens": COUNT_MAX, "gen_ai.usage.reasoning_tokens": COUNT_MAX}
    spans = [
        [span("root")],
        [span("root"), *[span(f"c{number}", "root", huge) for number in range(NODES_MAX - 1)]],
        [span("root", "", {**AGENT, "gen_ai.agent.name": "Zoë \N{ROBOT FACE}"})],
        [span("root", "", {**AGENT, "gen_ai.usage.output_tokens": 3})],
    ]
    context = Context(tenant="t", now_ms=1_800_000_000_000, secret=b"s" * 32, prices=PriceTable())
    for request in spans:
        prepared = prepare([msgspec.json.encode(event) for event in followed(request)], context)
        assert prepared.problems == []
        assert len(prepared.records) == 1
