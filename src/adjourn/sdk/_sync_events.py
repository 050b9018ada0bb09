"""The synchronous client. Generated from _async_events.py by `python -m adjourn.sdk.generate`: edit that file."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType

import msgspec

from adjourn.errors import AdjournError, Unavailable
from adjourn.sdk import _client as client
from adjourn.sdk._sessions import Progress
from adjourn.sdk._sync_wire import Wire
from adjourn.sdk.models_events import SessionEvent
from adjourn.sdk.models_sessions import SentAnswer, TurnAnswer
from adjourn.typed import decoder


class Events:
    """Iterate over it: nothing is asked before. When the connection breaks off it is taken up again, and each event
    comes once. Whoever leaves before the end closes it, or uses it in a `with` block.

    A server that stays away is given up as with any other request; iterating again then goes on where it was."""

    def __init__(self, wire: Wire, request: client.Request, *, after: int = 0) -> None:
        self._wire = wire
        self._request = request
        self._progress = Progress(after)
        self._events = self._read()

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> SessionEvent:
        try:
            return next(self._events)
        except StopIteration:
            raise
        except BaseException:
            self._events = self._read()
            raise

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._events.close()

    def _read(self) -> Generator[SessionEvent]:
        progress, tries = self._progress, client.Tries()
        while True:
            tries.count += 1
            progress.begin()
            asked = client.with_headers(self._request, progress.headers())
            error: AdjournError | None = None
            status = 0
            try:
                with self._wire.lines(asked) as lines:
                    if not isinstance(lines, client.Answer):
                        for line in lines:
                            if (event := progress.feed(line)) is not None:
                                over = self._is_over(event)
                                yield event
                                if over:
                                    return
                    elif lines.status == 204:
                        return
                    else:
                        error, status = self._wire.no_stream(lines), lines.status
            except Unavailable as broken:
                error = broken
            except msgspec.DecodeError as wrong:
                raise client.no_event(self._wire.server, str(wrong)) from None
            if progress.heard:
                tries = client.Tries(count=1)
            if error is None and progress.retry_ms == 0:
                if progress.heard:  # it is over, or goes on elsewhere: the next answer says which
                    tries.count = 0
                    continue
                if self._has_ended():
                    return
            error = error or client.cut_off(self._wire.server, progress.retry_ms)
            self._wire.wait(error, status, "always", tries)

    def _is_over(self, event: SessionEvent) -> bool:
        return False

    def _has_ended(self) -> bool:
        """Asked where a stream ends and has told nothing."""
        return False


class Turn(Events):
    """A turn as it happens: its events, the last of which is `turn_ended`. The turn begins when the first is asked for,
    and runs once, however often the connection breaks off."""

    def __init__(self, wire: Wire, streamed: client.Request, whole: client.Request) -> None:
        super().__init__(wire, streamed)
        self._whole = whole
        self.turn: TurnAnswer | None = None
        """What came of it, once it has ended."""

    def __enter__(self) -> Turn:
        return self

    def answer(self) -> SentAnswer:
        """What came of it; waits for its end."""
        for _ in self:
            pass
        return self._wire.ask(self._whole, SentAnswer)

    def _is_over(self, event: SessionEvent) -> bool:
        if event.type == "turn_ended":
            self.turn = decoder(TurnAnswer).decode(event.data)
            return True
        return False

    def _has_ended(self) -> bool:
        # A turn that waited, and whose session ended before it began, tells nothing.
        self.turn = (self._wire.ask(self._whole, SentAnswer)).turn
        return True
