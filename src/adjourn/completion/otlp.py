"""What spans say, by OpenTelemetry's GenAI conventions and the older names that instrumentations still write. Pure.

The conventions are under development: what is read of them is the tables here, of `MAPPING_VERSION`, which every
completion that came from spans names. Of names with one meaning, the first that a span has is taken.
docs/howto/otlp.md says it for users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final, Literal

import msgspec

MAPPING_VERSION: Final = 1
TEXT_LENGTH_MAX: Final = 512
COUNT_MAX: Final = 2**38
"""Of tokens in one span, so that the sum over a trace is still a count."""
TIME_NS_MAX: Final = 2**63

Value = str | int | float | bool
"""Of an attribute. Arrays, maps and bytes have no meaning here."""
Kind = Literal["agent", "model", "tool", "other"]

OPERATIONS: Mapping[str, Kind] = {
    "invoke_agent": "agent",
    "invoke_workflow": "agent",
    "execute_tool": "tool",
    "chat": "model",
    "text_completion": "model",
    "generate_content": "model",
    "embeddings": "model",
}
"""By `gen_ai.operation.name`."""
OPENINFERENCE: Mapping[str, Kind] = {
    "AGENT": "agent",
    "CHAIN": "agent",
    "LLM": "model",
    "EMBEDDING": "model",
    "TOOL": "tool",
}
"""By `openinference.span.kind`. Its frameworks call the outermost span of a run a chain as often as an agent."""
TRACELOOP: Mapping[str, Kind] = {"workflow": "agent", "agent": "agent", "tool": "tool", "task": "other"}
"""By `traceloop.span.kind`."""

_OPERATION, _OPENINFERENCE, _TRACELOOP = "gen_ai.operation.name", "openinference.span.kind", "traceloop.span.kind"
_PENDING = "logfire.span_type"
_REQUEST_TYPE = "llm.request.type"

_TRACELOOP_PROPERTY = "traceloop.association.properties."
SESSION = ("session.id", "gen_ai.conversation.id", f"{_TRACELOOP_PROPERTY}session_id", "langfuse.session.id")
USER = ("user.id", "enduser.id", f"{_TRACELOOP_PROPERTY}user_id", "langfuse.user.id")
MODEL = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name", "embedding.model_name", "model_name")
PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
AGENT = ("gen_ai.agent.name", "agent_name", "gen_ai.workflow.name", "agent.name", "traceloop.entity.name")
EXCEPTION = "exception.type"
ERROR = ("error.type", EXCEPTION)
"""The second is an attribute of a span's event `exception`, and handed on by the door as if it were the span's own."""
COST = ("operation.cost", "llm.cost.total", "gen_ai.usage.cost")
"""USD. Not in the conventions; of pydantic-ai, OpenInference, OpenLIT."""
COUNTS: Mapping[str, tuple[str, ...]] = {
    "input": (
        "gen_ai.usage.input_tokens",
        "gen_ai.aggregated_usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.usage.prompt_tokens",
        "llm.token_count.prompt",
    ),
    "output": (
        "gen_ai.usage.output_tokens",
        "gen_ai.aggregated_usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.aggregated_usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cache_creation": (
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.aggregated_usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.details.cache_write_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.aggregated_usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "llm.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
}
SPAN_ATTRIBUTES: Final = frozenset(
    (
        *(_OPERATION, _OPENINFERENCE, _TRACELOOP, _PENDING, _REQUEST_TYPE),
        *(*SESSION, *USER, *MODEL, *PROVIDER, *AGENT, *ERROR, *COST),
        *(name for names in COUNTS.values() for name in names),
    )
)
"""What a door need decode; the rest, prompts and answers first of all, is passed over."""
RESOURCE_ATTRIBUTES: Final = ("service.name", "deployment.environment.name", "deployment.environment")


class Span(msgspec.Struct, kw_only=True):
    """An ended span, as the door decoded it: ids as lower-case hex, of attributes those named above."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    """Empty: this is the first span of its trace."""
    remote_parent: bool = False
    """Said to be in another process."""
    start_ns: int = 0
    end_ns: int = 0
    error: bool = False
    attributes: Mapping[str, Value]
    resource: Mapping[str, Value] = {}
    scope: str = ""


class Usage(msgspec.Struct, array_like=True, omit_defaults=True):
    """Cached tokens are in `input`, reasoning ones in `output`."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_creation: int = 0
    reasoning: int = 0
    cost_nanousd: int | None = None
    """What the span says that it cost."""

    @property
    def tokens(self) -> int:
        return self.input + self.output


class About(msgspec.Struct, array_like=True, omit_defaults=True):
    """What a completion says of an agent's run besides its usage."""

    first: bool
    """It is the first span of its trace: nothing at all is above it."""
    session: str = ""
    """As the span names it; runs may share it."""
    user: str = ""
    agent: str = ""
    provider: str = ""
    error: str = ""
    """Its `error_code`; empty: it went well."""
    scope: str = ""
    service: str = ""
    environment: str = ""


class Node(msgspec.Struct, array_like=True, omit_defaults=True):
    """A GenAI span as it is kept until its trace is forgotten."""

    span_id: str
    kind: Kind
    parent: str
    remote: bool
    start_ns: int
    end_ns: int
    model: str = ""
    usage: Usage | None = None
    unreadable: str = ""
    """The attribute of usage that is no count or amount, if one is not."""
    about: About | None = None
    """Of agents only."""
    done: int = 0
    """How many events its run has become: its completion and the amendments of it."""
    told: bytes = b""
    """Fingerprint of the usage that the last of them told."""
    refused: bool = False
    """Its completion was not valid, and is in quarantine."""


def kind_of(attributes: Mapping[str, Value]) -> Kind | None:
    """None: it is no GenAI span. Spans that only announce one that is still running are none."""
    if attributes.get(_PENDING) == "pending_span":
        return None
    operation = attributes.get(_OPERATION)
    if isinstance(operation, str):
        return OPERATIONS.get(operation, "other")
    for name, kinds in ((_OPENINFERENCE, OPENINFERENCE), (_TRACELOOP, TRACELOOP)):
        kind = attributes.get(name)
        if isinstance(kind, str):
            return kinds.get(kind.upper() if kinds is OPENINFERENCE else kind.lower(), "other")
    if _REQUEST_TYPE in attributes:
        return "model"
    if "agent_name" in attributes and "model_name" in attributes:  # pydantic-ai before it named operations
        return "agent"
    return "model" if _named(attributes, COUNTS["input"]) or _named(attributes, COUNTS["output"]) else None


def node_of(span: Span) -> Node | None:
    """None: it is no GenAI span."""
    attributes = span.attributes
    kind = kind_of(attributes)
    if kind is None:
        return None
    usage, unreadable = usage_of(attributes) if kind in ("agent", "model") else (None, "")
    return Node(
        span.span_id,
        kind,
        span.parent_id,
        span.remote_parent,
        span.start_ns,
        span.end_ns,
        _text(attributes, MODEL) if kind in ("agent", "model") else "",
        usage,
        unreadable,
        _about(span) if kind == "agent" else None,
    )


def usage_of(attributes: Mapping[str, Value]) -> tuple[Usage | None, str]:
    """(what was used, the first attribute that cannot be read). None: the span says nothing of it, or what it says
    cannot be read."""
    found: dict[str, int] = {}
    for field, names in COUNTS.items():
        name = _named(attributes, names)
        if name:
            count = count_of(attributes[name])
            if count is None:
                return None, name
            found[field] = count
    name = _named(attributes, COST)
    cost = None
    if name:
        cost = nanousd_of_amount(attributes[name])
        if cost is None:
            return None, name
    if not found and cost is None:
        return None, ""
    usage = Usage(**found, cost_nanousd=cost)
    # Some count what is cached, or reasoned, beside the total and not in it: nothing else explains more of the part.
    cached = usage.cache_read + usage.cache_creation
    if cached > usage.input:
        usage.input += cached
    if usage.reasoning > usage.output:
        usage.output += usage.reasoning
    return usage, ""


def count_of(value: Value) -> int | None:
    """None: it is no count."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 16):
            return None
        value = int(value)
    if isinstance(value, float):
        if not value.is_integer():  # NaN and infinity are not
            return None
        value = int(value)
    return value if 0 <= value <= COUNT_MAX else None


def nanousd_of_amount(value: Value) -> int | None:
    """Decimal USD as written → nano-USD; None: it is no amount that a run can cost."""
    if isinstance(value, bool) or (isinstance(value, str) and len(value) > 40):
        return None
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        return None
    if not amount.is_finite() or not 0 <= amount <= 10**9:
        return None
    return int(amount.scaleb(9).to_integral_value())


def _about(span: Span) -> About:
    attributes = span.attributes
    error = _text(attributes, ERROR)
    environment = _text(span.resource, RESOURCE_ATTRIBUTES[1:])
    return About(
        not span.parent_id,
        _text(attributes, SESSION),
        _text(attributes, USER),
        _text(attributes, AGENT),
        _text(attributes, PROVIDER),
        error or ("_OTHER" if span.error else ""),
        span.scope[:TEXT_LENGTH_MAX],
        _text(span.resource, RESOURCE_ATTRIBUTES[:1]),
        environment,
    )


def _named(attributes: Mapping[str, Value], names: Iterable[str]) -> str:
    return next((name for name in names if name in attributes), "")


def _text(attributes: Mapping[str, Value], names: Iterable[str]) -> str:
    """Numbers too: some number their users and conversations."""
    for name in names:
        value = attributes.get(name)
        if value is not None and value != "" and not isinstance(value, bool):
            return str(value)[:TEXT_LENGTH_MAX]
    return ""
