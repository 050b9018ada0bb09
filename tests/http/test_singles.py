"""Requests of one event that come whole: taken together, and answered exactly as the others are."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import pytest
from tests.http.serving import Serving, event, serving

from adjourn.http.singles import BODY_BYTES_MAX, event_of

JSON = b"application/json"
LINES = b"application/x-ndjson"

Answer = tuple[bytes, list[bytes], bytes]
"""Status line, names of the headers, body."""


@pytest.mark.parametrize(
    ("kind", "body", "found"),
    [
        (JSON, b'{"a":1}', b'{"a":1}'),
        (JSON + b"; charset=utf-8", b'{"a":1}', b'{"a":1}'),
        (LINES, b'{"a":1}', b'{"a":1}'),
        (LINES, b'{"a":1}\n', b'{"a":1}'),
        (LINES, b'{"a":1}\n\n', None),
        (LINES, b'{"a":1}\n{"a":2}', None),
        (JSON, b'{"a":1}\n{"a":2}', None),
        (JSON, b'{"a":1}\n', None),
        (JSON, b'[{"a":1}]', None),
        (JSON, b"", None),
        (JSON, b' {"a":1}', None),
        (JSON, b'{"a":"' + b"x" * BODY_BYTES_MAX + b'"}', None),
        (b"application/cloudevents+json", b'{"a":1}', None),
        (b"text/plain", b'{"a":1}', None),
        (b"", b'{"a":1}', None),
    ],
)
def test_what_is_one_plain_event(kind: bytes, body: bytes, found: bytes | None) -> None:
    """Only what needs no second look; everything else goes the long way."""
    assert event_of({b"content-type": kind}, body) == found


@pytest.mark.parametrize("header", [b"content-encoding", b"adjourn-producer", b"ce-specversion"])
def test_headers_that_ask_for_more(header: bytes) -> None:
    """Compressed bodies, numbered ones and CloudEvents in headers are not taken as they are."""
    assert event_of({b"content-type": JSON, header: b"x"}, b"{}") is None


@pytest.mark.parametrize(
    "body",
    [
        event("new_WAY"),
        event("known_WAY", session_id="known"),
        event("known_WAY", session_id="another"),
        b'{"session":{"session_id":"without_WAY"}}',
        b'{"session":{"session_id":7,"x":"WAY"}}',
        b'{"session":{"session_id":"s_WAY"},"usage":{"input_tokens":-1}}',
        b'{"broken WAY',
        b'{"a":"WAY"}{}',
        b"{" * 5_000 + b"WAY",
        b'{"session":{"session_id":"WAY\\u0000"}}',
        b'{"session":{"session_id":"WAY\xff"}}',
    ],
)
def test_both_ways_answer_alike(server: Serving, body: bytes) -> None:
    """A request that comes in one piece is answered as one that comes in two: status, headers, results."""
    answers: list[Answer] = []
    for way in (b"1", b"2"):
        server.post(event(f"known_{way.decode()}", session_id="known"))
        with server.socket() as line:
            request = _request(server, body.replace(b"WAY", way))
            if way == b"2":
                line.sendall(request[:-3])
                time.sleep(0.05)
                request = request[-3:]
            line.sendall(request)
            answers.append(_answers(line, 1)[0])
    short, long = answers
    assert short[0] == long[0] == b"HTTP/1.1 202 Accepted"
    assert short[1] == long[1]
    assert _without_ids(short[2]) == _without_ids(long[2])


def test_many_at_once_each_hear_their_own(server: Serving) -> None:
    """Of requests that are taken together, each is answered for its own event and tenant; a bad one harms no other."""
    lines = [server.socket() for _ in range(40)]
    try:
        for number, line in enumerate(lines):
            who = ("acme/writer", "other/writer")[number % 2]
            body = b"{" if number % 10 == 9 else event(f"together_{number // 2}")
            line.sendall(_request(server, body, who=who))
        for number, line in enumerate(lines):
            answer = json.loads(_answers(line, 1)[0][2])
            if number % 10 == 9:
                assert (answer["invalid"], answer["results"][0]["status"]) == (1, "invalid")
            else:
                assert answer["results"] == [{"status": "accepted", "event_id": f"together_{number // 2}"}]
    finally:
        for line in lines:
            line.close()


def test_the_same_event_twice_at_once(server: Serving) -> None:
    """One of them is accepted, whichever; the others are duplicates."""
    lines = [server.socket() for _ in range(20)]
    body = event("at_once")
    for line in lines:
        line.sendall(_request(server, body))
    said = [json.loads(_answers(line, 1)[0][2])["results"][0]["status"] for line in lines]
    assert sorted(said) == ["accepted"] + ["duplicate"] * 19
    for line in lines:
        line.close()


def test_requests_behind_each_other_on_one_connection(server: Serving) -> None:
    """Sent without waiting for answers, short and long ones mixed: answered in order."""
    bodies = [event(f"pipe_{n}") if n % 3 else event(f"pipe_{n}") + b"\n" + event(f"more_{n}") for n in range(12)]
    with server.socket() as line:
        line.sendall(b"".join(_request(server, body, kind=LINES) for body in bodies))
        answers = _answers(line, len(bodies))
    ids = [[result["event_id"] for result in json.loads(body)["results"]] for _, _, body in answers]
    assert ids == [[f"pipe_{n}"] if n % 3 else [f"pipe_{n}", f"more_{n}"] for n in range(12)]


def test_a_connection_that_is_to_end_ends(server: Serving) -> None:
    """After `connection: close`, and after HTTP/1.0."""
    asked = _request(server, event(), more=b"connection: close\r\n")
    for request in (asked, _request(server, event()).replace(b" HTTP/1.1", b" HTTP/1.0")):
        with server.socket() as line:
            line.sendall(request)
            line.settimeout(10)
            answer = b""
            while part := line.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert b"\r\nconnection: close\r\n" in answer


def test_who_hangs_up_harms_nobody(server: Serving) -> None:
    """The event of a sender that does not wait for its answer is taken; others are answered."""
    for number in range(20):
        with server.socket() as line:
            line.sendall(_request(server, event(f"gone_{number}")))
    assert server.post(event()).status_code == 202
    deadline = time.monotonic() + 10
    missing = {f"gone_{number}" for number in range(20)}
    while missing and time.monotonic() < deadline:
        missing = {name for name in missing if server.get(f"/v1/events/{name}").status_code != 200}
    assert not missing


def test_no_key_no_entry(server: Serving) -> None:
    """Without a key, with a wrong one, and with one that may not write."""
    for authorization, status in ((b"", b"401"), (b"Bearer adj_wrong", b"401"), (_key(server, "acme/reader"), b"403")):
        head = b"authorization: %b\r\n" % authorization if authorization else b""
        with server.socket() as line:
            for _ in range(2):
                line.sendall(_request(server, event(), who=None, more=head))
                assert _answers(line, 1)[0][0].split()[1] == status


def test_a_key_that_was_revoked_is_refused_at_once(server: Serving) -> None:
    """Also where it was known a moment ago."""
    made = server.request("POST", "/v1/keys", json={"name": "short-lived", "role": "writer"}).json()
    head = b"authorization: Bearer %b\r\n" % made["secret"].encode()
    with server.socket() as line:
        for status in (b"202", b"202", b"401"):
            if status == b"401":
                assert server.request("DELETE", f"/v1/keys/{made['key']['id']}").status_code < 300
            line.sendall(_request(server, event(), who=None, more=head))
            assert _answers(line, 1)[0][0].split()[1] == status


def test_a_full_queue_says_so(tmp_path: Path) -> None:
    """What does not fit is refused with 429 and when to come back, and can be sent again; nothing is doubled."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, database={"queue_events_max": 1}) as server:
        lines = [server.socket() for _ in range(60)]
        pending = {number: event(f"full_{number}") for number in range(60)}
        refused = 0
        while pending:
            for number in pending:
                lines[number].sendall(_request(server, pending[number]))
            for number in list(pending):
                status, headers, _ = _answers(lines[number], 1)[0]
                if b" 202 " in status:
                    del pending[number]
                else:
                    assert b" 429 " in status
                    assert b"retry-after" in headers
                    refused += 1
        assert refused
        for line in lines:
            line.close()


def _key(server: Serving, who: str) -> bytes:
    return f"Bearer {server.keys[who]}".encode()


def _request(
    server: Serving, body: bytes, *, who: str | None = "acme/admin", kind: bytes = JSON, more: bytes = b""
) -> bytes:
    if who is not None:
        more += b"authorization: %b\r\n" % _key(server, who)
    head = b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
    return head % (kind, len(body), more) + body


def _answers(line: socket.socket, count: int) -> list[Answer]:
    line.settimeout(10)
    buffer = b""
    found: list[Answer] = []
    while len(found) < count:
        head, end, rest = buffer.partition(b"\r\n\r\n")
        fields = dict(field.split(b": ", 1) for field in head.split(b"\r\n")[1:] if end)
        length = int(fields.get(b"content-length", b"0"))
        if end and len(rest) >= length:
            found.append((head.split(b"\r\n")[0], sorted(fields), rest[:length]))
            buffer = rest[length:]
            continue
        part = line.recv(65536)
        assert part, "the connection ended before its answer"
        buffer += part
    return found


def _without_ids(body: bytes) -> bytes:
    return re.sub(rb'"(event_id|quarantine_id)":"[^"]*"', b'"id"', body)
