"""What happens in a hosted session, as types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from adjourn.events import OutcomeStatus
from adjourn.sdk.models_sessions import Status, TurnAnswer
from adjourn.typed import decoder


class StatusChanged(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    before: Status
    after: Status
    reason: str = ""


class TurnBegan(msgspec.Struct, frozen=True):
    number: int
    agent: str = ""
    trigger: str = ""


class TextDelta(msgspec.Struct, frozen=True):
    """A piece of the answer."""

    text: str
    agent: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    id: str
    name: str
    arguments: Mapping[str, object] = {}
    agent: str = ""


class ToolResult(msgspec.Struct, frozen=True):
    """`output` is any JSON value."""

    id: str
    output: object = None
    is_error: bool = False
    agent: str = ""


class UsageTold(msgspec.Struct, frozen=True):
    """Tokens used since the last such event; input includes the cached ones."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    reasoning_tokens: int = 0
    model: str = ""
    agent: str = ""


class CostTold(msgspec.Struct, frozen=True):
    """What was spent since the last such event."""

    cost_usd: Decimal
    agent: str = ""


class Failed(msgspec.Struct, frozen=True):
    """The runner's last word of a turn that failed."""

    code: str
    message: str = ""
    retryable: bool = False


class Done(msgspec.Struct, frozen=True):
    """The runner's last word of a turn that succeeded; `text` where it is not that of the deltas."""

    stop_reason: str = "end_turn"
    text: str = ""


class MessageTold(msgspec.Struct, frozen=True):
    """A message without a turn."""

    seq: int
    role: str = "user"
    id: str = ""


class Completed(msgspec.Struct, frozen=True):
    """The session has ended; `event_id` is its completion's."""

    event_id: str
    outcome: OutcomeStatus
    error_code: str = ""


class Amended(msgspec.Struct, frozen=True):
    event_id: str
    amends: str = ""


EVENT_TYPES: Mapping[str, type[msgspec.Struct]] = {
    "status_changed": StatusChanged,
    "turn_began": TurnBegan,
    "turn_ended": TurnAnswer,
    "text_delta": TextDelta,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "usage": UsageTold,
    "cost": CostTold,
    "error": Failed,
    "done": Done,
    "message": MessageTold,
    "completed": Completed,
    "amended": Amended,
}


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a session, in order by `seq` from 1. `data` is a JSON object, by `type`."""

    seq: int
    type: str
    at: str
    turn_id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")

    @property
    def detail(self) -> msgspec.Struct | Mapping[str, object]:
        """`data` as one of the types above, to `match` on; as a dict where this version does not know its `type`."""
        kind = EVENT_TYPES.get(self.type)
        return decoder(dict[str, object]).decode(self.data) if kind is None else decoder(kind).decode(self.data)

    @property
    def text(self) -> str:
        """The piece of the answer that this brings; empty for all events but `text_delta`."""
        return decoder(TextDelta).decode(self.data).text if self.type == "text_delta" else ""


class SessionEventPage(msgspec.Struct, frozen=True):
    """`next_after` is given back as `after`; past the last event there is an empty page, until more happens."""

    events: Sequence[SessionEvent]
    next_after: int
