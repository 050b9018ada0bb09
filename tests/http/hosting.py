"""Hosted sessions over HTTP, for tests: what a client says, and what it gets."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from tests.http.serving import Serving
from tests.http.streaming import SILENCE_S, Client, Message

DEADLINE_S = 60.0


def created(server: Serving, pattern: str = "hybrid", *, who: str = "acme/admin", **new: Any) -> dict[str, Any]:
    """A session that was just made."""
    answer = server.request("POST", "/v1/sessions", who=who, json={"pattern": pattern, **new})
    assert answer.status_code == 201, answer.text
    return answer.json()


def say(server: Serving, session: Mapping[str, Any], text: str = "hello", **message: Any) -> httpx.Response:
    headers = message.pop("headers", {})
    body = {"prompt": text, **message}
    return server.request("POST", f"/v1/sessions/{session['id']}/messages", json=body, headers=headers)


def shown(server: Serving, session: Mapping[str, Any], *, who: str = "acme/admin") -> dict[str, Any]:
    return server.get(f"/v1/sessions/{session['id']}", who=who).json()


def events(server: Serving, session: Mapping[str, Any], after: int = 0) -> list[dict[str, Any]]:
    """All of them, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        page = server.get(f"/v1/sessions/{session['id']}/events?after={after}&limit=7").json()
        if not page["events"]:
            return found
        found, after = found + page["events"], page["next_after"]


def until(true: Callable[[], Any]) -> Any:
    """What it says, once that is something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (said := true()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return said


@contextmanager
def turning(
    server: Serving,
    session: Mapping[str, Any],
    text: str = "hello",
    *,
    last_id: str = "",
    key: str = "",
    **message: Any,
) -> Generator[Client]:
    """A turn as server-sent events."""
    headers = {**server.bearer(), **({"last-event-id": last_id} if last_id else {})}
    headers |= {"idempotency-key": key} if key else {}
    body = {"prompt": text, "stream": True, **message}
    with httpx.Client(base_url=server.url, timeout=SILENCE_S, trust_env=False) as client:
        path = f"/v1/sessions/{session['id']}/messages"
        with client.stream("POST", path, headers=headers, json=body) as response:
            if response.status_code != 200:
                response.read()
            yield Client(response, last_id)


@contextmanager
def watching(
    server: Serving, session: Mapping[str, Any], query: str = "", *, last_id: str = "", who: str = "acme/reader"
) -> Generator[Client]:
    """A session's events as server-sent events."""
    headers = {**server.bearer(who), "accept": "text/event-stream", **({"last-event-id": last_id} if last_id else {})}
    with httpx.Client(base_url=server.url, timeout=SILENCE_S, trust_env=False) as client:
        with client.stream("GET", f"/v1/sessions/{session['id']}/events{query}", headers=headers) as response:
            if response.status_code != 200:
                response.read()
            yield Client(response, last_id)


def told(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The events of a stream, to its end; comments and marks left out."""
    return [message.data for message in messages if message.kind not in ("comment", "mark")]


def text_of(found: list[dict[str, Any]]) -> str:
    return "".join(event["data"]["text"] for event in found if event["type"] == "text_delta")
