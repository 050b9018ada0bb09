"""What the API answers of hosted sessions, as types; OpenAPI is made from them. What only nodes need stays inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from adjourn.clock import rfc3339
from adjourn.events import OutcomeStatus, SessionType
from adjourn.http.views import usd
from adjourn.runner import RunnerConfig, StopReason
from adjourn.sessions.allowance import Allowance, Share
from adjourn.sessions.hosting import Pattern
from adjourn.sessions.lifecycle import Status
from adjourn.sessions.session import Limits, Price, Role, Session, Spent
from adjourn.sessions.stats import Figures, Stats
from adjourn.sessions.turn import Answer, SessionEvent, Snapshot, TurnError, TurnResult, TurnStatus
from adjourn.typed import decoder


class UsageView(msgspec.Struct):
    """What was used. `unpriced_turns` had usage and no price: they are in no cost."""

    turns: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cache_read_tokens: int
    cache_creation_tokens: int
    reasoning_tokens: int
    tool_calls: int
    errors: int
    unpriced_turns: int

    @classmethod
    def of(cls, spent: Spent) -> UsageView:
        return cls(*[getattr(spent, name) for name in cls.__struct_fields__])


class AgentUsage(msgspec.Struct):
    """What one of several agents has used; the cost as decimal USD, exact."""

    usage: UsageView
    cost_usd: str


class SessionView(msgspec.Struct):
    """A hosted session. `event_id` is its completion's, which is in the log once it has ended; `amendment_id` that of
    the last correction. `node` runs its turn, or holds its runner open. `revision` is what a PATCH names. `messages`
    and `events` are the numbers of the last of each."""

    id: str
    status: Status
    pattern: Pattern
    role: Role
    kind: SessionType
    interface: str
    user_id: str | None
    name: str
    description: str
    tags: Sequence[str]
    runner: str
    model: str
    config: RunnerConfig
    limits: Limits
    price: Price | None
    usage: UsageView
    cost_usd: str
    """Decimal USD, exact."""
    by_agent: Mapping[str, AgentUsage]
    created_at: str
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
    turn_id: str | None
    queued: int
    messages: int
    events: int
    workspace: str
    capabilities: Sequence[str]
    constraints: Sequence[str]
    resources: Mapping[str, object]
    metadata: Mapping[str, object]
    state: msgspec.Raw
    on_disconnect: Literal["continue", "stop"]
    revision: int

    @classmethod
    def of(cls, session: Session) -> SessionView:
        described = session.described
        return cls(
            **{name: getattr(session, name) for name in _OF_ROW},
            **{name: getattr(described, name) for name in _OF_DESCRIBED},
            user_id=session.user_id or None,
            usage=UsageView.of(session.spent),
            cost_usd=usd(session.spent.cost_nanousd),
            by_agent={
                name: AgentUsage(UsageView.of(spent), usd(spent.cost_nanousd))
                for name, spent in described.by_agent.items()
            },
            created_at=rfc3339(session.created_ms),
            active_at=rfc3339(session.active_ms),
            ended_at=None if session.ended_ms is None else rfc3339(session.ended_ms),
            outcome=session.outcome or None,
            state=msgspec.Raw(session.state or b"{}"),
        )


_SHAPED = {"user_id", "usage", "cost_usd", "by_agent", "created_at", "active_at", "ended_at", "outcome", "state"}
_OF_ROW = [n for n in SessionView.__struct_fields__ if n in Session.__struct_fields__ and n not in _SHAPED]
_OF_DESCRIBED = [n for n in SessionView.__struct_fields__ if n not in Session.__struct_fields__ and n not in _SHAPED]


class SessionPage(msgspec.Struct):
    """`next_cursor` is given back as `cursor` for the page after; null on the last."""

    sessions: list[SessionView]
    next_cursor: str | None


class TurnView(msgspec.Struct):
    """A turn. `cost_usd` is null where it had usage and no price."""

    turn_id: str
    number: int
    status: TurnStatus
    text: str
    stop_reason: StopReason | None
    error: TurnError | None
    usage: UsageView
    cost_usd: str | None
    """Decimal USD, exact."""
    began_at: str | None
    ended_at: str | None

    @classmethod
    def of(cls, turn: TurnResult) -> TurnView:
        return cls(
            turn_id=turn.turn_id,
            number=turn.number,
            status=turn.status,
            text=turn.text,
            stop_reason=turn.stop_reason,
            error=turn.error,
            usage=UsageView.of(turn.usage),
            cost_usd=None if turn.cost_nanousd is None else usd(turn.cost_nanousd),
            began_at=rfc3339(turn.began_ms) if turn.began_ms else None,
            ended_at=rfc3339(turn.ended_ms) if turn.ended_ms else None,
        )


class AnswerView(msgspec.Struct):
    """A turn that has ended, and the session as it was then."""

    turn: TurnView
    session: SessionView

    @classmethod
    def of(cls, answer: Answer) -> AnswerView:
        return cls(TurnView.of(answer.turn), SessionView.of(answer.session))


class Appended(msgspec.Struct):
    """A message that was added without a turn; `seq` is its place in the conversation."""

    message_id: str
    seq: int


class SnapshotView(msgspec.Struct):
    """`messages` is the position in the conversation; `archive_bytes` the size of the workspace's archive, 0 where the
    runner has none."""

    id: str
    session_id: str
    created_at: str
    messages: int
    archive_bytes: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> SnapshotView:
        at = rfc3339(snapshot.created_ms)
        return cls(snapshot.id, snapshot.session_id, at, snapshot.messages, snapshot.archive_bytes)


class DurationsView(msgspec.Struct):
    """Of sessions that have ended, within 1 %; null where none has."""

    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None


class FiguresView(msgspec.Struct):
    """`sessions`: all that there ever were, deleted ones too; `live` of them have not ended. The cost is decimal USD,
    exact."""

    sessions: int
    live: int
    usage: UsageView
    cost_usd: str
    durations: DurationsView

    @classmethod
    def of(cls, figures: Figures) -> FiguresView:
        durations = DurationsView(figures.durations.p50_ms, figures.durations.p95_ms, figures.durations.p99_ms)
        usage, cost_usd = UsageView.of(figures.spent), usd(figures.spent.cost_nanousd)
        return cls(figures.sessions, figures.live, usage, cost_usd, durations)


class StatsView(msgspec.Struct):
    """Each mapping by pattern, status, user and model adds up to `total`; that by tag does not, since a session has any
    number of tags. A session without a user or a model is under the empty name."""

    total: FiguresView
    by_pattern: Mapping[str, FiguresView]
    by_status: Mapping[str, FiguresView]
    by_user: Mapping[str, FiguresView]
    by_model: Mapping[str, FiguresView]
    by_tag: Mapping[str, FiguresView]

    @classmethod
    def of(cls, stats: Stats) -> StatsView:
        by = [name for name in cls.__struct_fields__ if name != "total"]
        return cls(
            total=FiguresView.of(stats.total),
            **{name: {value: FiguresView.of(one) for value, one in getattr(stats, name).items()} for name in by},
        )


class ShareView(msgspec.Struct):
    """What a tenant or a user may use, and what of that; null: no bound of its own. Decimal USD, exact. What running
    turns hold is not left; it is below zero where the total was lowered to less than was spent, or the last turn passed
    it."""

    max_sessions: int | None
    live_sessions: int
    total_budget_usd: str | None
    left_usd: str | None

    @classmethod
    def of(cls, share: Share) -> ShareView:
        total, left = share.total_nanousd, share.left_nanousd
        return cls(
            share.max_sessions,
            share.live_sessions,
            None if total is None else usd(total),
            None if left is None else usd(left),
        )


class AllowanceView(msgspec.Struct):
    """`limits`: the most that one session may ask for, and what one has that asks for nothing. `user` is null where
    none was asked about."""

    limits: Limits
    tenant: ShareView
    user: ShareView | None

    @classmethod
    def of(cls, found: Allowance) -> AllowanceView:
        user = None if found.user is None else ShareView.of(found.user)
        return cls(found.limits, ShareView.of(found.tenant), user)


# --- events ----------------------------------------------------------------------------------------------------------


class SessionEventView(msgspec.Struct):
    """Something that happened in a session, in order by `seq` from 1: the same in a page, as a server-sent event and
    as a WebSocket's frame."""

    seq: int
    type: str
    at: str
    turn_id: str | None
    data: msgspec.Raw
    """A JSON object, by type."""

    @classmethod
    def of(cls, event: SessionEvent) -> SessionEventView:
        return cls(event.seq, event.type, rfc3339(event.at_ms), event.turn_id, _outside(event))


class EventPage(msgspec.Struct):
    """`next_after` is given back as `after`; past the last event there is an empty page, until more happens."""

    events: list[SessionEventView]
    next_after: int


class _Spend(msgspec.Struct):
    nanousd: int
    agent: str = ""


class _SpendView(msgspec.Struct, omit_defaults=True):
    cost_usd: str
    agent: str = ""


_encode = msgspec.json.Encoder().encode


def _outside(event: SessionEvent) -> msgspec.Raw:
    """Its data; money and times as they are everywhere outside."""
    if event.type == "turn_ended":
        return msgspec.Raw(_encode(TurnView.of(turn_of(event))))
    if event.type == "cost":
        spend = decoder(_Spend).decode(event.data)
        return msgspec.Raw(_encode(_SpendView(usd(spend.nanousd), spend.agent)))
    return event.data


def turn_of(event: SessionEvent) -> TurnResult:
    """What a `turn_ended` tells."""
    return decoder(TurnResult).decode(event.data)
