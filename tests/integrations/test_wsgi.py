"""The WSGI middleware, around Flask and Django, behind a server that really runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import adjourn
from adjourn import Runtime
from adjourn.integrations.wsgi import AdjournMiddleware
from tests.integrations import apps
from tests.integrations.rigs import captured, leave_in_the_middle, outcome, wait_until, wsgi_server


def get(address: str, path: str, session_id: str | None = None, method: str = "GET") -> httpx.Response:
    headers = {} if session_id is None else {"x-session-id": session_id}
    return httpx.request(method, f"http://{address}{path}", headers=headers, trust_env=False, timeout=60)


@pytest.mark.parametrize("framework", apps.WSGI)
def test_a_request_with_a_session_id_becomes_a_completion(framework: str, runtime: Runtime) -> None:
    """Handlers of both kinds and streams find their session and say what they used; exceptions, unknown addresses and
    clients that leave have outcomes of their own; requests without a session id pass uncaptured."""
    with wsgi_server(AdjournMiddleware(apps.WSGI[framework](), runtime=runtime)) as address:
        assert get(address, "/async").text == get(address, "/sync", "").text == "none"
        assert get(address, "/async", "s-async").text == "s-async"
        assert get(address, "/sync", "s-sync").text == "s-sync"
        assert get(address, "/sync", "s-head", "HEAD").text == ""
        assert get(address, "/stream", "s-stream").text == "s-stream" * apps.PARTS
        assert get(address, "/fail", "s-fail").status_code == 500
        assert get(address, "/missing", "s-missing").status_code == 404
        leave_in_the_middle(address, "/endless", "s-gone")
        wait_until(lambda: runtime.spool_stats().captured >= 7)
    events = {event.session.session_id: event for event in captured(runtime, 7)}
    assert {outcome(events[name]) for name in ("s-async", "s-sync", "s-head", "s-stream")} == {("success", None)}
    assert outcome(events["s-fail"]) == ("error", "http_500")
    assert outcome(events["s-missing"]) == ("error", "http_404")
    assert outcome(events["s-gone"]) == ("user_terminated", "client_disconnected")
    for name, times in {"s-async": 1, "s-sync": 1, "s-stream": apps.PARTS, "s-gone": 1}.items():
        usage = events[name].usage
        assert usage is not None
        assert (usage.model, usage.input_tokens, usage.output_tokens) == ("gpt-4o", 10 * times, 5 * times)


def test_the_response_is_the_same_as_without(runtime: Runtime) -> None:
    """Status, body and headers, the length that servers compute of a list included."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"hello"]

    with wsgi_server(app) as plain, wsgi_server(AdjournMiddleware(app, runtime=runtime)) as wrapped:
        one, other = get(plain, "/", "s"), get(wrapped, "/", "s")
    assert one.text == other.text == "hello"
    assert one.headers["content-length"] == other.headers["content-length"] == "5"


def test_what_fails_passes_on(runtime: Runtime) -> None:
    """Exceptions of the call, of a part and of `close` reach the server, and each is its completion's outcome."""

    class Failing:
        def __init__(self, where: str) -> None:
            self.where = where

        def __iter__(self) -> Iterator[bytes]:
            yield b"part"
            if self.where == "part":
                raise KeyError(self.where)

        def close(self) -> None:
            if self.where == "close":
                raise OSError(self.where)

    def app(environ: dict[str, Any], start_response: Any) -> Failing:
        where = environ["HTTP_X_SESSION_ID"]
        if where == "call":
            raise LookupError(where)
        start_response("200 OK", [])
        return Failing(where)

    wrapped = AdjournMiddleware(app, runtime=runtime)
    for where, kind in {"call": LookupError, "part": KeyError, "close": OSError}.items():
        with pytest.raises(kind):
            body = wrapped({"HTTP_X_SESSION_ID": where}, lambda *_: lambda _: None)
            try:
                list(body)
            finally:
                body.close()  # type: ignore[attr-defined]  # every body of the middleware has it
        assert adjourn.current_session() is None
    assert [outcome(event) for event in captured(runtime, 3)] == [
        ("error", "LookupError"),
        ("error", "KeyError"),
        ("error", "OSError"),
    ]


def test_between_two_parts_the_server_is_outside_of_the_session(runtime: Runtime) -> None:
    """A thread that serves two responses in turns tells their sessions apart, and afterwards has none."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        return apps.plain_parts()

    wrapped = AdjournMiddleware(app, runtime=runtime)
    one, other = (wrapped({"HTTP_X_SESSION_ID": name}, lambda *_: lambda _: None) for name in ("a", "b"))
    turns = list(zip(one, other, strict=True))
    assert turns == [(b"a", b"b")] * apps.PARTS
    assert adjourn.current_session() is None
    for body in (one, other):
        body.close()  # type: ignore[attr-defined]  # every body of the middleware has it
    assert [outcome(event) for event in captured(runtime, 2)] == [("success", None)] * 2


def test_two_middlewares_capture_once(runtime: Runtime) -> None:
    """The inner one finds the session of the outer one and leaves the request alone; functions give id and user."""
    inner = AdjournMiddleware(apps.flask(), runtime=runtime)
    outer = AdjournMiddleware(
        inner, session_id=lambda environ: f"s{environ['PATH_INFO']}", user=lambda _: "usr_1", runtime=runtime
    )
    with wsgi_server(outer) as address:
        assert get(address, "/sync", "other").text == "s/sync"
    (event,) = captured(runtime, 1)
    assert event.user is not None
    assert event.user.user_id == "usr_1"
