"""Requests that bring one event each: those of one turn of the event loop are taken together.

Most senders post each session's end by itself. One such request needs no task and no coroutine of its own: it is known
by its headers, waits in a list until the turn ends, and the list is validated, written and answered as one. What is
unlike that (a body in pieces, compressed, or of many events; a key that must be looked up) goes the long way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from adjourn.completion.results import Result
from adjourn.completion.service import Ingest
from adjourn.errors import AdjournError
from adjourn.http import bodies

BODY_BYTES_MAX = 64 * 1024

_KINDS: Final[dict[bytes, bool]] = {
    b"application/json": False,
    b"application/json; charset=utf-8": False,
    bodies.NDJSON.encode(): True,
}
"""Content types that are looked at here; True where a line break may end the event."""
_LONG_WAY: Final = (b"content-encoding", b"adjourn-producer", b"ce-specversion")
"""Headers that ask for more than one event as it is."""

Answered = Callable[[Result | AdjournError | Exception], None]


class Waiting(msgspec.Struct, gc=False):
    body: bytes
    answered: Answered


def event_of(headers: dict[bytes, bytes], body: bytes) -> bytes | None:
    """The one event that this request brings, as `bodies.split` would find it; None: look closer."""
    may_end = _KINDS.get(headers.get(b"content-type", b""))
    if may_end is None or body[:1] != b"{" or len(body) > BODY_BYTES_MAX:
        return None
    for name in _LONG_WAY:
        if name in headers:
            return None
    if may_end and body[-1:] == b"\n":
        body = body[:-1]
    return None if b"\n" in body else body


class Singles:
    """Of one event loop."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._waiting: dict[str, list[Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, tenant: str, body: bytes, answered: Answered) -> None:
        """`answered` is called once, later, with what became of the event or with why nothing is claimed of it."""
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        mine = waiting.get(tenant)
        if mine is None:
            waiting[tenant] = [Waiting(body, answered)]
        else:
            mine.append(Waiting(body, answered))

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for tenant, requests in waiting.items():
            task = asyncio.ensure_future(self._take(tenant, requests))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, tenant: str, requests: Sequence[Waiting]) -> None:
        try:
            results = await self._ingest.take(tenant, [request.body for request in requests], source="http")
        except Exception as error:
            for request in requests:
                request.answered(error)
            return
        for request, result in zip(requests, results, strict=True):
            request.answered(result)
