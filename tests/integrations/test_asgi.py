"""The ASGI middleware, around every framework that people use, behind a server that really runs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client as websocket

import adjourn
from adjourn import Runtime
from adjourn.errors import ConfigInvalid
from adjourn.events import Completion
from adjourn.integrations.asgi import AdjournMiddleware
from adjourn.settings import CaptureSettings, Settings
from tests.faults.rigs import mapping, settings_of
from tests.integrations import apps
from tests.integrations.rigs import asgi_server, captured, leave_in_the_middle, outcome, wait_until


def get(address: str, path: str, session_id: str | None = None, **more: str) -> httpx.Response:
    headers = more if session_id is None else {"x-session-id": session_id, **more}
    return httpx.get(f"http://{address}{path}", headers=headers, trust_env=False, timeout=60)


def by_session(events: list[Completion]) -> dict[str, Completion]:
    found = {event.session.session_id: event for event in events}
    assert len(found) == len(events)
    return found


@pytest.mark.parametrize("framework", apps.ASGI)
def test_a_request_with_a_session_id_becomes_a_completion(framework: str, runtime: Runtime) -> None:
    """Handlers of both kinds and streams find their session and say what they used; exceptions, unknown addresses and
    clients that leave have outcomes of their own; requests without a session id pass uncaptured."""
    app = AdjournMiddleware(apps.ASGI[framework](), runtime=runtime)
    with asgi_server(app) as address:
        assert get(address, "/async").text == get(address, "/sync", "").text == "none"
        assert get(address, "/async", "s-async").text == "s-async"
        assert get(address, "/sync", "s-sync").text == "s-sync"
        assert get(address, "/stream", "s-stream").text == "s-stream" * apps.PARTS
        assert get(address, "/fail", "s-fail").status_code == 500
        assert get(address, "/missing", "s-missing").status_code == 404
        leave_in_the_middle(address, "/endless", "s-gone")
        wait_until(lambda: runtime.spool_stats().captured >= 6)
    events = by_session(captured(runtime, 6))
    assert {outcome(events[name]) for name in ("s-async", "s-sync", "s-stream")} == {("success", None)}
    assert outcome(events["s-fail"]) in {("error", "LookupError"), ("error", "http_500")}
    assert outcome(events["s-missing"]) == ("error", "http_404")
    assert outcome(events["s-gone"])[0] == "user_terminated"
    for name, times in {"s-async": 1, "s-sync": 1, "s-stream": apps.PARTS, "s-gone": 1}.items():
        usage, session = events[name].usage, events[name].session
        assert usage is not None
        assert (usage.model, usage.input_tokens, usage.output_tokens) == ("gpt-4o", 10 * times, 5 * times)
        assert session.session_type == "api"
        assert session.start_time is not None
        assert session.end_time is not None


def test_a_session_of_many_requests_has_a_completion_for_each(runtime: Runtime) -> None:
    """Requests that share a session id are events of their own, and none is taken for a repetition."""
    with asgi_server(AdjournMiddleware(apps.starlette(), runtime=runtime)) as address:
        for _ in range(3):
            get(address, "/async", "s")
    events = captured(runtime, 3)
    assert {event.session.session_id for event in events} == {"s"}
    assert len({event.event_id for event in events}) == 3


def test_a_websocket_is_one_session(runtime: Runtime) -> None:
    """From its opening to its end, whoever ends it: its code decides, and a client that leaves in order is no error,
    even where the handler does not catch that."""
    with asgi_server(AdjournMiddleware(apps.starlette(), runtime=runtime)) as address:

        def talk(path: str, session_id: str, *texts: str) -> None:
            headers = {"x-session-id": session_id}
            with websocket.connect(f"ws://{address}{path}", additional_headers=headers, proxy=None) as client:
                for text in texts:
                    client.send(text)
                    if text != "fail":
                        assert client.recv() == session_id

        talk("/echo", "s-ok", "a", "b")
        talk("/listen", "s-uncaught", "a")
        with pytest.raises(websockets_closed()):
            talk("/echo", "s-fail", "a", "fail", "more", "more")
        with pytest.raises(Exception, match="403"):
            talk("/none", "s-refused")
        with websocket.connect(
            f"ws://{address}/echo", additional_headers={"x-session-id": "s-lost"}, proxy=None
        ) as lost:
            lost.close(code=1011)
        wait_until(lambda: runtime.spool_stats().captured >= 5)
    events = by_session(captured(runtime, 5))
    assert {name: outcome(event) for name, event in events.items()} == {
        "s-ok": ("success", None),
        "s-uncaught": ("success", None),
        "s-fail": ("error", "websocket_1011"),
        "s-refused": ("error", "http_403"),
        "s-lost": ("user_terminated", "client_disconnected"),
    }
    assert {event.session.transport for event in events.values()} == {"websocket"}
    usage = events["s-ok"].usage
    assert usage is not None
    assert usage.input_tokens == 20


def websockets_closed() -> type[Exception]:
    from websockets.exceptions import ConnectionClosed

    return ConnectionClosed


def test_the_transport_of_an_event_stream_is_sse(runtime: Runtime) -> None:
    """A response of the type text/event-stream says so in the completion; any other is http."""
    with asgi_server(AdjournMiddleware(apps.starlette(), runtime=runtime)) as address:
        get(address, "/stream", "s-stream")
        get(address, "/async", "s-plain")
    events = by_session(captured(runtime, 2))
    assert events["s-stream"].session.transport == "sse"
    assert events["s-plain"].session.transport == "http"


def test_session_and_user_may_come_from_functions(runtime: Runtime) -> None:
    """The function of the user is called at the end, when the application has found out who it is; one that fails
    costs the completion its user, or the request its completion, and never its answer."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def view(request: Request) -> PlainTextResponse:
        request.scope["who"] = request.query_params.get("who")
        if request.query_params.get("said"):
            request.scope["adjourn.session"].set_user("usr_said", organization_id="org_1")
            request.scope["adjourn.session"].end_as("timeout", error_code="max_turns")
        return PlainTextResponse("answer")

    app = Starlette(routes=[Route("/{name}", view)])
    app.add_middleware(
        AdjournMiddleware,
        session_id=lambda scope: (
            {"/a": "s-a", "/b": "s-b", "/c": "s-c", "/fails": 1 / 0}[scope["path"]]
            if scope["path"] == "/fails"
            else {"/a": "s-a", "/b": "s-b", "/c": "s-c"}.get(scope["path"])
        ),
        user=lambda scope: scope["who"].upper(),
        session_type="chat",
        runtime=runtime,
    )
    with asgi_server(app) as address:
        for path in ("/a?who=usr_1", "/b", "/c?who=x&said=1", "/fails", "/other"):
            assert get(address, path).text == "answer"
    events = by_session(captured(runtime, 3))
    users = {name: event.user for name, event in events.items()}
    assert {name: user and user.user_id for name, user in users.items()} == {
        "s-a": "USR_1",
        "s-b": None,
        "s-c": "usr_said",
    }
    assert outcome(events["s-c"]) == ("timeout", "max_turns")
    assert {event.session.session_type for event in events.values()} == {"chat"}


def test_two_middlewares_capture_once(runtime: Runtime) -> None:
    """The inner one finds the session of the outer one and leaves the request alone."""
    inner = AdjournMiddleware(apps.starlette(), runtime=runtime, session_type="chat")
    with asgi_server(AdjournMiddleware(inner, runtime=runtime)) as address:
        assert get(address, "/async", "s").text == "s"
    (event,) = captured(runtime, 1)
    assert event.session.session_type == "api"


def test_a_full_spool_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be captured is logged with its session, and the response goes through."""
    settings = Settings(data_dir=str(tmp_path), capture=CaptureSettings(spool_mb_max=1))
    with Runtime(settings, url="http://127.0.0.1:1", key="adj_nobody") as full:
        with pytest.raises(adjourn.AdjournError):
            for _ in range(20):
                full.capture({"session": {"session_id": "s"}, "note": "x" * 100_000})
        with asgi_server(AdjournMiddleware(apps.starlette(), runtime=full)) as address, caplog.at_level(logging.ERROR):
            # Smaller events may still find room; then there is none.
            for number in range(1000):
                assert get(address, "/async", f"s-{number}" + "x" * 200).status_code == 200
                if "completion_not_captured" in caplog.text:
                    break
        assert "completion_not_captured session_id=s-" in caplog.text
        full.stop(0.1)


@pytest.mark.parametrize("framework", ["starlette", "django"])
def test_the_runtime_lives_as_long_as_the_application(framework: str, tmp_path: Path) -> None:
    """The process's own is started before the first request and stopped with the server, under frameworks without
    lifespan events too; one that was handed in is left running."""
    own = Runtime(settings_of(mapping(tmp_path)))
    adjourn.set_runtime(own)
    with asgi_server(AdjournMiddleware(apps.ASGI[framework]()), "on") as address:
        assert own.node.delivery is not None
        get(address, "/async", "s")
    assert own.stopped
    with Runtime(settings_of(mapping(tmp_path))) as given:
        with asgi_server(AdjournMiddleware(apps.ASGI[framework](), runtime=given), "on") as address:
            get(address, "/async", "t")
        assert not given.stopped
        captured(given, 2)


def test_wrong_settings_are_said_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An application whose runtime cannot be made does not start, and its server is told why."""
    said: list[Any] = []

    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            said.append(message)

        await AdjournMiddleware(app)({"type": "lifespan"}, receive, send)

    gone = Runtime(settings_of(mapping(tmp_path)))
    gone.stop()
    adjourn.set_runtime(gone)
    monkeypatch.setenv("ADJOURN_SERVER__PRT", "1")
    with pytest.raises(ConfigInvalid):
        adjourn.get_runtime()
    asyncio.run(main())
    (message,) = said
    assert message["type"] == "lifespan.startup.failed"
    assert "ADJOURN_SERVER__PRT" in message["message"]
