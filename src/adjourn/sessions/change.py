"""One change of a hosted session: where it moves, what it tells, how it ends. Pure: it works on a copy of the row,
which `rows.save` writes with its events in one transaction."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from adjourn.errors import AdjournError, StatusRefused
from adjourn.sessions.lifecycle import ENDED, Ending, Status, path
from adjourn.sessions.session import Session
from adjourn.sessions.turn import SessionEvent

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Step(NamedTuple):
    """One change of status; `seq` is that of the session event which tells of it."""

    before: Status
    after: Status
    reason: str
    seq: int


class Change:
    """`session` is the row as it will be."""

    def __init__(self, session: Session, now_ms: int) -> None:
        self.session = msgspec.structs.replace(session)
        self.now_ms = now_ms
        self.steps: list[Step] = []
        self.events: list[SessionEvent] = []
        self.ending: Ending | None = None
        """Set where this change is the session's end: then it emits the completion."""

    def tell(self, kind: str, data: object = None, turn_id: str | None = None) -> None:
        """Add a session event."""
        self.session.events += 1
        raw = msgspec.Raw(b"{}" if data is None else _encode(data))
        self.events.append(
            SessionEvent(seq=self.session.events, type=kind, at_ms=self.now_ms, turn_id=turn_id, data=raw)
        )

    def move(self, to: Status, reason: str) -> None:
        """To a status, by the table's way; nothing where it is there already. Raises StatusRefused."""
        if to == self.session.status:
            return
        for step in allowed(self.session, to):
            before, self.session.status = self.session.status, step
            self.tell("status_changed", {"from": before, "to": step, "reason": reason})
            self.steps.append(Step(before, step, reason, self.session.events))

    def end(self, ending: Ending) -> None:
        """Move to its end. The first end is the session's completion. Raises StatusRefused."""
        ended_before = self.session.ended_ms is not None
        self.move(ending.to, ending.reason)
        if ended_before or self.session.status not in ENDED:
            return
        session = self.session
        session.ended_ms = max(self.now_ms, session.created_ms)
        session.outcome = ending.outcome
        session.error_code = ending.error_code
        session.stopping = ""
        if ending.final_message:
            session.described = msgspec.structs.replace(session.described, final_message=ending.final_message)
        self.ending = ending
        said = {"event_id": session.event_id, "outcome": ending.outcome, "error_code": ending.error_code}
        self.tell("completed", said)


def allowed(session: Session, to: Status) -> list[Status]:
    """The steps to a status. Raises StatusRefused."""
    steps = path(session.status, to)
    if not steps:
        raise refused(session, f"cannot become {to}")
    return steps


def refused(session: Session, what: str) -> AdjournError:
    remedies = {
        "completed": "begin a new session with resumed_from to go on",
        "terminated": "begin a new session with resumed_from to go on",
        "error": "terminate it, or begin a new session with resumed_from to go on",
        "initializing": "wait until it is active",
        "active": "wait for its turn to end, or interrupt it",
        "idle": "send it a message",
    }
    return StatusRefused(f"session {session.id} is {session.status} and {what}; {remedies[session.status]}")
