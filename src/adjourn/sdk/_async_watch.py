"""Watched sessions; the synchronous ones are generated from this file."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from adjourn.errors import AdjournError, NotFound, SessionEnded
from adjourn.events import SessionType, UserPart
from adjourn.sdk import _watch as watching
from adjourn.sdk._async_wire import AsyncWire
from adjourn.sdk.beat_service import AsyncBeat
from adjourn.sdk.models import CompletedAnswer, WatchedAnswer


class AsyncWatch(watching.Watched):
    """One watched session; `AsyncSessions.watch` makes it.

    Entering begins it and raises what `AsyncClient` raises, and SessionExists. Leaving completes it: normally as
    `success`, by TimeoutError as `timeout`, cancelled or interrupted as `user_terminated`, by any other exception as
    `error`, and that passes on."""

    def __init__(
        self,
        wire: AsyncWire,
        *,
        session_id: str | None,
        session_type: SessionType,
        user: UserPart,
        model: str | None,
        attempt: int,
        lease_ms: int | None,
        custom_tags: Mapping[str, object] | None,
    ) -> None:
        super().__init__(
            session_id=session_id,
            session_type=session_type,
            user=user,
            model=model,
            attempt=attempt,
            lease_ms=lease_ms,
            custom_tags=custom_tags,
        )
        self._wire = wire
        self._beat: AsyncBeat | None = None

    async def __aenter__(self) -> AsyncWatch:
        self.answer = await self._wire.ask(self.begin_request(), WatchedAnswer)
        self._beat = AsyncBeat(self._heartbeat, self.beat_s)
        self._beat.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._beat is not None
        await self._beat.stop()
        try:
            self.completed = await self._wire.ask(self.complete_request(error), CompletedAnswer)
        except AdjournError as refused:
            if error is None:
                raise
            # What went wrong inside comes first.
            error.add_note(f"adjourn: the completion of session {self.session_id} was not taken: {refused}")

    async def _heartbeat(self) -> float | None:
        """Seconds until the next; None where no more are taken, and only the completion is left to say."""
        try:
            await self._wire.ask(self.heartbeat_request(), object, again="never")
        except (SessionEnded, NotFound):
            return None
        except AdjournError:
            return self.beat_s / 4  # the lease is running
        return self.heard()
