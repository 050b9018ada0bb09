"""A client of `/v1/stream` for tests: messages as the standard's parser gives them, and the last id that it keeps."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
from tests.http.serving import Serving

SILENCE_S = 60.0
"""How long a stream may say nothing before the test fails; it beats every 15 s, or as a test has it."""


class Message(NamedTuple):
    """`kind` is `message` for events, else the `event` field. For tests, comments are messages too, of the kind
    `comment`, and what carries no data of the kind `mark`."""

    kind: str
    data: Any


class Client:
    def __init__(self, response: httpx.Response, last_id: str = "") -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.last_id = last_id
        self.retry_ms = 0
        self.ended = False
        self._messages = self._read(response)

    def __iter__(self) -> Iterator[Message]:
        return self._messages

    def events(self, count: int) -> list[str]:
        """The ids of the next events, comments left out."""
        found: list[str] = []
        while len(found) < count:
            message = next(self._messages)
            if message.kind == "message":
                found.append(message.data["event"]["event_id"])
        return found

    def next_of(self, kind: str) -> Message:
        return next(message for message in self._messages if message.kind == kind)

    def _read(self, response: httpx.Response) -> Generator[Message]:
        kind, data = "message", ""
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                yield Message("comment", line[2:])
            elif name == "id":
                self.last_id = value
            elif name == "event":
                kind = value
            elif name == "retry":
                self.retry_ms = int(value)
            elif name == "data":
                data = value
            elif not line and data:
                yield Message(kind, json.loads(data))
                kind, data = "message", ""
            elif not line:
                yield Message("mark", self.last_id)
        self.ended = True


@contextmanager
def streaming(
    server: Serving, query: str = "", *, last_id: str = "", who: str = "acme/reader", timeout_s: float = SILENCE_S
) -> Generator[Client]:
    headers: Mapping[str, str] = {**server.bearer(who), **({"last-event-id": last_id} if last_id else {})}
    with httpx.Client(base_url=server.url, timeout=timeout_s, trust_env=False) as client:
        with client.stream("GET", f"/v1/stream{query}", headers=headers) as response:
            if response.status_code != 200:
                response.read()
            yield Client(response, last_id)
