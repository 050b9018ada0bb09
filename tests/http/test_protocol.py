"""The bounds on what is not a request yet, or no longer one."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from tests.http.serving import Serving, event, serving

from adjourn.http import protocol


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nbad header\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_by_a_problem(server: Serving, data: bytes) -> None:
    """400 or 401 as a problem, and the connection does not hang."""
    with server.socket() as line:
        line.sendall(data)
        line.settimeout(5)
        answer = b""
        while b"}" not in answer and (part := line.recv(65536)):
            answer += part
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 "))
    assert b"application/problem+json" in answer


def test_a_head_without_end_is_cut_off(server: Serving) -> None:
    """Neither many headers nor one long one nor a long address may fill memory."""
    for start, more in (
        (b"GET /healthz HTTP/1.1\r\n", b"a: b\r\n" * 10_000),
        (b"GET /healthz HTTP/1.1\r\na: ", b"x" * 60_000),
        (b"GET /", b"x" * 60_000),
    ):
        with server.socket() as line, pytest.raises(OSError):
            _dribble(line, start, more)
        assert server.post(event()).status_code == 202


def test_a_head_that_never_comes_is_cut_off(tmp_path: Path) -> None:
    """A connection that says nothing, or dribbles headers, is closed; one that waits between requests is not hurt."""
    assert 5 <= protocol.HEAD_S_MAX <= 60
    patches = {"adjourn.http.protocol.HEAD_S_MAX": 0.5}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, patches=patches) as server:
        for data in (b"", b"GET /healthz HTTP/1.1\r\na: b\r\n"):
            with server.socket() as line:
                line.sendall(data)
                line.settimeout(5)
                assert line.recv(100) == b""
        for _ in range(3):
            assert server.post(event()).status_code == 202
            time.sleep(0.7)


def _dribble(line: socket.socket, start: bytes, more: bytes) -> None:
    line.sendall(start)
    for _ in range(50):
        line.sendall(more)
        time.sleep(0.005)


def _answered(line: socket.socket) -> bytes:
    """All that comes until the server closes."""
    line.settimeout(10)
    answer = b""
    while part := line.recv(65536):
        answer += part
    return answer


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_wish_for_http_2_is_passed_over(server: Serving, pieces: int) -> None:
    """As Java's client sends it by default: the body is read, and the answer is HTTP/1.1."""
    asks = (
        "content-type: application/json",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    with server.socket() as line:
        for _ in range(2):
            body = event()
            head = server.head("POST /v1/events", f"content-length: {len(body)}", *asks)
            for part in (head + body,) if pieces == 1 else (head, body):
                line.sendall(part)
                time.sleep(0.05)
            answer = line.recv(65536)
            assert answer.startswith(b"HTTP/1.1 202 ")
            assert b'"accepted":1' in answer


@pytest.mark.parametrize("body", [event(), event() + b"\n" + event()], ids=range(2))
def test_who_has_said_all_still_hears_the_answer(server: Serving, body: bytes) -> None:
    """A sender that closes its half of the connection behind the request is answered, and then it ends."""
    head = server.head("POST /v1/events", "content-type: application/x-ndjson", f"content-length: {len(body)}")
    with server.socket() as line:
        line.sendall(head + body)
        line.shutdown(socket.SHUT_WR)
        answer = _answered(line)
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert answer.endswith(b"]}")


def test_a_question_before_the_body_is_answered_behind_others(server: Serving) -> None:
    """`Expect: 100-continue` behind another request on the same connection."""
    first, second = event(), event()
    kind = "content-type: application/json"
    with server.socket() as line:
        line.sendall(
            server.head("POST /v1/events", kind, f"content-length: {len(first)}")
            + first
            + server.head(
                "POST /v1/events", kind, f"content-length: {len(second)}", "expect: 100-continue", "connection: close"
            )
        )
        line.settimeout(10)
        answer = b""
        while b" 100 Continue\r\n\r\n" not in answer:
            part = line.recv(65536)
            assert part
            answer += part
        line.sendall(second)
        answer += _answered(line)
    assert answer.count(b"HTTP/1.1 202 ") == 2
