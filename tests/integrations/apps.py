"""The same small service in every framework: /async, /sync, /missing, /fail, /stream, /endless."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

from litestar import Litestar, MediaType, get
from litestar.response import Stream

import adjourn

PARTS = 3


def use() -> str:
    """What a handler does: says what it used, and answers with its session."""
    found = adjourn.current_session()
    if found is None:
        return "none"
    found.add_usage(input_tokens=10, output_tokens=5, model="gpt-4o")
    return found.session_id


async def parts() -> AsyncIterator[bytes]:
    for _ in range(PARTS):
        await asyncio.sleep(0)
        yield use().encode()


def plain_parts() -> Iterator[bytes]:
    for _ in range(PARTS):
        yield use().encode()


async def endless() -> AsyncIterator[bytes]:
    use()
    while True:
        await asyncio.sleep(0.01)
        yield b"." * 1000


def plain_endless() -> Iterator[bytes]:
    use()
    while True:
        time.sleep(0.01)
        yield b"." * 1000


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    async def later(request: object) -> PlainTextResponse:
        return PlainTextResponse(use())

    def now(request: object) -> PlainTextResponse:
        return PlainTextResponse(use())

    def fail(request: object) -> PlainTextResponse:
        raise LookupError("no such thing")

    async def stream(request: object) -> StreamingResponse:
        return StreamingResponse(parts(), media_type="text/event-stream")

    async def forever(request: object) -> StreamingResponse:
        return StreamingResponse(endless())

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            if text == "fail":
                await socket.close(1011)
                return
            await socket.send_text(use())

    async def listen(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.receive_text()  # raises when the client has gone, and nobody catches it
            await socket.send_text(use())

    routes = [
        Route("/async", later),
        Route("/sync", now),
        Route("/fail", fail),
        Route("/stream", stream),
        Route("/endless", forever),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/listen", listen),
    ]
    return Starlette(routes=routes)


def fastapi() -> Any:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse, StreamingResponse

    app = FastAPI(default_response_class=PlainTextResponse)

    @app.get("/async")
    async def later() -> str:
        return use()

    @app.get("/sync")
    def now() -> str:
        return use()

    @app.get("/fail")
    def fail() -> str:
        raise LookupError("no such thing")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    @app.get("/endless")
    async def forever() -> StreamingResponse:
        return StreamingResponse(endless())

    return app


def litestar() -> Any:
    @get("/async", media_type=MediaType.TEXT)
    async def later() -> str:
        return use()

    @get("/sync", media_type=MediaType.TEXT, sync_to_thread=True)
    def now() -> str:
        return use()

    @get("/fail", media_type=MediaType.TEXT)
    async def fail() -> str:
        raise LookupError("no such thing")

    @get("/stream")
    async def stream() -> Stream:
        return Stream(parts())

    @get("/endless")
    async def forever() -> Stream:
        return Stream(endless())

    return Litestar([later, now, fail, stream, forever], logging_config=None)


class DjangoUrls:
    """A Django project is its settings, and those are one for the process."""

    @staticmethod
    @functools.cache
    def configure() -> None:
        import django
        from django.conf import settings
        from django.http import HttpResponse, StreamingHttpResponse
        from django.urls import path

        async def later(request: Any) -> HttpResponse:
            return HttpResponse(use())

        def now(request: Any) -> HttpResponse:
            return HttpResponse(use())

        def fail(request: Any) -> HttpResponse:
            raise LookupError("no such thing")

        def stream(request: Any) -> StreamingHttpResponse:
            return StreamingHttpResponse(parts() if hasattr(request, "scope") else plain_parts())

        def forever(request: Any) -> StreamingHttpResponse:
            return StreamingHttpResponse(endless() if hasattr(request, "scope") else plain_endless())

        DjangoUrls.urlpatterns = [
            path("async", later),
            path("sync", now),
            path("fail", fail),
            path("stream", stream),
            path("endless", forever),
        ]
        settings.configure(
            ROOT_URLCONF=DjangoUrls, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG=False, LOGGING_CONFIG=None
        )
        django.setup()

    urlpatterns: ClassVar[list[Any]] = []


def django_asgi() -> Any:
    DjangoUrls.configure()
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def django_wsgi() -> Any:
    DjangoUrls.configure()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def flask() -> Any:
    from flask import Flask, Response

    app = Flask("service")

    async def later() -> str:
        await asyncio.sleep(0)
        return use()

    def now() -> str:
        return use()

    def fail() -> str:
        raise LookupError("no such thing")

    def stream() -> Response:
        return Response(plain_parts())

    def forever() -> Response:
        return Response(plain_endless())

    for path, view in (
        ("/async", later),
        ("/sync", now),
        ("/fail", fail),
        ("/stream", stream),
        ("/endless", forever),
    ):
        app.add_url_rule(path, path, view)
    return app


ASGI: dict[str, Callable[[], Any]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "django": django_asgi,
}
WSGI: dict[str, Callable[[], Any]] = {"flask": flask, "django": django_wsgi}
