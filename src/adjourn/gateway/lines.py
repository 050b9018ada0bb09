"""The connections to the upstream, and the answers that come over them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

import aiohttp


class _Line(Protocol):
    @property
    def closed(self) -> asyncio.Future[None] | None: ...


class Lines:
    """Ends an answer whose connection is gone. aiohttp ends most; of one that turns into nonsense behind its head it
    closes the connection and tells nobody (3.14), and the reader would wait for ever."""

    def __init__(self) -> None:
        self._answers: WeakKeyDictionary[_Line, aiohttp.StreamReader] = WeakKeyDictionary()

    def watch(self, answer: aiohttp.ClientResponse) -> None:
        line: _Line | None = answer.connection.protocol if answer.connection is not None else None
        if line is None:  # it is whole
            return
        closed = line.closed
        if closed is None:
            _end(answer.content)
            return
        if line not in self._answers:
            closed.add_done_callback(partial(self._lost, line))
        self._answers[line] = answer.content

    def _lost(self, line: _Line, closed: asyncio.Future[None]) -> None:
        if not closed.cancelled():
            closed.exception()  # or asyncio would log that nobody has asked
        if (content := self._answers.pop(line, None)) is not None:
            _end(content)


def _end(content: aiohttp.StreamReader) -> None:
    if not content.is_eof() and content.exception() is None:
        content.set_exception(aiohttp.ClientPayloadError("the answer breaks off, or turns into what is no HTTP"))
