"""The gateway's sessions as a fold over records: what is applied while it runs is what is read back after a crash.

A session is open from its first call on, and closed at its end: its completion then waits, numbered, until it has been
taken. Nothing here asks for the time, writes, or waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from adjourn.gateway.usage import Usage

MODELS_MAX = 32
"""Told apart in one session; the others are counted as one."""
OTHER_MODELS = "(other)"
ANSWERS_MAX = 256
"""Answers of a session that a later call may continue from; of more, the last ones."""

Status = Literal["success", "error", "timeout", "user_terminated"]


class Opened(msgspec.Struct, tag="opened", omit_defaults=True):
    """A session begins. `ref` is the id that its completion will have."""

    ref: str
    key: str
    session_id: str
    at_ms: int
    user_id: str = ""
    client: str = ""
    address: str = ""


class Began(msgspec.Struct, tag="began", omit_defaults=True):
    ref: str
    call: str
    at_ms: int
    model: str = ""
    api: bool = False
    """No conversation: embeddings, images."""


class Used(msgspec.Struct, tag="used", omit_defaults=True):
    """What a call has used so far; a later one of the same call takes its place. `status` ends the call."""

    ref: str
    call: str
    at_ms: int
    usage: Usage
    model: str = ""
    cost_nanousd: int | None = None
    status: Status | None = None
    error_code: str = ""
    finish_reason: str = ""
    streamed: bool = False
    answer: str = ""
    """The key of what a later call may continue from."""


class Ending(msgspec.Struct, tag="ending"):
    """Told to end: no further call joins it, and it closes when the last of its calls has ended."""

    ref: str


class Closed(msgspec.Struct, tag="closed"):
    """`completion` is fixed from now on, and the `sequence`-th of this journal."""

    ref: str
    sequence: int
    completion: msgspec.Raw


class Taken(msgspec.Struct, tag="taken"):
    """All completions up to this one are durable elsewhere."""

    sequence: int


class Totals(msgspec.Struct, omit_defaults=True):
    """Of one model's calls in a session. Counts are sums over the calls that told them."""

    calls: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    cost_nanousd: int | None = None
    unpriced: int = 0
    """Calls whose tokens are known and whose price is not."""

    def add(self, used: Used) -> None:
        self.calls += 1
        for name in used.usage.__struct_fields__:
            more: int | None = getattr(used.usage, name)
            if more is not None:
                setattr(self, name, (getattr(self, name) or 0) + more)
        if used.cost_nanousd is not None:
            self.cost_nanousd = (self.cost_nanousd or 0) + used.cost_nanousd
        elif used.usage.known:
            self.unpriced += 1


class Session(msgspec.Struct, tag="session", omit_defaults=True, kw_only=True):
    ref: str
    key: str
    session_id: str
    user_id: str = ""
    client: str = ""
    address: str = ""
    started_ms: int
    ended_ms: int
    """When the last of its calls began or ended."""
    open_calls: dict[str, Began] = {}
    used: dict[str, Used] = {}
    """What open calls have used so far."""
    calls: int = 0
    failed_calls: int = 0
    calls_without_usage: int = 0
    conversation: bool = False
    """Some call of it was no mere API call."""
    models: dict[str, Totals] = {}
    answers: list[str] = []
    status: Status = "success"
    error_code: str = ""
    finish_reason: str = ""
    streamed: bool = False
    ending: bool = False


class Head(msgspec.Struct, tag="head"):
    """The first record of a journal."""

    producer: str
    salt: str
    sequence: int


Record = Head | Session | Opened | Began | Used | Ending | Closed | Taken


class Sessions:
    def __init__(self, head: Head) -> None:
        self.producer = head.producer
        self.salt = bytes.fromhex(head.salt)
        self.sequence = head.sequence
        """Of the completion that was closed last."""
        self.open: dict[str, Session] = {}
        self.waiting: dict[int, Closed] = {}
        self._by_key: dict[str, str] = {}

    def find(self, key: str | None) -> Session | None:
        """The open session of that key, or in which the answer of that key was given."""
        return self.open.get(self._by_key.get(key or "", ""))

    def snapshot(self) -> Iterator[Record]:
        """Records that lead to the same state."""
        yield Head(self.producer, self.salt.hex(), self.sequence)
        yield from self.open.values()
        yield from self.waiting.values()

    def apply(self, record: Record) -> None:
        """Records of sessions that are not open are passed over: their completion is fixed."""
        match record:
            case Opened():
                self._add(
                    Session(
                        ref=record.ref,
                        key=record.key,
                        session_id=record.session_id,
                        user_id=record.user_id,
                        client=record.client,
                        address=record.address,
                        started_ms=record.at_ms,
                        ended_ms=record.at_ms,
                    )
                )
            case Session():
                self._add(record)
            case Closed():
                self._close(record)
            case Taken():
                for sequence in [n for n in self.waiting if n <= record.sequence]:
                    del self.waiting[sequence]
                self.sequence = max(self.sequence, record.sequence)
            case Began() | Used() | Ending():
                if session := self.open.get(record.ref):
                    self._change(session, record)
            case Head():
                return

    def _add(self, session: Session) -> None:
        self.open[session.ref] = session
        if not session.ending:
            for key in (session.key, *session.answers):
                self._by_key[key] = session.ref

    def _change(self, session: Session, record: Began | Used | Ending) -> None:
        match record:
            case Began():
                session.open_calls[record.call] = record
                session.conversation = session.conversation or not record.api
                session.ended_ms = max(session.ended_ms, record.at_ms)
            case Used():
                if record.call in session.open_calls:
                    session.used[record.call] = record
                    if record.status is not None:
                        self._end_call(session, record)
            case Ending():
                session.ending = True
                self._release(session)

    def _end_call(self, session: Session, used: Used) -> None:
        began = session.open_calls.pop(used.call)
        del session.used[used.call]
        session.ended_ms = max(session.ended_ms, used.at_ms)
        session.calls += 1
        session.failed_calls += used.status != "success"
        session.calls_without_usage += not used.usage.known
        session.status = used.status or "success"
        session.error_code = used.error_code
        session.finish_reason = used.finish_reason
        session.streamed = used.streamed
        model = used.model or began.model
        if model and used.usage.known:
            known = model in session.models or len(session.models) < MODELS_MAX - 1
            session.models.setdefault(model if known else OTHER_MODELS, Totals()).add(used)
        elif used.usage.known:
            session.models.setdefault("", Totals()).add(used)
        if used.answer and not session.ending:
            session.answers.append(used.answer)
            self._by_key[used.answer] = session.ref
            for old in session.answers[:-ANSWERS_MAX]:
                self._forget(old, session.ref)
            del session.answers[:-ANSWERS_MAX]

    def _close(self, closed: Closed) -> None:
        session = self.open.pop(closed.ref, None)
        if session is not None:
            self._release(session)
        self.waiting[closed.sequence] = closed
        self.sequence = max(self.sequence, closed.sequence)

    def _release(self, session: Session) -> None:
        for key in (session.key, *session.answers):
            self._forget(key, session.ref)

    def _forget(self, key: str, ref: str) -> None:
        if self._by_key.get(key) == ref:
            del self._by_key[key]
