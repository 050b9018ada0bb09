"""What a program puts around its sessions, `session(…)`, and the runtime that it finds there, `get_runtime()`."""

from __future__ import annotations

import contextvars
import functools
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from adjourn.account import Account, outcome_of
from adjourn.clock import SystemClock
from adjourn.completion.receipts import Receipt
from adjourn.configfile import load
from adjourn.eventlog import get_logger
from adjourn.events import (
    Completion,
    MetadataPart,
    OutcomeStatus,
    SessionPart,
    SessionType,
    Transport,
    UserPart,
)
from adjourn.ids import new_id
from adjourn.runtime import Runtime

P = ParamSpec("P")
T = TypeVar("T")

_log = get_logger("adjourn.capture")
_default: Runtime | None = None
_default_lock = threading.Lock()
_clock = SystemClock()
_current: contextvars.ContextVar[session | None] = contextvars.ContextVar("adjourn_session", default=None)


def _after_fork() -> None:
    global _default_lock
    _default_lock = threading.Lock()  # a thread that is not here may have held it


os.register_at_fork(after_in_child=_after_fork)


def get_runtime() -> Runtime:
    """The process's own runtime, made at the first call: from ADJOURN_URL and ADJOURN_KEY if they are set, else
    embedded, with the settings of ./adjourn.yaml and the environment. Raises ConfigInvalid."""
    global _default
    with _default_lock:
        if _default is None or _default.stopped:
            settings = load(environ=os.environ, overrides={})
            _default = Runtime(settings, url=os.environ.get("ADJOURN_URL", ""), key=os.environ.get("ADJOURN_KEY", ""))
        return _default


def set_runtime(runtime: Runtime) -> None:
    """Make `runtime` the one that `get_runtime` gives."""
    global _default
    with _default_lock:
        _default = runtime


class session(Account):
    """A session from entry to exit, completed exactly once, however it ends.

        with adjourn.session(user_id="usr_1", model="gpt-4o") as s:
            s.add_usage(input_tokens=1250, output_tokens=890)

    Leaving normally is `success`; TimeoutError is `timeout`; being cancelled or interrupted is `user_terminated`; any
    other exception is `error` with its type as `error_code`, and passes on. `async with` and `@adjourn.session(…)` on
    functions, coroutine functions and generators of both kinds do the same; a decorated call is a session of its own,
    and finds it with `current_session()`. One of a generator lasts until that is exhausted or closed.
    """

    def __init__(
        self,
        *,
        user_id: str | None = None,
        model: str | None = None,
        session_id: str | None = None,
        session_type: SessionType = "chat",
        organization_id: str | None = None,
        tier: str | None = None,
        attempt: int | None = None,
        event_id: str | None = None,
        transport: Transport | None = None,
        custom_tags: Mapping[str, object] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__(model=model, custom_tags=custom_tags)
        self.session_id = session_id or new_id("sess", _clock.wall_ms())
        self.event_id = event_id
        """Of the completion. Without one it is derived from the session's id and attempt."""
        self.transport: Transport | None = transport
        self.receipt: Receipt | None = None
        """Of the completion, once the session has ended."""
        self._user = UserPart(user_id=user_id, organization_id=organization_id, tier=tier)
        self._session_type: SessionType = session_type
        self._given_id = session_id
        self._attempt = attempt
        self._runtime = runtime
        self._started: datetime | None = None
        self._started_s = 0.0
        self.outer: session | None = None
        """The one that it was begun inside of."""
        self.ended = False

    def set_user(self, user_id: str | None, *, organization_id: str | None = None, tier: str | None = None) -> None:
        """Say whose session it is, once that is known."""
        self._user = UserPart(user_id=user_id, organization_id=organization_id, tier=tier)

    @property
    def user_id(self) -> str | None:
        return self._user.user_id

    @property
    def status(self) -> OutcomeStatus | None:
        """How it ended, or what `end_as` has said by now."""
        return self._outcome.status

    def __enter__(self) -> Self:
        if self._started is not None:
            raise RuntimeError(f"session {self.session_id} was begun before; make a new adjourn.session for each run")
        self._started, self._started_s = datetime.now(UTC), _clock.monotonic()
        self.outer = current_session()
        _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = True
        # Not by a token: a generator may be left in another context than it was entered in.
        if _current.get() is self:
            _current.set(self.outer)
        if error is None:
            self._outcome.status = self._outcome.status or "success"
            self.receipt = self._captured()
            return
        self._outcome = outcome_of(error)
        try:
            self.receipt = self._captured()
        except Exception as refused:
            # What went wrong inside comes first; the program must not lose it to a full spool.
            error.add_note(f"adjourn: the completion of session {self.session_id} was not captured: {refused}")
            _log.error("completion_not_captured", session_id=self.session_id, error=str(refused))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """As a decorator. Raises ValueError with a fixed session_id or event_id: two calls would be one session."""
        if self._given_id is not None or self.event_id is not None:
            raise ValueError("a decorated function is a new session at each call; leave session_id and event_id out")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: P.args, **kwargs: P.kwargs) -> object:
                async with self._again():
                    return await function(*args, **kwargs)

            return cast("Callable[P, T]", run_async)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            return cast("Callable[P, T]", self._in_steps(function))

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._again():
                return function(*args, **kwargs)

        return run

    def _in_steps(self, function: Callable[P, object]) -> Callable[P, object]:
        """A generator of the same kind, each of whose steps is inside of a session that lasts until its end."""
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            async def run_async_steps(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[object, object]:
                with self._again()._between_steps() as place:
                    steps = function(*args, **kwargs)
                    step = steps.asend(None)
                    while True:
                        try:
                            with place:
                                item = await step
                        except StopAsyncIteration:
                            return
                        try:
                            step = steps.asend((yield item))
                        except BaseException as error:
                            step = steps.athrow(error)

            return run_async_steps
        assert inspect.isgeneratorfunction(function)

        @functools.wraps(function)
        def run_steps(*args: P.args, **kwargs: P.kwargs) -> Generator[object, object, object]:
            with self._again()._between_steps() as place:
                return (yield from _Steps(function(*args, **kwargs), place))

        return run_steps

    def _again(self) -> session:
        """A new session with the same parameters."""
        return session(
            user_id=self._user.user_id,
            model=self._usage.model,
            session_type=self._session_type,
            organization_id=self._user.organization_id,
            tier=self._user.tier,
            transport=self.transport,
            custom_tags=self._tags,
            runtime=self._runtime,
        )

    def begin_in_steps(self) -> Place:
        """Begin, without being inside of it: `with place:` is. Ends as always, by `__exit__`."""
        self.__enter__()
        _current.set(self.outer)
        return Place(self)

    @contextmanager
    def _between_steps(self) -> Generator[Place]:
        """Begun and ended with a generator, whose caller is not inside of it."""
        place = self.begin_in_steps()
        try:
            yield place
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        self.__exit__(None, None, None)

    def _captured(self) -> Receipt:
        return (self._runtime or get_runtime()).capture(self._completion())

    def _completion(self) -> Completion:
        assert self._started is not None
        ended = datetime.now(UTC)
        # Wall clocks step; the duration is from the one that does not, and the end is never before the start.
        duration_ms = round((_clock.monotonic() - self._started_s) * 1000)
        return Completion(
            event_id=self.event_id,
            timestamp=ended,
            session=SessionPart(
                session_id=self.session_id,
                session_type=self._session_type,
                start_time=self._started,
                end_time=max(ended, self._started),
                duration_ms=duration_ms,
                transport=self.transport,
                attempt=self._attempt,
            ),
            user=self._user,
            usage=self._usage,
            outcome=self._outcome,
            metadata=MetadataPart(custom_tags=self._tags) if self._tags else None,
        )


class Place:
    """Where what runs in steps is between two of them: `with place:` goes on there, and comes back."""

    def __init__(self, current: session) -> None:
        self._current: session | None = current

    def __enter__(self) -> None:
        self._outside = _current.get()
        _current.set(self._current)

    def __exit__(self, *_: object) -> None:
        self._current = _current.get()
        _current.set(self._outside)


class _Steps(Generator[object, object, object]):
    def __init__(self, steps: Generator[object, object, object], place: Place) -> None:
        self._steps = steps
        self._place = place

    def send(self, value: object, /) -> object:
        with self._place:
            return self._steps.send(value)

    def throw(self, error: Any, *more: Any) -> object:
        with self._place:
            return self._steps.throw(error, *more)


def current_session() -> session | None:
    """The innermost session that this thread or task is inside of."""
    found = _current.get()
    while found is not None and found.ended:
        found = found.outer
    return found
