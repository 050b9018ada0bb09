"""One way to use a client of either kind, so that each test runs with both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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
