"""A turn of a hosted session: what is asked, what is answered, and the events of a session. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from adjourn.events import Count, Id
from adjourn.runner import Part, Role, StopReason
from adjourn.sessions.session import Session, Spent, Usd, check_usd

TurnStatus = Literal["queued", "running", "done", "failed", "interrupted", "abandoned"]
Reservation = Literal["", "held", "settled", "forfeited"]
"""Of money: none was needed; held while the turn runs; settled by what it cost; charged whole, because nobody knows."""

PROMPT_LENGTH_MAX = 1_000_000


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What `POST /v1/sessions/{id}/messages` takes: `prompt`, or `role` and `parts`."""

    prompt: Annotated[str, Meta(min_length=1, max_length=PROMPT_LENGTH_MAX)] | None = None
    role: Role = "user"
    parts: Annotated[Sequence[Part], Meta(min_length=1, max_length=256)] | None = None
    message_id: Id | None = None
    """The same id again is the same message: it is appended once."""
    agent: Annotated[str, Meta(max_length=256)] = ""
    """Which of a session's agents is spoken to; it may be left away where there is one."""
    run: bool = True
    """Whether to run a turn on it; false only appends."""
    stream: bool = False
    queue: bool = False
    """Wait for the turn that runs, if one does, instead of being refused."""
    metadata: Mapping[str, object] = {}
    options: Mapping[str, object] = {}
    """For the runner, over those of the session, for this turn."""
    on_disconnect: Literal["continue", "stop"] | None = None


def parts_of(message: Message) -> list[Part]:
    """What it says."""
    return [Part(type="text", text=message.prompt)] if message.prompt is not None else list(message.parts or ())


class TurnError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    code: str
    message: str
    retryable: bool = False


class TurnResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a turn; kept with it, so that the same call gets the same answer. Cost is None where there was usage
    and no price."""

    turn_id: str
    number: int
    status: TurnStatus
    text: str = ""
    stop_reason: StopReason | None = None
    error: TurnError | None = None
    usage: Spent = msgspec.field(default_factory=Spent)
    cost_nanousd: int | None = 0
    began_ms: int = 0
    ended_ms: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that has ended, and the session as it was then."""

    turn: TurnResult
    session: Session


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened in a session, in order by `seq` from 1. `data` is a JSON object, by type:

    - `status_changed`: from, to, reason (the log's `session.status_changed`);
    - `turn_began`: number, agent, trigger; `turn_ended`: a TurnResult;
    - `text_delta`, `tool_call`, `tool_result`, `usage`, `cost`, `error`, `done`: as its runner said it;
    - `message`: id, seq and role of one that was appended without a turn;
    - `completed`: the id of its completion, outcome and error_code; `amended`: the id of the correction."""

    seq: int
    type: str
    at_ms: int
    turn_id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Completing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What `POST …/complete` takes for a hosted session."""

    outcome: Literal["success", "error", "timeout", "user_terminated"] = "success"
    error_code: Annotated[str, Meta(max_length=256)] = ""
    final_message: Annotated[str, Meta(max_length=65_536)] = ""
    final_state: msgspec.Raw = msgspec.Raw(b"")
    """Any JSON."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """State, position in the conversation, and the workspace where the runner has one, as they were."""

    id: str
    session_id: str
    created_ms: int
    messages: int
    archive_bytes: int


class Amending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What `POST …/amend` takes: what the completion should have said; what is not given stays as it was."""

    outcome: Literal["success", "error", "timeout", "user_terminated"] | None = None
    error_code: Annotated[str, Meta(max_length=256)] | None = None
    final_message: Annotated[str, Meta(max_length=65_536)] | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Usd | None = None

    def __post_init__(self) -> None:
        check_usd(cost_usd=self.cost_usd)
