"""One way to use a client of either kind, so that each test runs with both."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from adjourn.errors import AdjournError
from adjourn.sdk import AsyncClient, Client

Act = Callable[[Any], Any]
Talk = Callable[..., Any]

KEY = "adj_s3cret0123456789"
EVENT = b'{"event_id":"evt_0","session":{"session_id":"sess_1"}}'


def talk_async(act: Act, url: str, key: str | None = KEY, **options: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(url, key, **options) as client:
            return await cast("Awaitable[Any]", act(client))

    return asyncio.run(main())


def talk_sync(act: Act, url: str, key: str | None = KEY, **options: Any) -> Any:
    with Client(url, key, **options) as client:
        return act(client)


def send(*events: bytes, **producer: Any) -> Act:
    return lambda client: client.send(events or [EVENT], **producer)


def refused(talk: Talk, act: Act, url: str, **options: Any) -> AdjournError:
    """The error that it ends in, which does not show the key."""
    with pytest.raises(AdjournError) as caught:
        talk(act, url, **options)
    assert KEY not in f"{caught.value!r}{caught.value}{caught.value.message}"
    return caught.value


# --- longer talks, written once -------------------------------------------------------------------------------------


class Awaited:
    """A client of the synchronous kind, or what it gave, for tests that await: each call in a thread of its own."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._value, name)
        return (lambda *a, **kw: Called(value, a, kw)) if inspect.ismethod(value) else _wrapped(value)

    async def __aenter__(self) -> Any:
        return _wrapped(await asyncio.to_thread(self._value.__enter__))

    async def __aexit__(self, *error: Any) -> Any:
        return await asyncio.to_thread(self._value.__exit__, *error)

    async def __aiter__(self) -> AsyncGenerator[Any]:
        end = object()
        while (each := await asyncio.to_thread(next, self._value, end)) is not end:
            yield each


class Called(Awaited):
    """A call that is made when it is awaited, entered or iterated over."""

    def __init__(self, method: Any, args: Any, kwargs: Any) -> None:
        self._call = functools.partial(method, *args, **kwargs)

    @functools.cached_property
    def _value(self) -> Any:  # type: ignore[override]  # what the call gives
        return self._call()

    def __await__(self) -> Any:
        return asyncio.to_thread(lambda: _wrapped(self._call())).__await__()


def _wrapped(value: Any) -> Any:
    public = type(value).__module__.startswith("adjourn.sdk._")
    return Awaited(value) if public or inspect.isgenerator(value) else value


@asynccontextmanager
async def open_async(url: str, key: str, **options: Any) -> AsyncGenerator[Any]:
    async with AsyncClient(url, key, **options) as client:
        yield client


@asynccontextmanager
async def open_sync(url: str, key: str, **options: Any) -> AsyncGenerator[Any]:
    with Client(url, key, **options) as client:
        yield Awaited(client)
