"""Writes down what happens to calls, each record before it counts, and closes sessions at their end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from adjourn.clock import Clock
from adjourn.eventlog import get_logger
from adjourn.gateway import requests
from adjourn.gateway.completions import completion_of
from adjourn.gateway.journal import Journal
from adjourn.gateway.sessions import Began, Closed, Ending, Opened, Record, Session, Status, Taken, Used
from adjourn.gateway.usage import Reading, Usage
from adjourn.ids import derived_event_id, new_id
from adjourn.prices import PriceTable

OPEN_MAX = 100_000
"""Sessions open at once; past it, those that have been silent for longest are ended."""
INTERRUPTED = "gateway_interrupted"

_log = get_logger("adjourn.gateway")

Headers = Sequence[tuple[bytes, bytes]]


class Call(msgspec.Struct):
    """One that is under way."""

    ref: str
    id: str
    credential: bytes
    model: str
    ends_session: bool
    continues: bool
    """A later call may continue from its answer, by the answer's id."""


class Recorder:
    def __init__(self, journal: Journal, prices: PriceTable, clock: Clock, *, idle_s: float) -> None:
        """Continues what the journal holds. Raises OSError if it cannot be written."""
        self._journal = journal
        self._prices = prices
        self._clock = clock
        self._idle_s = idle_s
        self.sessions = journal.open()
        self.keys = requests.Keys(self.sessions.salt)
        self._touched: dict[str, float] = {}
        """When each open session was last active, monotonic; the one silent for longest first."""
        self._resume()

    def begin(self, asked: requests.Asked, headers: Headers, address: str, path: str) -> Call:
        given = dict(headers)
        credential = self.keys.credential(headers)
        session_id = requests.id_of(given.get(requests.SESSION_HEADER, b"").decode("latin-1")) or asked.session_id
        agent = given.get(b"user-agent", b"")
        key, previous = self.keys.of_call(credential, asked, session_id, agent, address)
        now_ms = self._clock.wall_ms()
        call = os.urandom(8).hex()
        session = self.sessions.find(previous) or self.sessions.find(key)
        if session is None:
            ref = derived_event_id(key, call, 1)
            self._note(
                Opened(
                    ref=ref,
                    key=key,
                    session_id=session_id or new_id("sess", now_ms),
                    at_ms=now_ms,
                    user_id=asked.user_id,
                    client=_printable(agent),
                    address=address,
                )
            )
        else:
            ref = session.ref
        self._note(Began(ref, call, now_ms, model=asked.model, api=requests.is_api_call(path)))
        self._touch(ref)
        return Call(
            ref, call, credential, asked.model, _is_true(given.get(requests.END_HEADER, b"")), requests.gives_id(path)
        )

    def used(
        self, call: Call, reading: Reading, *, streamed: bool, status: Status | None = None, error_code: str = ""
    ) -> None:
        """What the call's answer has said so far; `status` ends it."""
        usage, model, now_ms = reading.usage, reading.model or call.model, self._clock.wall_ms()
        answer = reading.response_id if call.continues else ""
        self._note(
            Used(
                ref=call.ref,
                call=call.id,
                at_ms=now_ms,
                usage=usage,
                model=model,
                cost_nanousd=self._cost(model, usage, now_ms),
                status=status,
                error_code=error_code,
                finish_reason=reading.finish_reason,
                streamed=streamed,
                answer=self.keys.response(call.credential, answer) if answer else "",
            )
        )
        if status is None:
            return
        self._touch(call.ref)
        if call.ends_session:
            self._end(call.ref)
        else:
            self._close_if_over(call.ref)

    def end_session(self, headers: Headers, session_id: str) -> bool:
        """Whether there was one."""
        session = self.sessions.find(self.keys.explicit(self.keys.credential(headers), session_id))
        if session is None:
            return False
        self._end(session.ref)
        return True

    def sweep(self) -> None:
        """Close what has been silent for long enough, what was told to end and could not yet be closed, and the oldest
        of too many; mend the journal if that is due."""
        now, excess = self._clock.monotonic(), len(self.sessions.open) - OPEN_MAX
        for ref, touched in list(self._touched.items()):
            session = self.sessions.open.get(ref)
            if session is None or session.open_calls:
                continue
            if now - touched >= self._idle_s or session.ending or excess > 0:
                excess -= 1
                self._close(session)
        if self._journal.due:
            try:
                self._journal.rewrite(self.sessions)
            except OSError as error:
                _log.error("gateway_journal_failed", error=error.strerror or str(error))

    def taken(self, sequence: int) -> None:
        self._note(Taken(sequence))

    def flush(self) -> None:
        """From any thread. What is told elsewhere from now on is on the disk here first."""
        self._journal.flush()

    def close(self) -> None:
        self._journal.close()

    # --- one record after another

    def _note(self, record: Record) -> None:
        # In memory even if the disk does not take it: the journal is rewritten from there when it does again.
        self._journal.append(record)
        self.sessions.apply(record)

    def _touch(self, ref: str) -> None:
        self._touched.pop(ref, None)
        self._touched[ref] = self._clock.monotonic()

    def _end(self, ref: str) -> None:
        self._note(Ending(ref))
        self._close_if_over(ref)

    def _close_if_over(self, ref: str) -> None:
        session = self.sessions.open.get(ref)
        if session is not None and session.ending and not session.open_calls:
            self._close(session)

    def _close(self, session: Session) -> None:
        sequence = self.sessions.sequence + 1
        closed = Closed(session.ref, sequence, msgspec.Raw(completion_of(session)))
        # Sent only once it is written: or another could be sent under the same number after a crash, and be taken for
        # a repetition. Until then the session stays open, and the next sweep tries again.
        if self._journal.append(closed):
            self.sessions.apply(closed)
            self._touched.pop(session.ref, None)

    def _resume(self) -> None:
        """Calls of a gateway that died are over; sessions go on from when they were last active."""
        wall_ms, now = self._clock.wall_ms(), self._clock.monotonic()
        for session in sorted(self.sessions.open.values(), key=lambda session: session.ended_ms):
            for call, began in list(session.open_calls.items()):
                so_far = session.used.get(call) or Used(session.ref, call, began.at_ms, Usage(), model=began.model)
                self._note(msgspec.structs.replace(so_far, status="error", error_code=INTERRUPTED))
            self._touched[session.ref] = now - max(0.0, (wall_ms - session.ended_ms) / 1000)

    def _cost(self, model: str, usage: Usage, now_ms: int) -> int | None:
        if not model or not usage.known:
            return None
        cost, _ = self._prices.cost(
            model,
            datetime.fromtimestamp(now_ms / 1000, UTC),
            usage.input_tokens or 0,
            usage.output_tokens or 0,
            usage.cache_read_input_tokens or 0,
            usage.cache_creation_input_tokens or 0,
        )
        return cost


def _is_true(value: bytes) -> bool:
    return value.strip().lower() in (b"1", b"true", b"yes")


def _printable(value: bytes) -> str:
    text = value.decode("latin-1")[:200].strip()
    return text if text.isprintable() else ""
