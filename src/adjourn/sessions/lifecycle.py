"""The lifecycle of a hosted session: one table, and what each way of ending says in the completion.

Pure. Nothing else moves a session: `path` gives the steps from where it stands, each of which is an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from adjourn.events import OutcomeStatus

Status = Literal["initializing", "active", "idle", "completed", "error", "terminated"]

NEXT: Mapping[Status, frozenset[Status]] = {
    "initializing": frozenset({"active", "error"}),
    "active": frozenset({"idle", "completed", "error", "terminated"}),
    "idle": frozenset({"active", "terminated"}),
    "error": frozenset({"terminated"}),
    "completed": frozenset(),
    "terminated": frozenset(),
}
"""DESIGN §6. The first entry into one of `ENDED` is the session's completion."""

ENDED: frozenset[Status] = frozenset({"completed", "error", "terminated"})
LIVE: frozenset[Status] = frozenset(NEXT) - ENDED

ABANDONED = "abandoned"
"""The `error_code` of a session whose node died with its turn."""
STOPPED = "node_stopped"
"""The same where the node was stopped, and had waited for the turn as long as it may."""


class Ending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a session is to end: the status that it is to reach, and what its completion says."""

    to: Status
    outcome: OutcomeStatus
    reason: str
    """Of the change of status: `completed`, `terminated`, `max_turns` …"""
    error_code: str = ""
    final_message: str = ""
    final_state: msgspec.Raw = msgspec.Raw(b"")


def path(status: Status, to: Status) -> list[Status]:
    """The statuses to go through, the last of which is `to`; empty where it is there, or the table has no way that ends
    once.

    An idle session completes through `active`. What is initializing has begun nothing that could be terminated."""
    if to in NEXT[status]:
        return [to]
    if to == "terminated" and status == "initializing":
        return ["error"]
    if to == status:
        return []
    for step in NEXT:
        if step in NEXT[status] and step not in ENDED and to in NEXT[step]:
            return [step, to]
    return []


def completed(*, outcome: OutcomeStatus = "success", error_code: str = "", final_message: str = "") -> Ending:
    """By a caller, or by its pattern after the first turn."""
    return Ending(
        to="completed", outcome=outcome, reason="completed", error_code=error_code, final_message=final_message
    )


def terminated(reason: str = "terminated") -> Ending:
    """Stopped by a caller."""
    return Ending(to="terminated", outcome="user_terminated", reason=reason)


def limited(limit: str) -> Ending:
    """A limit is reached; its name is the completion's `error_code`."""
    return Ending(to="terminated", outcome="timeout", reason=limit, error_code=limit)


def failed(error_code: str, message: str = "") -> Ending:
    """It cannot go on: its runner failed it, or its node died with it."""
    return Ending(to="error", outcome="error", reason=error_code, error_code=error_code, final_message=message)
