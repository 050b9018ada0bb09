"""Routing: what has no route, and methods that a route does not take."""

from __future__ import annotations

import types
from typing import Any, cast

import pytest
from tests.http.serving import Serving, is_problem

from adjourn.clock import SystemClock
from adjourn.http.app import EVENTS_PATH, litestar
from adjourn.settings import ServerSettings


def routes() -> list[tuple[str, str, bool]]:
    """(path with a value for each parameter, method, whether it is open), of the application itself."""
    found = [(EVENTS_PATH, "POST", False)]
    for route in litestar(cast(Any, types.SimpleNamespace())).routes:
        for handler in cast(Any, route).route_handlers:
            path = route.path_format.replace("{", "").replace("}", "")
            found += [(path, method, "open" in handler.opt) for method in handler.http_methods if method != "OPTIONS"]
    return sorted(found)


@pytest.mark.parametrize("path", sorted({path for path, _, _ in routes()}))
def test_other_methods_are_refused_on_every_route(server: Serving, path: str) -> None:
    """405, with the methods that the route takes; OPTIONS is no exception, and tells nothing."""
    takes = {method for other, method, _ in routes() if other == path}
    takes |= {"HEAD"} if "GET" in takes else set()
    for method in {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "POST", "PROPFIND"} - takes:
        answer = server.request(method, path)
        assert answer.status_code == 405, f"{method} {path}"
        assert set(answer.headers["allow"].split(", ")) == takes
        assert method == "HEAD" or is_problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/metrics", "/v1/events/none", "/openapi.json"])
def test_head_answers_as_get_without_a_body(server: Serving, path: str) -> None:
    """Load balancers probe with it: status and headers of GET, on a connection that goes on."""
    got, headed = server.get(path), server.request("HEAD", path)
    assert headed.status_code == got.status_code
    assert headed.content == b""
    assert headed.headers["content-type"] == got.headers["content-type"]
    assert server.get("/healthz").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("GET", "/v1/quarantine?limit=0", None, "limit: Expected `int` >= 1"),
        ("GET", "/v1/quarantine?state=zz", None, "state: Invalid enum value 'zz'"),
        ("POST", "/v1/keys", {}, "Object missing required field `role`"),
    ],
)
def test_what_is_wrong_is_told(server: Serving, method: str, path: str, body: object, said: str) -> None:
    """Not only that something is: which parameter or field, and what it takes."""
    answer = server.request(method, path, json=body)
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/", "/foo", "/v1", "/v1/", "/v1/events/", "/v1//events", "/v2/events", "/schema", "/docs", "/%00", "/é"]
)
def test_unknown_addresses_are_problems(server: Serving, path: str) -> None:
    """404, and no page of the framework's own."""
    for method in ("GET", "POST", "OPTIONS"):
        assert is_problem(server.request(method, path), 404, "not_found")


@pytest.mark.parametrize(
    "path", ["/v1/quarantine?cursor=%00", "/v1/quarantine/%00", "/v1/keys/%00", "/v1/events/%00", "/v1/events/a%00b"]
)
def test_nul_characters_reach_no_database(any_server: Serving, path: str) -> None:
    """PostgreSQL cannot take them in a text; they are refused at the door."""
    answer = any_server.request("DELETE" if "keys" in path else "GET", path)
    assert is_problem(answer, 404, "not_found")


def test_a_body_over_a_megabyte_is_refused_on_other_routes(server: Serving) -> None:
    """Only events come in bulk."""
    answer = server.request("POST", "/v1/keys", json={"role": "reader", "name": "x" * 1_100_000})
    assert is_problem(answer, 413, "body_too_large")


def test_a_draining_server_takes_nothing_new() -> None:
    """`drain` closes the hot route and the probe together."""
    from adjourn.http.app import Application

    settings = types.SimpleNamespace(server=ServerSettings())
    node = types.SimpleNamespace(ingest=None, keys=None, traces=None, clock=SystemClock(), settings=settings)
    application = Application(cast(Any, node))
    application.drain()
    assert application.events.draining
    assert application.beacon.draining
    assert application.traces.draining
    assert application.framework.state.draining
