"""Which spans are GenAI spans, and what they say, in the words of the instrumentations that are about."""

from __future__ import annotations

import math

import pytest
from tests.completion.spans import AGENT, span

from adjourn.completion.otlp import (
    COUNT_MAX,
    Kind,
    Usage,
    Value,
    count_of,
    kind_of,
    nanousd_of_amount,
    node_of,
    usage_of,
)


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"gen_ai.operation.name": "invoke_agent"}, "agent"),
        ({"gen_ai.operation.name": "invoke_workflow"}, "agent"),
        ({"gen_ai.operation.name": "create_agent"}, "other"),
        ({"gen_ai.operation.name": "chat"}, "model"),
        ({"gen_ai.operation.name": "generate_content"}, "model"),
        ({"gen_ai.operation.name": "embeddings"}, "model"),
        ({"gen_ai.operation.name": "execute_tool"}, "tool"),
        ({"gen_ai.operation.name": "something_new"}, "other"),
        ({"openinference.span.kind": "AGENT"}, "agent"),
        ({"openinference.span.kind": "chain"}, "agent"),
        ({"openinference.span.kind": "LLM"}, "model"),
        ({"openinference.span.kind": "RETRIEVER"}, "other"),
        ({"traceloop.span.kind": "workflow"}, "agent"),
        ({"traceloop.span.kind": "tool"}, "tool"),
        ({"traceloop.span.kind": "task"}, "other"),
        ({"llm.request.type": "chat", "gen_ai.system": "OpenAI"}, "model"),
        ({"agent_name": "roulette", "model_name": "gpt-4o"}, "agent"),
        ({"gen_ai.usage.input_tokens": 3}, "model"),
        ({"gen_ai.operation.name": "invoke_agent", "logfire.span_type": "pending_span"}, None),
        ({"http.request.method": "GET"}, None),
        ({"gen_ai.operation.name": 3}, None),
        ({}, None),
    ],
)
def test_each_instrumentation_is_understood(attributes: dict[str, Value], kind: Kind | None) -> None:
    """The conventions' operations, OpenInference's and Traceloop's kinds, and spans older than all of these."""
    assert kind_of(attributes) == kind


@pytest.mark.parametrize(
    ("attributes", "usage"),
    [
        (
            {
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.output_tokens": 20,
                "gen_ai.usage.cache_read.input_tokens": 60,
                "gen_ai.usage.cache_creation.input_tokens": 10,
                "gen_ai.usage.reasoning.output_tokens": 5,
            },
            Usage(100, 20, 60, 10, 5),
        ),
        ({"gen_ai.aggregated_usage.input_tokens": 7, "gen_ai.aggregated_usage.output_tokens": 2}, Usage(7, 2)),
        ({"gen_ai.usage.prompt_tokens": 7, "gen_ai.usage.completion_tokens": 2}, Usage(7, 2)),
        ({"llm.usage.prompt_tokens": 7, "llm.usage.completion_tokens": 2}, Usage(7, 2)),
        (
            {
                "llm.token_count.prompt": 7,
                "llm.token_count.completion": 2,
                "llm.token_count.prompt_details.cache_read": 3,
                "llm.cost.total": 0.0049,
            },
            Usage(7, 2, 3, cost_nanousd=4_900_000),
        ),
        ({"gen_ai.usage.input_tokens": 7, "gen_ai.usage.prompt_tokens": 9}, Usage(7)),
        ({"gen_ai.usage.input_tokens": "7", "gen_ai.usage.output_tokens": 2.0}, Usage(7, 2)),
        ({"operation.cost": 0.5}, Usage(cost_nanousd=500_000_000)),
        ({"gen_ai.request.model": "gpt-4o"}, None),
    ],
)
def test_usage_is_read_under_all_its_names(attributes: dict[str, Value], usage: Usage | None) -> None:
    """The first name that a span has is taken, and no count is taken twice."""
    assert usage_of(attributes) == (usage, "")


def test_what_is_counted_beside_a_total_is_added_to_it() -> None:
    """More cached tokens than input, or reasoning ones than output, were not in it."""
    attributes: dict[str, Value] = {
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.cache_read_input_tokens": 90,
        "gen_ai.usage.output_tokens": 1,
        "gen_ai.usage.reasoning_tokens": 4,
    }
    assert usage_of(attributes) == (Usage(100, 5, 90, 0, 4), "")


@pytest.mark.parametrize(
    "value", [-1, 1.5, math.nan, math.inf, "seven", "-7", "9" * 5000, True, COUNT_MAX + 1, "", 10**400]
)
def test_what_is_no_count_is_named(value: Value) -> None:
    """Negative, broken, huge and non-numbers are no usage, and the attribute that has them is told."""
    assert count_of(value) is None
    name = "gen_ai.usage.output_tokens"
    assert usage_of({"gen_ai.usage.input_tokens": 5, name: value}) == (None, name)
    node = node_of(span("call", "root", {"gen_ai.operation.name": "chat", name: value}))
    assert node is not None
    assert (node.usage, node.unreadable) == (None, name)


@pytest.mark.parametrize("value", [-0.1, math.nan, "1e999999999", "much", True, 1e300])
def test_what_is_no_amount_is_no_cost(value: Value) -> None:
    """A cost is from 0 to 1,000,000,000 USD."""
    assert nanousd_of_amount(value) is None


def test_an_amount_is_exact() -> None:
    """0.1 USD is 100,000,000 nano-USD, whatever a float makes of it."""
    assert nanousd_of_amount(0.1) == nanousd_of_amount("0.1") == 100_000_000


def test_an_agent_says_whose_it_is() -> None:
    """Session, user, agent, provider, error and where it runs; older names are read where there are no newer ones."""
    node = node_of(
        span(
            "root",
            "",
            {
                **AGENT,
                "session.id": "",
                "gen_ai.conversation.id": "conv_1",
                "traceloop.association.properties.user_id": 7,
                "gen_ai.agent.name": "researcher",
                "gen_ai.system": "openai",
                "error.type": "TimeoutError",
            },
            resource={"service.name": "bot", "deployment.environment.name": "prod"},
        )
    )
    assert node is not None
    assert node.about is not None
    about = node.about
    assert (about.session, about.user, about.agent, about.provider) == ("conv_1", "7", "researcher", "openai")
    assert (about.error, about.service, about.environment) == ("TimeoutError", "bot", "prod")


def test_a_failed_span_without_an_error_type_failed_all_the_same() -> None:
    """The conventions' word for an error of no known type is `_OTHER`."""
    node = node_of(span("root", error=True))
    assert node is not None
    assert node.about is not None
    assert node.about.error == "_OTHER"
