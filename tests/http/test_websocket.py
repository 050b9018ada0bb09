"""The WebSocket of a session: events one way, messages and commands the other."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.http.browsing import browser, site
from tests.http.hosting import created, events, shown, text_of, until
from tests.http.serving import Serving, event, serving
from websockets.sync.client import ClientConnection, connect

SLOW = {"chunks": 40, "chunk_ms": 25}
HANG = {"hang": True}
WAIT_S = 60


@contextmanager
def opened(
    server: Serving, session: dict[str, Any], *, who: str = "acme/admin", **how: Any
) -> Generator[ClientConnection]:
    address = f"{server.url.replace('http', 'ws')}/v1/sessions/{session['id']}/ws"
    given = {"additional_headers": server.bearer(who), **how}
    with connect(address, open_timeout=WAIT_S, close_timeout=WAIT_S, proxy=None, **given) as line:
        yield line


def sent(line: ClientConnection, **command: Any) -> None:
    line.send(json.dumps(command))


def heard(line: ClientConnection, until_type: str) -> list[dict[str, Any]]:
    """Frames, up to the first of that type."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] != until_type:
        found.append(json.loads(line.recv(timeout=WAIT_S)))
    return found


def refusal(server: Serving, session: dict[str, Any], **how: Any) -> tuple[int, dict[str, Any]]:
    with pytest.raises(websockets.InvalidStatus) as refused, opened(server, session, **how):
        pass
    return refused.value.response.status_code, json.loads(refused.value.response.body)


def test_a_turn_over_a_socket(any_server: Serving) -> None:
    """The message is accepted with its turn, whose events follow; they are those of the session, in the same form."""
    session = created(any_server)
    with opened(any_server, session) as line:
        sent(line, type="message", prompt="one two", ref="r", options={"chunks": 2})
        found = heard(line, "turn_ended")
    (accepted,) = [frame for frame in found if frame["type"] == "accepted"]
    told = [frame for frame in found if "seq" in frame]
    assert accepted["ref"] == "r"
    assert accepted["turn"]["turn_id"] == told[-1]["turn_id"]
    assert text_of(told) == "one two"
    stored = {event["seq"]: event for event in events(any_server, session)}
    assert [stored[frame["seq"]] for frame in told] == told


def test_following_goes_on_exactly_where_it_is_asked_to(any_server: Serving) -> None:
    """After any number, on a new connection too; at the end of the session the socket is closed."""
    session = created(any_server)
    with opened(any_server, session) as line:
        sent(line, type="message", prompt="a" * 40, options=SLOW)
        first = [frame for frame in heard(line, "text_delta") if "seq" in frame]
    with opened(any_server, session, who="acme/reader") as line:
        sent(line, type="follow", after=first[-1]["seq"])
        rest = [frame for frame in heard(line, "turn_ended") if "seq" in frame]
        any_server.request("POST", f"/v1/sessions/{session['id']}/complete")
        rest += heard(line, "completed")
        with pytest.raises(websockets.ConnectionClosedOK) as closed:
            line.recv(timeout=WAIT_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "the session has ended")
    numbers = [frame["seq"] for frame in first + rest]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert text_of(first + rest) == "a" * 40


def test_commands_reach_the_session(any_server: Serving) -> None:
    """Interrupt ends the turn, complete the session."""
    session = created(any_server)
    with opened(any_server, session) as line:
        sent(line, type="message", prompt="x", options=HANG)
        heard(line, "text_delta")
        sent(line, type="interrupt", ref="stop")
        assert heard(line, "turn_ended")[-1]["data"]["status"] == "interrupted"
        sent(line, type="message", prompt="noted", run=False, ref="note")
        found: list[dict[str, Any]] = []
        while not {"accepted", "message"} <= {frame["type"] for frame in found}:  # in either order
            found.append(json.loads(line.recv(timeout=WAIT_S)))
        assert next(frame["ref"] for frame in found if frame["type"] == "accepted" and "appended" in frame) == "note"
        sent(line, type="complete", outcome="error", error_code="gave_up")
        assert heard(line, "completed")[-1]["data"]["error_code"] == "gave_up"
    assert shown(any_server, session)["outcome"] == "error"


def test_what_is_refused_says_why_and_the_socket_stays(server: Serving) -> None:
    """Each as the problem that HTTP answers, with the client's own name for what it asked."""
    session = created(server)
    with opened(server, session, who="acme/reader") as line:
        for raw, code, path in (
            ("nonsense", "body_invalid", ""),
            ('{"type": "folow", "ref": "a"}', "body_invalid", "type"),
            ('{"type": "message", "promt": "x", "ref": "a"}', "body_invalid", "promt"),
            ('{"type": "follow", "after": 99, "ref": "a"}', "position_gone", ""),
            ('{"type": "message", "prompt": "x", "ref": "a"}', "forbidden", ""),
        ):
            line.send(raw)
            frame = json.loads(line.recv(timeout=WAIT_S))
            assert (frame["type"], frame.get("ref", "")) == ("refused", "a" if raw != "nonsense" else "")
            assert (frame["problem"]["code"], frame["problem"].get("path", "")) == (code, path)


def test_who_may_not_is_answered_over_http(server: Serving) -> None:
    """Before anything is opened, with a problem."""
    session = created(server)
    assert refusal(server, session, additional_headers={})[0] == 401
    assert refusal(server, session, additional_headers={}, subprotocols=["adjourn.key.adj_wrong"])[0] == 401
    assert refusal(server, session, who="acme/writer")[1]["code"] == "forbidden"
    assert refusal(server, session, who="other/admin")[1]["code"] == "not_found"
    assert refusal(server, {"id": "none"})[0] == 404


def test_other_addresses_have_no_websockets(server: Serving) -> None:
    """The wish is ignored, as HTTP lets a server do; the request is answered as any other, body and all."""
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    upgrade["sec-websocket-key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    assert server.request("GET", "/healthz", headers=upgrade).status_code == 200
    assert server.request("POST", "/v1/events", content=event(), headers=upgrade).status_code == 202


def test_a_page_needs_a_key_where_programs_need_none(tmp_path: Path) -> None:
    """Without keys, any page that somebody visits could otherwise talk to the sessions of their machine."""
    validation = {"require_authentication": False}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, keys={"acme/admin": ""}, validation=validation) as server:
        session = server.client.post("/v1/sessions", json={"pattern": "hybrid"}).json()
        none: dict[str, Any] = {"additional_headers": {}}
        with opened(server, session, **none) as line:
            sent(line, type="message", prompt="x")
            heard(line, "turn_ended")
        assert refusal(server, session, **none, origin="https://evil.example")[1]["code"] == "forbidden"


def test_a_turn_stops_with_its_socket(server: Serving) -> None:
    """Where it is set to."""
    session = created(server, on_disconnect="stop")
    with opened(server, session) as line:
        sent(line, type="message", prompt="x", options=HANG)
        heard(line, "text_delta")
    until(lambda: shown(server, session)["status"] == "idle")
    (turn,) = [event["data"] for event in events(server, session) if event["type"] == "turn_ended"]
    assert turn["status"] == "interrupted"


def test_what_is_too_large_ends_the_socket(tmp_path: Path) -> None:
    """1009, and the server lives."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, server={"body_mb_max": 1}) as server:
        session = created(server)
        with opened(server, session) as line, pytest.raises(websockets.ConnectionClosedError) as closed:
            sent(line, type="message", prompt="x" * 1_100_000)
            line.recv(timeout=WAIT_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert server.get("/healthz").status_code == 200


def test_a_revoked_key_s_socket_ends(tmp_path: Path) -> None:
    """Its key is asked again while it is open."""
    patches = {"adjourn.http.stream.HEARTBEAT_S": 0.2, "adjourn.security.service.CACHE_S": 0.1}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, patches=patches) as server:
        session = created(server)
        made = server.request("POST", "/v1/keys", json={"role": "reader"}).json()
        server.keys["made"] = made["secret"]
        with opened(server, session, who="made") as line:
            assert server.request("DELETE", f"/v1/keys/{made['key']['id']}").status_code == 204
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                line.recv(timeout=WAIT_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_sockets_count_as_streams_and_a_stopping_server_says_when_to_come_back(tmp_path: Path) -> None:
    """One too many is refused; at the stop the last frame has the time, and the close says restart."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, server={"streams_max": 1}) as server:
        session = created(server)
        with opened(server, session) as line:
            assert refusal(server, session)[1]["code"] == "unavailable"
            server.terminate()
            assert heard(line, "stopping")[-1]["retry_after_ms"] == 2000
            with pytest.raises(websockets.ConnectionClosed) as closed:
                line.recv(timeout=WAIT_S)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert server.process.wait(WAIT_S) == 0


def test_a_browser_sends_its_key_as_a_subprotocol(server: Serving) -> None:
    """A page of another origin, in Chromium: it opens the socket, runs a turn, and gets the answer."""
    session = created(server)
    address = f"{server.url.replace('http', 'ws')}/v1/sessions/{session['id']}/ws"
    protocols = ["adjourn.v1", f"adjourn.key.{server.keys['acme/operator']}"]
    script = f"const socket = new WebSocket({json.dumps(address)}, {json.dumps(protocols)});"
    script += """
      window.frames_ = [];
      socket.onopen = () => socket.send(JSON.stringify({type: "message", prompt: "from a page"}));
      socket.onmessage = (m) => window.frames_.push(JSON.parse(m.data));
    """
    with site({"/": f"<script>{script}</script>"}) as origin, browser() as launched:
        page = launched.new_page()
        page.goto(origin + "/")
        page.wait_for_function("window.frames_.some(f => f.type == 'turn_ended')", timeout=WAIT_S * 1000)
        found = page.evaluate("window.frames_.filter(f => f.type == 'turn_ended')[0]")
    assert found["data"]["text"] == "from a page"
