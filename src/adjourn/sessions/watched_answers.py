"""What clients of watched sessions are told: answers, and refusals with fact and remedy."""

from __future__ import annotations

import msgspec

from adjourn.errors import EventConflict, EventInvalid, NotFound, SessionEnded
from adjourn.events import Record
from adjourn.sessions.watch import Problem, Taken, Watched


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a completion. `accepted`: it is the session's `session.completed`. `amended`: the session had been
    abandoned, and this is the `session.amended` that corrects it. `duplicate`: it was there already."""

    status: str
    session_id: str
    attempt: int
    event_id: str
    amends: str | None = None


def checked(found: Record | Problem) -> Record:
    if not isinstance(found, Record):
        raise EventInvalid(f"{found.message}; {found.remedy}", path=found.path)
    return found


def told(taken: Taken, watched: Watched) -> Ended:
    late = watched.state == "abandoned"
    if taken.status == "invalid":
        fact = f"{taken.message}; {taken.remedy}, and complete it again"
        raise EventInvalid(f"{fact} (what was sent is kept in quarantine as {taken.quarantine_id})", path=taken.path)
    if taken.status == "conflict":
        fact = f"the log holds another completion of session {watched.session_id}, which came by another way"
        remedy = f"look at event {watched.event_id}, and correct it with a session.amended if it is wrong"
        raise EventConflict(f"{fact}; {remedy} (yours is kept in quarantine as {taken.quarantine_id})")
    return Ended(
        status="amended" if late and taken.status == "accepted" else taken.status,
        session_id=watched.session_id,
        attempt=watched.attempt,
        event_id=taken.event_id or watched.event_id,
        amends=watched.event_id if late else None,
    )


def already(watched: Watched, content: bytes) -> Ended:
    """A completion that is sent again is the same one; any other comes too late. Raises SessionEnded."""
    if watched.content != content:
        remedy = "to correct it, send a session.amended that names it in amends to POST /v1/events"
        raise SessionEnded(f"{stands(watched)}, with other content than this; {remedy}")
    amended = watched.state == "amended"
    return Ended(
        status="duplicate",
        session_id=watched.session_id,
        attempt=watched.attempt,
        event_id=watched.amendment_id or watched.event_id,
        amends=watched.event_id if amended else None,
    )


def stands(watched: Watched) -> str:
    amended = f", amended by event {watched.amendment_id}" if watched.amendment_id else ""
    return f"session {watched.session_id} is {watched.state}: its completion is event {watched.event_id}{amended}"


def still(watched: Watched) -> str:
    return ", but its completion is still taken, as an amendment" if watched.state == "abandoned" else ""


def begun_before(watched: Watched) -> str:
    what = f"session {watched.session_id} was begun before by another call, and its attempt {watched.attempt} is"
    if watched.state == "open":
        return f"{what} open; take another session_id, or complete it first"
    return f"{what} {watched.state}; take another session_id, or begin attempt {watched.attempt + 1}"


def not_found(session_id: str, attempt: int = 1) -> NotFound:
    which = f"no attempt {attempt} of session {session_id[:100]}" if attempt != 1 else f"no session {session_id[:100]}"
    return NotFound(
        f"{which} was begun here, or its record was deleted; begin it with POST /v1/sessions/begin, or send its whole "
        "completion to POST /v1/events"
    )
