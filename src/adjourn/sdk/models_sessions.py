"""What a server answers of hosted sessions, and what it is told of them, as types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from adjourn.events import OutcomeStatus

Pattern = Literal["ephemeral", "long_running", "hybrid", "single_container"]
Status = Literal["initializing", "active", "idle", "completed", "error", "terminated"]
TurnStatus = Literal["queued", "running", "done", "failed", "interrupted", "abandoned"]
OnDisconnect = Literal["continue", "stop"]


# --- told to the server, and answered by it --------------------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a session may use; None: no limit of its own. `turn_timeout_ms` ends a turn, the others the session."""

    max_idle_ms: int | None = None
    max_lifetime_ms: int | None = None
    max_budget_usd: Decimal | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    turn_timeout_ms: int | None = None


class Price(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a million tokens cost, in USD, where the server's price table does not know it."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cache_read_usd_per_mtok: Decimal | None = None
    cache_creation_usd_per_mtok: Decimal | None = None


class Agent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of several agents that share a session's runner and workspace."""

    name: str
    system_prompt: str = ""
    model: str = ""
    allowed_tools: Sequence[str] | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How turns are run. `max_turns` bounds the steps that an agent takes within one turn; `options` are the runner's
    own."""

    model: str = ""
    system_prompt: str = ""
    allowed_tools: Sequence[str] = ()
    max_turns: int | None = None
    max_output_tokens: int = 4_096
    agents: Sequence[Agent] = ()
    options: Mapping[str, object] = {}


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of a message. `text` for text and reasoning; `id`, `name` and `arguments` (JSON) for a tool call; `id`,
    `output` (JSON) and `is_error` for its result; `url` and `media_type` for an image or attachment."""

    type: Literal["text", "image", "tool_call", "tool_result", "reasoning", "attachment"]
    text: str = ""
    id: str = ""
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"")
    output: msgspec.Raw = msgspec.Raw(b"")
    is_error: bool = False
    url: str = ""
    media_type: str = ""


# --- sessions --------------------------------------------------------------------------------------------------------


class UsageAnswer(msgspec.Struct, frozen=True):
    """What was used. `unpriced_turns` had usage and no price: they are in no cost."""

    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: int = 0
    errors: int = 0
    unpriced_turns: int = 0


class AgentAnswer(msgspec.Struct, frozen=True):
    """What one of several agents has used."""

    usage: UsageAnswer
    cost_usd: Decimal


class SessionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A hosted session. `event_id` is its completion's, which is in the log once it has ended; `amendment_id` that of
    the last correction. `revision` is what an update names. `messages` and `events` are the numbers of the last."""

    id: str
    status: Status
    pattern: Pattern
    role: str
    kind: str
    interface: str
    user_id: str | None
    name: str
    description: str
    tags: Sequence[str]
    runner: str
    model: str
    config: Config
    limits: Limits
    price: Price | None
    usage: UsageAnswer
    cost_usd: Decimal
    """Exact."""
    by_agent: Mapping[str, AgentAnswer]
    created_at: str
    """RFC 3339, UTC; so are the others."""
    active_at: str
    ended_at: str | None
    outcome: OutcomeStatus | None
    error_code: str
    final_message: str
    event_id: str
    amendment_id: str | None
    parent_id: str | None
    root_id: str
    resumed_from: str | None
    node: str | None
    """Runs its turn, or holds its runner open."""
    turn_id: str | None
    """Of the turn that runs."""
    queued: int
    messages: int
    events: int
    workspace: str
    capabilities: Sequence[str]
    constraints: Sequence[str]
    resources: Mapping[str, object]
    metadata: Mapping[str, object]
    state: Mapping[str, object]
    on_disconnect: OnDisconnect
    revision: int

    @property
    def live(self) -> bool:
        return self.ended_at is None


class SessionPage(msgspec.Struct, frozen=True):
    """One page, which may be short, or empty, where what is looked for is rare; `next_cursor` leads to the next, None
    after the last."""

    sessions: Sequence[SessionAnswer]
    next_cursor: str | None


class SnapshotAnswer(msgspec.Struct, frozen=True):
    """`messages` is the position in the conversation; `archive_bytes` the size of the workspace's archive, 0 where the
    runner has none."""

    id: str
    session_id: str
    created_at: str
    messages: int
    archive_bytes: int


class TriggerAnswer(msgspec.Struct, frozen=True):
    """A trigger as it was put, and how it stands. `next_at`: when it fires next; None where that is no matter of time.
    `error`: why it could not fire last."""

    trigger: Mapping[str, object]
    next_at: str | None
    fired_at: str | None
    error: str


class TriggerList(msgspec.Struct, frozen=True):
    triggers: Sequence[TriggerAnswer]


class Durations(msgspec.Struct, frozen=True):
    """Of sessions that have ended, within 1 %; None where none has."""

    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None


class Figures(msgspec.Struct, frozen=True):
    """`sessions`: all that there ever were; `live` of them have not ended."""

    sessions: int
    live: int
    usage: UsageAnswer
    cost_usd: Decimal
    durations: Durations


class StatsAnswer(msgspec.Struct, frozen=True):
    """Each mapping by pattern, status, user and model adds up to `total`; that by tag does not."""

    total: Figures
    by_pattern: Mapping[str, Figures]
    by_status: Mapping[str, Figures]
    by_user: Mapping[str, Figures]
    by_model: Mapping[str, Figures]
    by_tag: Mapping[str, Figures]


# --- turns -----------------------------------------------------------------------------------------------------------


class TurnError(msgspec.Struct, frozen=True):
    """Why a turn failed. `retryable`: the same message may succeed later."""

    code: str
    message: str
    retryable: bool = False


class TurnAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A turn. `cost_usd` is None where it had usage and no price."""

    turn_id: str
    number: int
    status: TurnStatus
    text: str
    stop_reason: str | None
    error: TurnError | None
    usage: UsageAnswer
    cost_usd: Decimal | None
    began_at: str | None
    ended_at: str | None


class SentAnswer(msgspec.Struct, frozen=True):
    """A turn that has ended, and the session as it was then."""

    turn: TurnAnswer
    session: SessionAnswer

    @property
    def text(self) -> str:
        """What was answered."""
        return self.turn.text


class AppendedAnswer(msgspec.Struct, frozen=True):
    """A message that was added without a turn; `seq` is its place in the conversation."""

    message_id: str
    seq: int


class MessageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a conversation; `session_id` is where it was said, which may be a session that this one goes on
    with. `turn_id` is None where no turn ran on it."""

    seq: int
    id: str
    session_id: str
    role: str
    parts: Sequence[Part]
    agent: str
    turn_id: str | None
    metadata: Mapping[str, object]
    created_at: str

    @property
    def text(self) -> str:
        """Its text, without reasoning and tools."""
        return "".join(part.text for part in self.parts if part.type == "text")


class MessagePage(msgspec.Struct, frozen=True):
    """Oldest first. `next_after` is given back as `after`, `next_before` as `before`; None where this page has the
    first message."""

    messages: Sequence[MessageAnswer]
    next_after: int
    next_before: int | None
