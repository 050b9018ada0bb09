"""The synchronous client. Generated from _async_hosted.py by `python -m adjourn.sdk.generate`: edit that file."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from adjourn.account import outcome_of
from adjourn.errors import AdjournError, NotFound, SessionEnded, TurnRunning
from adjourn.sdk import _sessions as hosting
from adjourn.sdk._sync_events import Turn
from adjourn.sdk.models_sessions import AppendedAnswer, Part, Pattern, SentAnswer, SessionAnswer

if TYPE_CHECKING:
    from adjourn.sdk._sync_sessions import Sessions


class Hosted:
    """One hosted session; `Sessions.session` makes it.

    Entering creates it. Leaving completes it, unless it has ended: normally as `success`, by TimeoutError as `timeout`,
    by any other exception as `error`, and that passes on. One whose turn still runs is terminated."""

    def __init__(self, sessions: Sessions, pattern: Pattern, new: hosting.NewSession) -> None:
        self.sessions = sessions
        self.answer: SessionAnswer | None = None
        """As the server said last what it is."""
        self._pattern: Pattern = pattern
        self._new = new
        self._key = hosting.token()

    @property
    def id(self) -> str:
        """Raises RuntimeError before it was entered."""
        if self.answer is None:
            raise RuntimeError("this session has no id before it has begun; enter it")
        return self.answer.id

    def send(self, said: str | Sequence[Part], **how: Unpack[hosting.Asking]) -> SentAnswer:
        """Run a turn, and wait for its end."""
        sent = self.sessions.send(self.id, said, **how)
        self.answer = sent.session
        return sent

    def stream(self, said: str | Sequence[Part], **how: Unpack[hosting.Asking]) -> Turn:
        """Run a turn, and iterate over what happens in it."""
        return self.sessions.stream(self.id, said, **how)

    def append(self, said: str | Sequence[Part], **how: Unpack[hosting.Saying]) -> AppendedAnswer:
        """Add a message without a turn."""
        return self.sessions.append(self.id, said, **how)

    def __enter__(self) -> Hosted:
        self.answer = self.sessions.create(self._pattern, idempotency_key=self._key, **self._new)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.answer = self._end(error)
        except AdjournError as refused:
            if error is None:
                raise
            # What went wrong inside comes first.
            error.add_note(f"adjourn: session {self.id} was not completed: {refused}")

    def _end(self, error: BaseException | None) -> SessionAnswer | None:
        outcome = None if error is None else outcome_of(error)
        status = "success" if outcome is None else outcome.status or "success"
        code = "" if outcome is None else outcome.error_code or ""
        try:
            return self.sessions.complete(self.id, outcome=status, error_code=code)
        except TurnRunning:
            return self.sessions.terminate(self.id)
        except SessionEnded:
            return self.sessions.get(self.id)
        except NotFound:  # it has ended, and was deleted
            return self.answer
