"""Programs that capture by HTTP until they are told to finish, and then say what became of each call. One per process:

python -m tests.faults.capturers runtime|client|patient|plain URL NAME DIRECTORY

- `runtime`: `adjourn.Runtime(url=…)`, whose spool takes the event and whose thread sends it
- `client`: the SDK's client as it comes, with the retries that it makes by itself; `patient`: with `retries=None`
- `plain`: an HTTP client of the standard library in a loop, as anyone would write it

Calls come at a rate that does not wait for answers, as those of a busy program do. A line on stdin is the end; the
answer is a `Tally` as JSON on stdout.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import http.client
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from tests.faults.rigs import mapping, raw, settings_of

from adjourn.errors import AdjournError
from adjourn.runtime import Runtime
from adjourn.sdk import AsyncClient
from adjourn.sdk._client import RETRIES

PACE_S = 0.02
PLAIN_WORKERS = 64
PLAIN_TRY_S = 20.0
PLAIN_RETRY_S_MAX = 1.0
GIVEN_UP_S = 120.0
"""However slow the machine is, a server that is started again at once answers within it."""


class Tally(msgspec.Struct):
    """`first` and `retried` are accepted calls; `refused` ones were answered with an error at last, or not at all.
    `acknowledged` are the session ids of accepted events."""

    kind: str
    calls: int = 0
    first: int = 0
    retried: int = 0
    refused: int = 0
    tries_max: int = 0
    wait_ms_max: int = 0
    errors: list[str] = msgspec.field(default_factory=list[str])
    acknowledged: list[str] = msgspec.field(default_factory=list[str])

    def took(self, session_id: str, tries: int, began_s: float) -> None:
        self.acknowledged.append(session_id)
        if tries > 1:
            self.retried += 1
        else:
            self.first += 1
        self._waited(tries, began_s)

    def lost_hope(self, error: object, tries: int, began_s: float) -> None:
        self.refused += 1
        self.errors.append(str(error)[:300])
        self._waited(tries, began_s)

    def _waited(self, tries: int, began_s: float) -> None:
        self.tries_max = max(self.tries_max, tries)
        self.wait_ms_max = max(self.wait_ms_max, round((time.monotonic() - began_s) * 1000))


def body_of(session_id: str, number: int) -> bytes:
    """Every other one has no id of its own: the server derives one, so that a retry is known all the same."""
    return raw(session_id, usage={"model": "gpt-4o", "input_tokens": number % 100}, **_id(session_id, number))


def _id(session_id: str, number: int) -> dict[str, object]:
    return {"event_id": f"evt_{session_id}"} if number % 2 else {}


# --- the three ---------------------------------------------------------------------------------------------------


def by_runtime(url: str, name: str, directory: Path, finish: threading.Event) -> Tally:
    """A call is accepted when `capture` returns; that the server has it is waited for at the end."""
    tally = Tally("runtime")
    with Runtime(settings_of(mapping(directory)), url=url) as runtime:
        for number in itertools.count():
            if finish.wait(PACE_S):
                break
            session_id, began_s = f"{name}-{number}", time.monotonic()
            tally.calls += 1
            try:
                runtime.capture(msgspec.json.decode(body_of(session_id, number), type=dict[str, object]))
            except AdjournError as error:
                tally.lost_hope(error, 1, began_s)
            else:
                tally.took(session_id, 1, began_s)
        runtime.drain(GIVEN_UP_S)
    return tally


_tries = contextvars.ContextVar("tries", default=0)


class CountingClient(AsyncClient):
    """The SDK's, and how often it has tried."""

    async def _once(self, request: object) -> object:  # type: ignore[override]  handed on as it is
        _tries.set(_tries.get() + 1)
        return await super()._once(request)  # type: ignore[arg-type]  handed on as it is


def by_client(url: str, name: str, directory: Path, finish: threading.Event, *, retries: int | None = RETRIES) -> Tally:
    tally = Tally("client")

    async def call(client: CountingClient, number: int) -> None:
        session_id, began_s = f"{name}-{number}", time.monotonic()
        try:
            answer = await client.send([body_of(session_id, number)])
            assert answer.results[0].status in ("accepted", "duplicate"), answer
        except (AdjournError, AssertionError) as error:
            tally.lost_hope(error, _tries.get(), began_s)
        else:
            tally.took(session_id, _tries.get(), began_s)

    async def main() -> None:
        async with CountingClient(url, retries=retries) as client, asyncio.TaskGroup() as calls:
            for number in itertools.count():
                await asyncio.sleep(PACE_S)
                if finish.is_set():
                    break
                tally.calls += 1
                calls.create_task(call(client, number))

    asyncio.run(main())
    return tally


def by_plain_http(url: str, name: str, directory: Path, finish: threading.Event) -> Tally:
    tally, lock = Tally("plain"), threading.Lock()
    server = urlsplit(url).netloc

    def call(number: int) -> None:
        session_id, began_s, error = f"{name}-{number}", time.monotonic(), ""
        for tries in itertools.count(1):
            error = _posted(server, body_of(session_id, number))
            if not error:
                with lock:
                    tally.took(session_id, tries, began_s)
                return
            if time.monotonic() - began_s > GIVEN_UP_S:
                with lock:
                    tally.lost_hope(error, tries, began_s)
                return
            time.sleep(random.uniform(0, min(PLAIN_RETRY_S_MAX, 0.1 * 2 ** min(tries, 10))))

    with ThreadPoolExecutor(PLAIN_WORKERS) as pool:
        calls: list[Future[None]] = []
        while not finish.wait(PACE_S):
            calls.append(pool.submit(call, tally.calls))
            tally.calls += 1
        for done in calls:
            done.result()
    return tally


def _posted(server: str, body: bytes) -> str:
    """What went wrong, if anything did."""
    try:
        with closing(http.client.HTTPConnection(server, timeout=PLAIN_TRY_S)) as connection:
            connection.request("POST", "/v1/events", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    return "" if answer.status == 202 else f"{answer.status} {said!r}"


CAPTURERS: dict[str, Callable[[str, str, Path, threading.Event], Tally]] = {
    "runtime": by_runtime,
    "client": by_client,
    "patient": functools.partial(by_client, retries=None),
    "plain": by_plain_http,
}


def main() -> None:
    kind, url, name, directory = sys.argv[1:]
    finish = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        finish.set()

    threading.Thread(target=listen, daemon=True).start()
    tally = CAPTURERS[kind](url, name, Path(directory), finish)
    sys.stdout.buffer.write(msgspec.json.encode(tally) + b"\n")


if __name__ == "__main__":
    main()
