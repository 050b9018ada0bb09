"""What both clients share of watched sessions: what a program says of one while it is in it. No I/O."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from adjourn.account import Account, outcome_of
from adjourn.events import SessionType, UsagePart, UserPart
from adjourn.sdk._client import Request
from adjourn.sdk.models import CompletedAnswer, WatchedAnswer

SESSIONS_PATH = "/v1/sessions"
WATCHED_PATH = "/v1/watched-sessions"
BEATS_PER_LEASE = 3
"""Two may be lost on the way before a session that lives is taken for dead."""

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Watched(Account):
    """A session that the server watches; each heartbeat tells it the usage so far."""

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
        super().__init__(model=model, custom_tags=custom_tags)
        self.answer: WatchedAnswer | None = None
        """What the server says of it, once it has begun."""
        self.completed: CompletedAnswer | None = None
        """What became of its completion, once it has ended."""
        self._token = os.urandom(16).hex()
        self._given_id = session_id
        self._session_type = session_type
        self._user = user
        self._attempt = attempt
        self._lease_ms = lease_ms
        self._said: UsagePart | None = None
        self._began_s = 0.0

    @property
    def session_id(self) -> str:
        """Its own, or the one that the server gave it when it began. Raises RuntimeError before that."""
        if self.answer is not None:
            return self.answer.session_id
        if self._given_id is None:
            raise RuntimeError("this session has no id before it has begun; enter it, or give it a session_id")
        return self._given_id

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
    return f"{SESSIONS_PATH}/{_quoted(session_id)}"


def watched_path(session_id: str) -> str:
    """Where one is looked up."""
    return f"{WATCHED_PATH}/{_quoted(session_id)}"


def _quoted(session_id: str) -> str:
    # An id may be `..`, which would be taken for a step up.
    return quote(session_id, safe="").replace(".", "%2E")
