"""A hosted session as it is kept, and what a caller says when it makes one. Values only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from adjourn.events import Id, OutcomeStatus, SessionType, Short
from adjourn.runner import RunnerConfig
from adjourn.sessions.hosting import Pattern
from adjourn.sessions.lifecycle import Status
from adjourn.sessions.triggers import TRIGGERS_MAX, Trigger

_encode = msgspec.json.Encoder(order="sorted").encode

Role = Literal["director", "department", "observer", "active"]
Tag = Annotated[str, Meta(min_length=1, max_length=128)]
Many = Annotated[int, Meta(ge=1, le=2**53)]
Usd = Decimal
"""From 0 to USD_MAX, which msgspec cannot say of a decimal: `check_usd` does."""
USD_MAX = 1_000_000_000
"""In nano-USD it leaves room for sums in 64 bits."""


class SessionKey(NamedTuple):
    tenant: str
    session_id: str


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a session may use; None: no limit of its own. `turn_timeout_ms` ends a turn, the others the session."""

    max_idle_ms: Many | None = None
    max_lifetime_ms: Many | None = None
    max_budget_usd: Usd | None = None
    max_turns: Many | None = None
    max_tokens: Many | None = None
    turn_timeout_ms: Many | None = None

    def __post_init__(self) -> None:
        check_usd(max_budget_usd=self.max_budget_usd)


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a million tokens cost, in USD, where the session knows it and the price table does not. Cached tokens cost
    what input does unless they have a price of their own."""

    input_usd_per_mtok: Usd
    output_usd_per_mtok: Usd
    cache_read_usd_per_mtok: Usd | None = None
    cache_creation_usd_per_mtok: Usd | None = None

    def __post_init__(self) -> None:
        check_usd(
            input_usd_per_mtok=self.input_usd_per_mtok,
            output_usd_per_mtok=self.output_usd_per_mtok,
            cache_read_usd_per_mtok=self.cache_read_usd_per_mtok,
            cache_creation_usd_per_mtok=self.cache_creation_usd_per_mtok,
        )


def check_usd(**amounts: Usd | None) -> None:
    """Decoding turns the ValueError into a ValidationError."""
    for name, amount in amounts.items():
        if amount is not None and not (amount.is_finite() and 0 <= amount <= USD_MAX):
            raise ValueError(f"{name} is {amount}; give an amount in USD from 0 to {USD_MAX}")


class Spent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a session, or one agent of it, has used. `cost_nanousd` is the sum of what has a price; `unpriced_turns` had
    usage and none."""

    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: int = 0
    errors: int = 0
    cost_nanousd: int = 0
    unpriced_turns: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Described(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What of a session is looked at only together with it; one column."""

    description: str = ""
    workspace: str = ""
    tags: Sequence[str] = ()
    capabilities: Sequence[str] = ()
    constraints: Sequence[str] = ()
    resources: Mapping[str, object] = {}
    metadata: Mapping[str, object] = {}
    config: RunnerConfig = RunnerConfig()
    limits: Limits = Limits()
    price: Price | None = None
    on_disconnect: Literal["continue", "stop"] = "continue"
    final_message: str = ""
    by_agent: Mapping[str, Spent] = {}
    fingerprint: str = ""
    """Of what its creator asked for, to tell a call that is sent again from another one with the same key."""
    retention_ms: int | None = None
    """How long its record is kept once it has ended, as the settings were when it began; None: until it is deleted."""
    cost_estimated: bool = False
    """Some of its cost is a reservation that nobody could settle."""


class Session(msgspec.Struct, kw_only=True):
    """A row of `sessions`. Times are wall milliseconds."""

    tenant: str
    id: str
    status: Status
    pattern: Pattern
    role: Role
    kind: SessionType
    interface: str
    user_id: str
    name: str
    runner: str
    model: str
    parent_id: str | None
    root_id: str
    resumed_from: str | None
    idempotency: bytes | None = None
    """What the call that made it is known again by."""
    revision: int
    """Moves with every change that a caller may ask for; a PATCH names the one that it saw."""
    epoch: int
    """Moves whenever a node takes the session up: what an earlier owner still writes finds another one here."""
    node: str | None
    """The lease of the node that runs its turn, or holds its runner open."""
    turn_id: str | None
    """Of the turn that runs."""
    stopping: str
    """The name of the ending that its owner is asked for, or empty."""
    created_ms: int
    active_ms: int
    ended_ms: int | None
    due_ms: int | None
    """When the sweep must look at it next, whatever for."""
    outcome: OutcomeStatus | Literal[""]
    error_code: str
    event_id: str
    amendment_id: str | None
    messages: int
    """How many it has said itself: the `seq` of the last."""
    events: int
    """How many session events there are: the `seq` of the last."""
    queued: int
    """Messages that wait for the turn before them."""
    spent: Spent
    described: Described
    state: bytes
    """A JSON object."""

    @property
    def key(self) -> SessionKey:
        return SessionKey(self.tenant, self.id)


class NewSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What `POST /v1/sessions` takes."""

    pattern: Pattern
    runner: Short | None = None
    """The name of one of the server's runners; without one, `hosting.default_runner`."""
    config: RunnerConfig = RunnerConfig()
    limits: Limits = Limits()
    price: Price | None = None
    role: Role = "active"
    kind: SessionType = "api"
    interface: Annotated[str, Meta(max_length=64)] = "api"
    user_id: Id | None = None
    name: Annotated[str, Meta(max_length=256)] = ""
    description: Annotated[str, Meta(max_length=4096)] = ""
    workspace: Annotated[str, Meta(max_length=1024)] = ""
    tags: Annotated[Sequence[Tag], Meta(max_length=64)] = ()
    capabilities: Annotated[Sequence[Tag], Meta(max_length=64)] = ()
    constraints: Annotated[Sequence[Tag], Meta(max_length=64)] = ()
    resources: Mapping[str, object] = {}
    metadata: Mapping[str, object] = {}
    state: Mapping[str, object] = {}
    parent_id: Id | None = None
    resumed_from: Id | None = None
    """An ended session whose conversation and state this one goes on with."""
    snapshot_id: Id | None = None
    """A snapshot to begin from."""
    on_disconnect: Literal["continue", "stop"] = "continue"
    """What a turn does whose client has hung up."""
    triggers: Annotated[Sequence[Trigger], Meta(max_length=TRIGGERS_MAX)] = ()
    """When it starts turns by itself, where its pattern does."""


class Patch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What `PATCH /v1/sessions/{id}` takes; what is not given stays."""

    revision: int
    """The one that the caller saw."""
    name: Annotated[str, Meta(max_length=256)] | None = None
    description: Annotated[str, Meta(max_length=4096)] | None = None
    tags: Annotated[Sequence[Tag], Meta(max_length=64)] | None = None
    capabilities: Annotated[Sequence[Tag], Meta(max_length=64)] | None = None
    constraints: Annotated[Sequence[Tag], Meta(max_length=64)] | None = None
    metadata: Mapping[str, object] | None = None
    state: Mapping[str, object] | None = None
    limits: Limits | None = None
    on_disconnect: Literal["continue", "stop"] | None = None


def describe(
    new: NewSession,
    *,
    tenant: str,
    session_id: str,
    root_id: str,
    runner: str,
    event_id: str,
    now_ms: int,
    idempotency: bytes | None = None,
) -> Session:
    """A session as it begins, before anything of it has happened."""
    return Session(
        tenant=tenant,
        id=session_id,
        status="initializing",
        pattern=new.pattern,
        role=new.role,
        kind=new.kind,
        interface=new.interface,
        user_id=new.user_id or "",
        name=new.name,
        runner=runner,
        model=new.config.model,
        parent_id=new.parent_id,
        root_id=root_id,
        resumed_from=new.resumed_from,
        idempotency=idempotency,
        revision=1,
        epoch=0,
        node=None,
        turn_id=None,
        stopping="",
        created_ms=now_ms,
        active_ms=now_ms,
        ended_ms=None,
        due_ms=None,
        outcome="",
        error_code="",
        event_id=event_id,
        amendment_id=None,
        messages=0,
        events=0,
        queued=0,
        spent=Spent(),
        described=_described(new),
        state=_encode(new.state),
    )


def _described(new: NewSession) -> Described:
    return Described(
        description=new.description,
        workspace=new.workspace,
        tags=list(dict.fromkeys(new.tags)),
        capabilities=new.capabilities,
        constraints=new.constraints,
        resources=new.resources,
        metadata=new.metadata,
        config=new.config,
        limits=new.limits,
        price=new.price,
        on_disconnect=new.on_disconnect,
        fingerprint=hashlib.blake2b(_encode(new), digest_size=12).hexdigest(),
    )
