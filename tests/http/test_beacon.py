"""The browser's door: what a public key can do, what it cannot, and a page that is really closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.http.browsing import browser, site
from tests.http.conftest import database_url
from tests.http.serving import Serving, is_problem, serving

from adjourn.http.beacon import BODY_BYTES_MAX
from adjourn.node import Node
from adjourn.settings import DatabaseSettings, Settings
from adjourn.testing.account import bodies

ORIGIN = "https://shop.example"
EVENT = {"event_id": "e", "session": {"session_id": "s"}}


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    """It takes beacons of one origin."""
    directory = tmp_path_factory.mktemp("beacon")
    with serving(database_url("sqlite", directory), directory, server={"beacon_origins": [ORIGIN]}) as running:
        yield running


def send(
    server: Serving, event: dict[str, Any] | bytes, *, who: str = "acme/beacon", origin: str = ORIGIN, **headers: str
) -> httpx.Response:
    """As `navigator.sendBeacon` does: text, and no header of one's own."""
    body = event if isinstance(event, bytes) else json.dumps({"key": server.keys[who], **event}).encode()
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"content-type": "text/plain;charset=UTF-8", **({"origin": origin} if origin else {}), **more}
    return server.client.post("/v1/beacon", content=body, headers=given)


def numbered(number: str, **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{number}", "session": {"session_id": f"s{number}"}, **more}


# --- over HTTP --------------------------------------------------------------------------------------------------------


def test_a_beacon_is_durable_and_its_repetition_is_known(open_server: Serving) -> None:
    """202 with the id that it has from now on; the same again is a duplicate, and the same id with other content a
    conflict. The tenant is the key's, whatever the event says."""
    event = numbered("1", user={"organization_id": "other"}, usage={"model": "gpt-4o", "input_tokens": 1000})
    first, again = send(open_server, event), send(open_server, event)
    assert (first.status_code, first.json()) == (202, {"status": "accepted", "event_id": "beacon_e1"})
    assert again.json()["status"] == "duplicate"
    assert is_problem(send(open_server, {**event, "usage": {}}), 409, "event_conflict")
    found = open_server.get("/v1/events/beacon_e1").json()
    assert found["tenant"] == "acme"
    assert found["event"]["session"]["session_id"] == "beacon_s1"
    assert "key" not in found["event"]
    assert open_server.get("/v1/events/beacon_e1", who="other/admin").status_code == 404


def test_a_claim_costs_nothing(open_server: Serving) -> None:
    """Neither what the browser says nor what its model and tokens would cost; the same from a writer has a price."""
    usage = {"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 1000}
    send(open_server, numbered("2", usage={**usage, "estimated_cost_usd": 1000}))
    found = open_server.get("/v1/events/beacon_e2").json()
    assert (found["cost_usd"], found["price_ref"]) == (None, "")
    assert found["event"]["usage"] == usage
    open_server.post(json.dumps(numbered("2", usage=usage)).encode(), who="acme/writer")
    assert open_server.get("/v1/events/e2").json()["cost_usd"] == "0.0125"


def test_a_claim_takes_nobodys_place(open_server: Serving) -> None:
    """Whoever knows ids of event and session and is first cannot keep the trusted completion out."""
    assert send(open_server, numbered("3", outcome={"status": "error"})).status_code == 202
    trusted = json.dumps(numbered("3", outcome={"status": "success"})).encode()
    assert open_server.post(trusted, who="acme/writer").json()["accepted"] == 1


def test_a_public_key_is_the_only_one_that_is_taken_here(open_server: Serving) -> None:
    """None, an unknown and a secret one are refused; that a secret one stands in a page is said, and what to do."""
    without = send(open_server, json.dumps(EVENT).encode())
    assert is_problem(without, 401, "unauthenticated")
    assert "the member `key`" in without.json()["detail"]
    assert is_problem(send(open_server, json.dumps({**EVENT, "key": "adj_no"}).encode()), 401, "unauthenticated")
    for role in ("admin", "writer"):
        answer = send(open_server, EVENT, who=f"acme/{role}")
        assert is_problem(answer, 403, "forbidden")
        assert "revoke it" in answer.json()["detail"]
        assert "role admin or" not in answer.json()["detail"]
    by_query = open_server.client.post(
        f"/v1/beacon?key={open_server.keys['acme/beacon']}", json=numbered("4"), headers={"origin": ORIGIN}
    )
    assert by_query.status_code == 202


def test_origins_are_those_of_the_settings(open_server: Serving) -> None:
    """Another one, none, and one that only begins alike are refused before anything else; an answer may be read by the
    origin that asked, and by no other."""
    for origin in ("https://evil.example", "", "null", ORIGIN + ".evil.example", "http://shop.example"):
        answer = send(open_server, numbered("5"), origin=origin)
        assert is_problem(answer, 403, "forbidden")
        assert "access-control-allow-origin" not in answer.headers
    for answer in (send(open_server, numbered("5")), send(open_server, b"no JSON")):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["vary"] == "origin"
    preflight = {"origin": ORIGIN, "access-control-request-method": "POST"}
    allowed = open_server.client.options("/v1/beacon", headers=preflight)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-methods"] == "POST"
    assert allowed.headers["access-control-allow-headers"] == "content-type"
    refused = open_server.client.options("/v1/beacon", headers={**preflight, "origin": "https://evil.example"})
    assert refused.status_code == 403


def test_bad_input_is_a_problem(open_server: Serving) -> None:
    """With a status, a fact and a remedy, as everywhere; what breaks the schema is in quarantine besides."""
    assert is_problem(send(open_server, b"nonsense"), 400, "body_invalid")
    assert is_problem(send(open_server, numbered("6", x="x" * BODY_BYTES_MAX)), 413, "body_too_large")
    assert is_problem(send(open_server, EVENT, content_type="text/html"), 415, "media_type_unsupported")
    assert is_problem(send(open_server, EVENT, content_encoding="gzip"), 415, "media_type_unsupported")
    assert is_problem(send(open_server, {**EVENT, "event_type": "session.amended"}), 403, "forbidden")
    wrong = send(open_server, numbered("6", usage={"input_tokens": -1}))
    assert is_problem(wrong, 422, "event_invalid")
    assert wrong.json()["path"] == "usage.input_tokens"
    held = open_server.get("/v1/quarantine").json()["entries"]
    refused = [entry for entry in held if entry["code"] == "value_invalid"]
    assert [(entry["source"], "adj_" in entry["body"]) for entry in refused] == [("beacon", False)]
    for method in ("GET", "PUT", "DELETE"):
        answer = open_server.request(method, "/v1/beacon")
        assert is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "OPTIONS, POST"
    assert is_problem(open_server.request("POST", "/beacon.js"), 405, "method_not_allowed")


def test_a_body_in_pieces_is_bounded_too(open_server: Serving) -> None:
    """Without a length, the body is refused as soon as it is too long; one that fits is taken."""
    event = json.dumps({"key": open_server.keys["acme/beacon"], **numbered("7")}).encode()
    headers = {"origin": ORIGIN, "content-type": "text/plain"}
    whole = open_server.client.post("/v1/beacon", content=iter([event[:9], event[9:]]), headers=headers)
    assert whole.status_code == 202
    long = open_server.client.post("/v1/beacon", content=iter([b" " * 40_000] * 2), headers=headers)
    assert is_problem(long, 413, "body_too_large")


def test_senders_who_dribble_keep_nobody_out(open_server: Serving) -> None:
    """What counts is how much they hold, not how many they are: a thousand that have sent one byte cost a thousand."""
    head = [f"origin: {ORIGIN}", "content-type: text/plain", "content-length: 500", "expect: 100-continue"]
    with contextlib.ExitStack() as lines:
        for _ in range(1001):
            line = lines.enter_context(open_server.socket())
            line.sendall(open_server.head("POST /v1/beacon", *head, who="acme/beacon"))
            assert line.recv(100).startswith(b"HTTP/1.1 100 ")  # its body is being waited for
            line.sendall(b"{")
        assert send(open_server, numbered("8")).status_code == 202


def test_without_origins_there_is_no_beacon(server: Serving) -> None:
    """Off until somebody says which pages may send."""
    assert is_problem(send(server, EVENT), 404, "not_found")
    assert is_problem(server.client.get("/beacon.js"), 404, "not_found")
    assert is_problem(server.client.options("/v1/beacon", headers={"origin": ORIGIN}), 405, "method_not_allowed")


def test_the_script_is_small_and_cached(open_server: Serving) -> None:
    """Less than 3 kB of JavaScript for any page, with a tag by which a browser asks whether it is still the same."""
    got = open_server.client.get("/beacon.js")
    assert got.headers["content-type"] == "text/javascript; charset=utf-8"
    assert got.headers["access-control-allow-origin"] == "*"
    assert len(got.content) < 3000
    again = open_server.client.get("/beacon.js", headers={"if-none-match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert open_server.client.head("/beacon.js").status_code == 200


# --- in a browser -----------------------------------------------------------------------------------------------------

_PAGE = """<!doctype html><title>page</title><script src="%s/beacon.js"></script><script>
adjourn.start({key: "%s", sessionId: location.hash.slice(1), user: "usr_1", tags: {page: "p"}});
adjourn.usage({input_tokens: 10, output_tokens: 5, model: "gpt-4o"});
adjourn.usage({input_tokens: 2, tool_calls: 1});
</script>"""


def of_sessions(url: str, directory: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of the log, by session."""

    async def read() -> list[bytes]:
        async with Node(Settings(data_dir=str(directory), database=DatabaseSettings(url=url))) as node:
            return await bodies(node)

    found: dict[str, list[dict[str, Any]]] = {}
    for body in asyncio.run(read()):
        event = json.loads(body)
        found.setdefault(event["session"]["session_id"].removeprefix("beacon_"), []).append(event)
    return found


_CLOSE, _LEAVE = "close", "leave"
_HIDE, _SHOW = (
    # A headless tab is never hidden by itself.
    f"Object.defineProperty(document, 'visibilityState', {{value: '{state}', configurable: true}});"
    "document.dispatchEvent(new Event('visibilitychange'))"
    for state in ("hidden", "visible")
)
_VISITS: dict[str, tuple[list[str], list[tuple[int, int, dict[str, str]]]]] = {
    "closed": ([_CLOSE], [(1, 12, {"status": "success"})]),
    "left": ([_LEAVE], [(1, 12, {"status": "success"})]),
    "hidden": ([_HIDE, _CLOSE], [(1, 12, {"status": "success"})]),
    "refused": (["navigator.sendBeacon = () => false", _LEAVE], [(1, 12, {"status": "success"})]),
    "ended": (
        ["adjourn.end('timeout', 'max_turns'); adjourn.usage({input_tokens: 99})", _CLOSE],
        [(1, 12, {"status": "timeout", "error_code": "max_turns"})],
    ),
    "back": (
        [_HIDE, _SHOW, "adjourn.usage({input_tokens: 7})", _LEAVE],
        [(1, 12, {"status": "success"}), (2, 7, {"status": "success"})],
    ),
    "failed": (
        [_HIDE, "adjourn.end('error', 'upstream')", _CLOSE],
        [(1, 12, {"status": "success"}), (2, 0, {"status": "error", "error_code": "upstream"})],
    ),
    "last": ([_LEAVE], [(1, 12, {"status": "success"})]),
}
"""By session: what is done with its page, and its completions: attempt, input tokens, outcome."""


def test_leaving_a_page_completes_its_session_once(tmp_path: Path) -> None:
    """In Chromium, across origins: a tab that is closed, a page that is left for another, one that is hidden first, one
    that says itself that it ended, and one whose beacons the browser refuses, each have exactly one completion; one to
    whose page somebody comes back and goes on, or that fails then, has another attempt with what was used since."""
    url = database_url("sqlite", tmp_path)
    pages = {"/other": "<title>other</title>"}
    with browser() as chromium, site(pages) as origin:
        with serving(url, tmp_path, server={"beacon_origins": [origin]}) as server:
            pages["/page"] = _PAGE % (server.url, server.keys["acme/beacon"])
            context = chromium.new_context()
            expected = 0
            for name, (steps, completions) in _VISITS.items():
                page = context.new_page()
                page.goto(f"{origin}/page#{name}")
                for step in steps:
                    if step == _CLOSE:
                        page.close(run_before_unload=True)
                    elif step == _LEAVE:
                        page.goto(f"{origin}/other")
                    else:
                        page.evaluate(step)
                expected += len(completions)
                await_log(server, expected)
            context.close()
    found = of_sessions(url, tmp_path)
    for name, (_, completions) in _VISITS.items():
        assert [
            (e["session"]["attempt"], e["usage"].get("input_tokens", 0), e["outcome"]) for e in found.pop(name)
        ] == completions, name
    assert found == {}


def test_a_completion_of_a_page_is_whole(tmp_path: Path) -> None:
    """Usage of several calls adds up; user, tags, type and duration are there; a session that follows another in the
    same page ends that one."""
    url = database_url("sqlite", tmp_path)
    pages: dict[str, str] = {}
    with browser() as chromium, site(pages) as origin:
        with serving(url, tmp_path, server={"beacon_origins": [origin]}) as server:
            pages["/page"] = _PAGE % (server.url, server.keys["acme/beacon"])
            page = chromium.new_page()
            page.goto(f"{origin}/page#first")
            key = server.keys["acme/beacon"]
            second = page.evaluate(f"adjourn.start({{key: '{key}', type: 'realtime', url: '{server.url}/v1/beacon'}})")
            page.close(run_before_unload=True)
            await_log(server, 2)
    found = of_sessions(url, tmp_path)
    ((first,), (other,)) = (found["first"], found[second])
    assert first["usage"] == {"input_tokens": 12, "output_tokens": 5, "model": "gpt-4o", "tool_calls": 1}
    assert first["user"] == {"user_id": "usr_1"}
    assert first["metadata"] == {"custom_tags": {"page": "p"}, "source": "beacon"}
    assert first["session"]["session_type"] == "chat"
    assert first["session"]["duration_ms"] >= 0
    assert other["session"]["session_type"] == "realtime"
    assert other["usage"] == {}


def test_a_page_of_an_allowed_origin_may_read_the_answer(tmp_path: Path) -> None:
    """Also of a body for which the browser asks first, and with its cookies; a page of another origin gets nothing."""
    ask = """async ([url, body]) => {
        const answer = await fetch(url, {method: "POST", body, credentials: "include",
                                         headers: {"content-type": "application/json"}});
        return [answer.status, (await answer.json()).status];
    }"""
    pages = {"/page": "<title>page</title>"}
    with browser() as chromium, site(pages) as origin, site(pages) as other:
        with serving(database_url("sqlite", tmp_path), tmp_path, server={"beacon_origins": [origin]}) as server:
            body = json.dumps({"key": server.keys["acme/beacon"], **EVENT})
            page = chromium.new_page()
            page.goto(f"{origin}/page")
            assert page.evaluate(ask, [f"{server.url}/v1/beacon", body]) == [202, "accepted"]
            page.goto(f"{other}/page")
            with pytest.raises(Exception, match="Failed to fetch"):
                page.evaluate(ask, [f"{server.url}/v1/beacon", body])


def await_log(server: Serving, count: int) -> None:
    until = time.monotonic() + 60
    while server.get("/v1/metrics").json()["events_captured"] < count and time.monotonic() < until:
        time.sleep(0.05)
