"""What both clients share of watched sessions: what a program says of one while it is in it. No I/O."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import quote

import msgspec

from adjourn.errors import EventInvalid
from adjourn.events import OutcomePart, OutcomeStatus, SessionType, UsagePart, UserPart
from adjourn.sdk._client import Request
from adjourn.sdk.models import CompletedAnswer, SessionAnswer

SESSIONS_PATH = "/v1/sessions"
BEATS_PER_LEASE = 3
"""Two may be lost on the way before a session that lives is taken for dead."""

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Watched:
    """A session that the server watches."""

    def __init__(
        self,
        *,
        session_id: str | None,
        session_type: SessionType,
        user: UserPart,
        model: str | None,
        attempt: int,
        lease_ms: int | None,
        custom_tags: Mapping[str, object] | None,
    ) -> None:
        self.answer: SessionAnswer | None = None
        """What the server says of it, once it has begun."""
        self.completed: CompletedAnswer | None = None
        """What became of its completion, once it has ended."""
        self._token = os.urandom(16).hex()
        self._given_id = session_id
        self._session_type = session_type
        self._user = user
        self._attempt = attempt
        self._lease_ms = lease_ms
        self._lock = threading.Lock()  # a heartbeat of another thread must not see half of an addition
        self._usage = UsagePart(model=model)
        self._said: UsagePart | None = None
        self._outcome = OutcomePart()
        self._tags: dict[str, msgspec.Raw] = {}
        self._began_s = 0.0
        self.tag(**(custom_tags or {}))

    @property
    def session_id(self) -> str:
        """Its own, or the one that the server gave it when it began. Raises RuntimeError before that."""
        if self.answer is not None:
            return self.answer.session_id
        if self._given_id is None:
            raise RuntimeError("this session has no id before it has begun; enter it, or give it a session_id")
        return self._given_id

    def add_usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_input_tokens: int = 0,
        cache_creation_input_tokens: int = 0,
        reasoning_output_tokens: int = 0,
        tool_calls: int = 0,
        cost_usd: Decimal | None = None,
        model: str | None = None,
    ) -> None:
        """Add what one call used; calls add up, and the next heartbeat tells the server the sum. Input includes cached
        tokens, output includes reasoning ones."""
        with self._lock:
            old = self._usage
            new = UsagePart(
                input_tokens=(old.input_tokens or 0) + input_tokens,
                output_tokens=(old.output_tokens or 0) + output_tokens,
                cache_read_input_tokens=_sum(old.cache_read_input_tokens, cache_read_input_tokens),
                cache_creation_input_tokens=_sum(old.cache_creation_input_tokens, cache_creation_input_tokens),
                reasoning_output_tokens=_sum(old.reasoning_output_tokens, reasoning_output_tokens),
                tool_calls=_sum(old.tool_calls, tool_calls),
                model=model or old.model,
                estimated_cost_usd=old.estimated_cost_usd,
            )
            new.total_tokens = (new.input_tokens or 0) + (new.output_tokens or 0)
            if cost_usd is not None:
                new.estimated_cost_usd = (old.estimated_cost_usd or Decimal(0)) + cost_usd
            self._usage = new

    def tag(self, /, **tags: object) -> None:
        """Put custom tags on the completion, as they are now. Raises EventInvalid for what JSON cannot express."""
        for name, value in tags.items():
            try:
                self._tags[name] = msgspec.Raw(_encode(value))
            except (TypeError, ValueError, RecursionError, OverflowError) as error:
                raise EventInvalid(
                    f"the tag {name!r} cannot be written as JSON ({error}); use JSON's types", path=name
                ) from error

    def end_as(self, status: OutcomeStatus, *, error_code: str | None = None, final_message: str | None = None) -> None:
        """Say how it ended, where that is not what leaving the block would say."""
        self._outcome = OutcomePart(status=status, error_code=error_code, final_message=final_message)

    # --- for the clients -----------------------------------------------------------------------------------------

    def begin_request(self) -> Request:
        self._began_s = time.monotonic()
        body: dict[str, object] = {
            "session_id": self._given_id,
            "session_type": self._session_type,
            "start_time": datetime.now(UTC),
            "attempt": self._attempt,
            "lease_ms": self._lease_ms,
            "user": self._user,
            "usage": self._usage,
            "metadata": self._metadata(),
        }
        present = {name: value for name, value in body.items() if value is not None}
        headers = {"content-type": "application/json", "idempotency-key": self._token}
        return Request("POST", f"{SESSIONS_PATH}/begin", headers, _encode(present))

    def heartbeat_request(self) -> Request:
        """With the usage, if it has changed since one was answered."""
        usage = self._usage
        self._saying = usage
        return self._request("heartbeat", {} if usage is self._said else {"usage": usage})

    def heard(self) -> float:
        """The last heartbeat was answered; seconds until the next."""
        self._said = self._saying
        return self.beat_s

    @property
    def beat_s(self) -> float:
        assert self.answer is not None
        return self.answer.lease_ms / 1000 / BEATS_PER_LEASE

    def complete_request(self, error: BaseException | None) -> Request:
        outcome = self._outcome if error is None else outcome_of(error)
        outcome.status = outcome.status or "success"
        more = {} if (metadata := self._metadata()) is None else {"metadata": metadata}
        # Wall clocks step; the duration is from the one that does not.
        duration_ms = round((time.monotonic() - self._began_s) * 1000)
        return self._request("complete", {"duration_ms": duration_ms, "usage": self._usage, "outcome": outcome, **more})

    def _request(self, verb: str, body: Mapping[str, object]) -> Request:
        return Request(
            "POST",
            f"{session_path(self.session_id)}/{verb}",
            {"content-type": "application/json"},
            _encode({"attempt": self._attempt, **body}),
        )

    def _metadata(self) -> dict[str, object] | None:
        return {"custom_tags": self._tags} if self._tags else None


def session_path(session_id: str) -> str:
    # An id may be `..`, which would be taken for a step up.
    return f"{SESSIONS_PATH}/{quote(session_id, safe='').replace('.', '%2E')}"


def outcome_of(error: BaseException) -> OutcomePart:
    """How a session ended that this left: as `adjourn.session` has it."""
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return OutcomePart(status="timeout", error_code=name)
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit):
        return OutcomePart(status="user_terminated", error_code=name)
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return OutcomePart(status="success")
    return OutcomePart(status="error", error_code=name)


def _sum(so_far: int | None, more: int) -> int | None:
    return (so_far or 0) + more if more or so_far is not None else None
