"""A hosted session from entry to exit; the synchronous one is generated from this file."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from adjourn.account import outcome_of
from adjourn.errors import AdjournError, NotFound, SessionEnded, TurnRunning
from adjourn.sdk import _sessions as hosting
from adjourn.sdk._async_events import AsyncTurn
from adjourn.sdk.models_sessions import AppendedAnswer, Part, Pattern, SentAnswer, SessionAnswer

if TYPE_CHECKING:
    from adjourn.sdk._async_sessions import AsyncSessions


class AsyncHosted:
    """One hosted session; `AsyncSessions.session` makes it.

    Entering creates it. Leaving completes it, unless it has ended: normally as `success`, by TimeoutError as `timeout`,
    by any other exception as `error`, and that passes on. One whose turn still runs is terminated."""

    def __init__(self, sessions: AsyncSessions, pattern: Pattern, new: hosting.NewSession) -> None:
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

    async def send(self, said: str | Sequence[Part], **how: Unpack[hosting.Asking]) -> SentAnswer:
        """Run a turn, and wait for its end."""
        sent = await self.sessions.send(self.id, said, **how)
        self.answer = sent.session
        return sent

    def stream(self, said: str | Sequence[Part], **how: Unpack[hosting.Asking]) -> AsyncTurn:
        """Run a turn, and iterate over what happens in it."""
        return self.sessions.stream(self.id, said, **how)

    async def append(self, said: str | Sequence[Part], **how: Unpack[hosting.Saying]) -> AppendedAnswer:
        """Add a message without a turn."""
        return await self.sessions.append(self.id, said, **how)

    async def __aenter__(self) -> AsyncHosted:
        self.answer = await self.sessions.create(self._pattern, idempotency_key=self._key, **self._new)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.answer = await self._end(error)
        except AdjournError as refused:
            if error is None:
                raise
            # What went wrong inside comes first.
            error.add_note(f"adjourn: session {self.id} was not completed: {refused}")

    async def _end(self, error: BaseException | None) -> SessionAnswer | None:
        outcome = None if error is None else outcome_of(error)
        status = "success" if outcome is None else outcome.status or "success"
        code = "" if outcome is None else outcome.error_code or ""
        try:
            return await self.sessions.complete(self.id, outcome=status, error_code=code)
        except TurnRunning:
            return await self.sessions.terminate(self.id)
        except SessionEnded:
            return await self.sessions.get(self.id)
        except NotFound:  # it has ended, and was deleted
            return self.answer
