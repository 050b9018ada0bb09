"""What passes the gateway and what cannot: paths, headers of one connection, other protocols, odd answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Generator
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.gatewaying import Gateway, gateway, until
from tests.gateway.raw_upstream import OK, Line, RawUpstream, raw_upstream, reset

from adjourn.errors import TargetInvalid
from adjourn.gateway.passing import check_passable, headers_back, headers_on, leads_out


@pytest.fixture(scope="module")
def upstream() -> Generator[RawUpstream]:
    with raw_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def running(upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory) -> Generator[Gateway]:
    with gateway(tmp_path_factory.mktemp("passing"), f"{upstream.url}/api") as it:
        yield it


@pytest.fixture
def line(upstream: RawUpstream, running: Gateway) -> Generator[Line]:
    upstream.answer = OK
    upstream.heads.clear()
    it = Line(running.url)
    yield it
    it.close()


# --- paths


@pytest.mark.parametrize(
    "path",
    [
        *("/..", "/../x", "/%2e%2e/x", "/.%2E/x", "/v1/../../x", "/v1/..%2f..%2fx", "/%252e%252e/x", "/./../x"),
        *("/..\\x", "/..%5cx", "//../x", "/..;a=b/x", "/v1/%2e%2e%3b/..", "/%c0%af/../../x"),
    ],
)
def test_a_path_that_leads_out_is_known(path: str) -> None:
    """Encoded once or often, with backslashes, parameters and empty segments."""
    assert leads_out(path.encode())


@pytest.mark.parametrize(
    "path", ["/", "/v1/x", "/v1/../x", "/v1/a%2Fb/../x", "/v1/...", "/..x/..", "/v1/%2e%2e", "/a..b"]
)
def test_other_dots_are_just_dots(path: str) -> None:
    """What ends below where it began passes, and names with dots in them."""
    assert not leads_out(path.encode())


@given(st.lists(st.sampled_from(["..", ".", "", "a", "%2e%2e", "b;c", ".%2e"]), max_size=8))
def test_what_leads_out_by_the_standard_is_always_known(segments: list[str]) -> None:
    """Whoever resolves a path that passes as RFC 3986, 5.2.4, has it, stays below the prefix."""
    path = "/" + "/".join(segments)
    below: list[str] = []
    for segment in unquote(path).split("/")[1:]:
        if segment == "..":
            if not below:
                assert leads_out(path.encode())
                return
            below.pop()
        elif segment != ".":
            below.append(segment)


def test_only_a_prefix_can_be_left() -> None:
    """Where --upstream has no path there is nothing above it, and a path passes as it was sent."""
    check_passable(b"/../x", [], "")
    with pytest.raises(TargetInvalid, match="leads out of /api"):
        check_passable(b"/../x", [], "/api")


def test_a_path_outside_the_prefix_is_refused(line: Line, upstream: RawUpstream) -> None:
    """A 400 with what to do, and nothing reaches the upstream; the connection goes on, even behind a body that nobody
    read."""
    for target in ("/../admin", "/v1/%2e%2e/%2e%2e/admin"):
        status, _, body = line.ask(f"POST {target}", "content-length: 100000", body=b"x" * 100_000)
        assert (status, json.loads(body)["code"]) == (400, "target_invalid")
    assert upstream.heads == []
    assert line.ask("GET /v1/../x?q=..")[0] == 200
    assert upstream.heads[0].startswith(b"GET /api/v1/../x?q=.. HTTP/1.1\r\n")


def test_targets_that_are_no_paths(line: Line, running: Gateway, upstream: RawUpstream) -> None:
    """`OPTIONS *` asks for nothing that could be passed on; of an absolute target the path counts, and never its host;
    CONNECT and what is no target at all are refused."""
    status, _, body = line.ask("OPTIONS *")
    assert (status, json.loads(body)["code"]) == (400, "target_invalid")
    assert line.ask("GET http://evil.example/v1/x?q=1")[0] == 200
    (head,) = upstream.heads
    assert head.startswith(b"GET /api/v1/x?q=1 HTTP/1.1\r\n")
    assert upstream.url.removeprefix("http://").encode() in head
    assert b"evil" not in head
    for target in ("CONNECT evil.example:443", "GET @evil.example/", "GET http://evil.example", "GET x"):
        other = Line(running.url)
        assert other.ask(target)[0] == 400
        other.close()
    assert len(upstream.heads) == 1


# --- headers


def test_headers_of_one_connection_stay_on_it(line: Line, upstream: RawUpstream) -> None:
    """In both directions: those of the standard, and those that `Connection` names. Host is the upstream's."""
    upstream.answer = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Private, keep-alive\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Trailer: x\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Kept: caf\xe9\r\nContent-Length: 2\r\n\r\nhi"
    )
    status, back, _ = line.ask(
        "GET /v1/x",
        *(
            "connection: x-hop, Keep-Alive",
            "connection: X-Other",
            "x-hop: 1",
            "x-other: 1",
            "keep-alive: 1",
            "te: trailers",
        ),
        *("proxy-authorization: Basic cHc=", "authorization: Bearer t", "x-kept: 1", "x-adjourn-session: s"),
    )
    assert (status, back) == (200, [b"x-kept: caf\xe9", b"content-length: 2"])
    sent = upstream.heads[0].lower().split(b"\r\n")[1:-2]
    host = upstream.url.removeprefix("http://").encode()
    assert sent == [b"host: " + host, b"authorization: bearer t", b"x-kept: 1"]


def test_values_keep_their_bytes() -> None:
    """A header in UTF-8 goes on as the same bytes, whatever aiohttp makes of text."""
    ((_, value),) = headers_on([(b"x-title", "café ✓".encode())])
    assert value.encode() == "café ✓".encode()
    assert headers_back([(b"X-Title", b"caf\xe9")], 200) == [(b"x-title", b"caf\xe9")]


def test_what_follows_a_body_is_no_header(line: Line, upstream: RawUpstream) -> None:
    """A trailer does not become a header on the way: what stands in front has not seen it."""
    body = b"2\r\nhi\r\n0\r\nx-admin: yes\r\n\r\n"
    assert line.ask("POST /v1/x", "transfer-encoding: chunked", "trailer: x-admin", body=body)[0] == 200
    assert b"x-admin" not in upstream.heads[0]


# --- other protocols


def test_a_websocket_is_refused_whole(line: Line, upstream: RawUpstream) -> None:
    """With 501 and what to do, never half a handshake: not at the first request of a connection, not later."""
    wish = (
        *("connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13"),
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    for _ in range(2):
        status, headers, body = line.ask("GET /v1/realtime?model=m", *wish)
        assert (status, json.loads(body)["code"]) == (501, "protocol_unsupported")
        assert "over HTTP" in json.loads(body)["detail"]
        assert not any(h.lower().startswith((b"upgrade", b"sec-websocket")) for h in headers)
    assert upstream.heads == []
    assert line.ask("GET /v1/x")[0] == 200, "the connection goes on"


def test_other_wishes_are_ignored_or_refused(line: Line, upstream: RawUpstream) -> None:
    """HTTP/2 is only offered, and the request passes without it; a transfer encoding that would have to be undone is
    refused, since the upstream would take the packed bytes for the body."""
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk", "content-length: 2")
    assert line.ask("POST /v1/x", *offer, body=b"hi")[0] == 200
    assert b"upgrade" not in upstream.heads[0].lower()
    status, _, body = line.ask("POST /v1/x", "transfer-encoding: gzip, chunked", body=b"2\r\nhi\r\n0\r\n\r\n")
    assert (status, json.loads(body)["path"]) == (501, "transfer-encoding")


# --- odd answers


@pytest.mark.parametrize("status", ["100 Continue", "103 Early Hints"])
def test_what_comes_before_an_answer_is_left_out(line: Line, upstream: RawUpstream, status: str) -> None:
    """The final answer is the answer."""
    upstream.answer = f"HTTP/1.1 {status}\r\nlink: </a>\r\n\r\n".encode() + OK
    assert line.ask("GET /v1/x") == (200, [b"content-length: 2"], b"hi")


def test_an_upgrade_that_nobody_asked_for_is_a_502(line: Line, upstream: RawUpstream) -> None:
    """The client would wait for a protocol that it does not speak."""
    upstream.answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    status, _, body = line.ask("GET /v1/x")
    assert (status, json.loads(body)["code"]) == (502, "upstream_unreachable")
    upstream.answer = OK
    assert line.ask("GET /v1/x")[0] == 200


def test_answers_without_a_body_end_where_they_end(line: Line, upstream: RawUpstream) -> None:
    """A 304 may tell the length of what it does not send, and so may the answer to HEAD; the connection goes on."""
    upstream.answer = b'HTTP/1.1 304 Not Modified\r\netag: "x"\r\ncontent-length: 55\r\n\r\n'
    assert line.ask("GET /v1/x")[:2] == (304, [b'etag: "x"'])
    upstream.answer = b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n"
    assert line.ask("DELETE /v1/x")[:2] == (204, [b"x-a: 1"])
    upstream.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 55\r\n\r\n"
    line.send(b"HEAD /v1/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    head = line.rest()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 55" in head
    assert head.endswith(b"\r\n\r\n")


def test_a_message_never_holds_the_query(upstream: RawUpstream, running: Gateway, line: Line) -> None:
    """Some clients send their key there; an upstream that speaks nonsense must not make it a log line."""
    upstream.answer = lambda it: it.sendall(b"220 mail.example ESMTP\r\n\r\n")
    status, _, body = line.ask("POST /v1/messages?key=AIza-secret", "content-length: 0")
    assert status == 502
    assert "AIza" not in body.decode()
    assert "speaks no HTTP" in json.loads(body)["detail"]


# --- answers that break off


CHUNK = b'data: {"id":"c","model":"gpt-4o","usage":{"prompt_tokens":7,"completion_tokens":3},"choices":[]}\n\n'


def close(line: socket.socket) -> None:
    """As whoever answers does when it has nothing more to say."""


def babble(line: socket.socket) -> None:
    line.sendall(b"zz\r\n")
    line.recv(1)  # it stays connected


@pytest.mark.parametrize("how", [reset, close, babble])
def test_a_stream_that_breaks_off_is_seen_to(
    running: Gateway, upstream: RawUpstream, how: Callable[[socket.socket], None]
) -> None:
    """A reset, an early end and nonsense in the middle of a stream: the client has what came, sees that the end is
    missing, and the completion has the tokens that were told."""

    def answer(line: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        line.sendall(head + b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK))
        arrived.wait(60)  # a reset may overtake what was sent before it
        how(line)

    upstream.answer, got, arrived = answer, bytearray(), threading.Event()
    session = f"sess_{how.__name__}"
    headers = {"x-adjourn-session": session, "x-adjourn-session-end": "1"}
    url = f"{running.url}/v1/chat/completions"
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", url, json={"model": "gpt-4o"}, headers=headers, timeout=60) as answered,
    ):
        for part in answered.iter_raw():
            got += part
            arrived.set()
    assert bytes(got) == CHUNK
    found = until(lambda: [c for c in running.completions() if c["session"]["session_id"] == session], "a completion")
    assert found[0]["outcome"] == {"status": "error", "error_code": "upstream_disconnected"}
    assert (found[0]["usage"]["input_tokens"], found[0]["usage"]["output_tokens"]) == (7, 3)


def test_an_upstream_s_connection_is_used_again(line: Line, upstream: RawUpstream) -> None:
    """Also after answers that are errors; after one that broke off, another is made."""
    line.ask("GET /v1/x")
    before = upstream.connections
    upstream.answer = b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno"
    for _ in range(3):
        assert line.ask("GET /v1/x")[0] == 500
    assert upstream.connections == before
    upstream.answer = lambda it: it.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi")
    line.send(b"GET /v1/x HTTP/1.1\r\nhost: x\r\n\r\n")
    assert line.rest().endswith(b"\r\ncontent-length: 9\r\n\r\nhi")
    upstream.answer = OK
    other = Line(line.url)
    assert other.ask("GET /v1/x")[0] == 200
    other.close()
    assert upstream.connections == before + 1
