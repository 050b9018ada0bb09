"""What a user sees of the settings of the server and of logging."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

import httpx
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.faults.rigs import raw, settings_of
from tests.flipping.rigs import Flipped, take, with_node

from adjourn.cli.options import load_settings
from adjourn.http.server import serve
from adjourn.node import Node

T = TypeVar("T")


def with_server(flip: Flipped, talk: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    """A server in this process, from its start to SIGTERM."""

    async def main() -> T:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def on_ready(url: str) -> None:
            ready.set_result(url)

        serving = asyncio.create_task(serve(Node(settings_of(flip.mapped)), on_ready=on_ready))
        await asyncio.wait((ready, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        try:
            async with httpx.AsyncClient(base_url=ready.result(), trust_env=False) as client:
                return await talk(client)
        finally:
            signal.raise_signal(signal.SIGTERM)
            await serving

    thresholds = gc.get_threshold()
    try:
        return asyncio.run(main())
    finally:  # a server tunes the collector for its own process
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def answers_about_sessions(flip: Flipped) -> list[int]:
    async def talk(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get("/v1/sessions/none")).status_code for _ in range(3)]

    return with_server(flip, talk)


def sessions_of_a_user(flip: Flipped) -> list[int]:
    async def talk(client: httpx.AsyncClient) -> list[int]:
        new = {"pattern": "hybrid", "user_id": "u"}
        return [(await client.post("/v1/sessions", json=new)).status_code for _ in range(3)]

    return with_server(flip, talk)


def answer_to_a_second_stream(flip: Flipped) -> int:
    async def talk(client: httpx.AsyncClient) -> int:
        async with client.stream("GET", "/v1/stream") as first:
            await anext(first.aiter_lines())  # it is open when its first line is here
            async with client.stream("GET", "/v1/stream") as second:
                return second.status_code

    return with_server(flip, talk)


def answer_to_no_key(flip: Flipped) -> int:
    async def talk(client: httpx.AsyncClient) -> int:
        return (await client.post("/v1/events", content=raw("s"))).status_code

    return with_server(flip, talk)


def answer_to_a_megabyte_and_a_half(flip: Flipped) -> int:
    async def talk(client: httpx.AsyncClient) -> int:
        bodies = b"\n".join(raw(f"s{n}", note="x" * 15_000) for n in range(100))
        kind = {"content-type": "application/x-ndjson"}
        return (await client.post("/v1/events", content=bodies, headers=kind)).status_code

    return with_server(flip, talk)


def origins_that_may_send_beacons(flip: Flipped) -> list[str]:
    async def talk(client: httpx.AsyncClient) -> list[str]:
        may: list[str] = []
        for name in ("a", "b"):
            event = {"event_id": name, "session": {"session_id": name}}
            answer = await client.post("/v1/beacon", json=event, headers={"origin": f"https://{name}.example"})
            may += [name] if answer.status_code == 202 else []
        return may

    return with_server(flip, talk)


def leaves_spans(flip: Flipped) -> bool:
    """Whether taking an event in leaves spans with the tracer provider of the program."""
    exporter = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):  # a process can set it once
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    with_node(flip, lambda node: take(node, raw("s")))
    processor.shutdown()
    return any(span.name == "adjourn.commit" for span in exporter.get_finished_spans())


def host_that_answers(flip: Flipped) -> str:
    return _where_it_answers(flip).host


def port_that_answers(flip: Flipped) -> int | None:
    return _where_it_answers(flip).port


def _where_it_answers(flip: Flipped) -> httpx.URL:
    async def talk(client: httpx.AsyncClient) -> httpx.URL:
        assert (await client.get("/healthz")).status_code == 200
        return client.base_url

    return with_server(flip, talk)


def lines_of_an_outage(flip: Flipped) -> str:
    """What `serve` writes to standard error when a destination is away."""
    file = flip.directory / "adjourn.yaml"
    file.write_text(json.dumps(flip.mapped))  # which is YAML

    async def main() -> None:
        async with Node(load_settings(str(file), None)) as node:
            await take(node, raw("s"))
            while not node.delivery.stats["away"].retries:
                await asyncio.sleep(0.01)

    with _logging_kept(), contextlib.redirect_stderr(io.StringIO()) as errors:
        asyncio.run(main())
    (*lines,) = [line for line in errors.getvalue().splitlines() if "destination_outage" in line]
    if not lines:
        return "nothing"
    assert "warning" in lines[0].lower()
    return "a JSON object" if lines[0].startswith("{") and json.loads(lines[0])["destination"] == "away" else "text"


@contextlib.contextmanager
def _logging_kept() -> Generator[None]:
    root, adjourn = logging.getLogger(), logging.getLogger("adjourn")
    kept = root.handlers[:], root.level, adjourn.level
    try:
        yield
    finally:
        root.handlers[:] = kept[0]
        root.setLevel(kept[1])
        adjourn.setLevel(kept[2])
