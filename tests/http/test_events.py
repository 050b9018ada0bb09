"""`POST /v1/events` over real HTTP."""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path

import httpx
import pytest
import zstandard
from tests.http.serving import Serving, event, is_problem, serving

from adjourn.http import protocol

CLOUD = "application/cloudevents+json"
CLOUD_BATCH = "application/cloudevents-batch+json"


def cloud(data: bytes, cloud_id: str) -> bytes:
    return b'{"specversion":"1.0","id":"%b","source":"test","type":"t","data":%b}' % (cloud_id.encode(), data)


def test_each_event_has_its_result_in_order(any_server: Serving) -> None:
    """One event, an array, NDJSON and all CloudEvents modes: a result per event, in the order of the body."""
    ids = [f"order_{n}" for n in range(4)]
    bodies: list[tuple[bytes, str, dict[str, str]]] = [
        (b"\n".join(event(f"nd_{i}") for i in ids), "application/x-ndjson", {}),
        (b"[" + b",".join(event(f"ar_{i}") for i in ids) + b"]", "application/json", {}),
        (b"[" + b",".join(cloud(event(f"ce_{i}"), i) for i in ids) + b"]", CLOUD_BATCH, {}),
        (event("one"), "application/json", {}),
        (cloud(event("structured"), "1"), CLOUD, {}),
        (event("bin"), "application/json", {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t"}),
        (gzip.compress(event("gz")), "application/json", {"content_encoding": "gzip"}),
        (zstandard.compress(event("zs")), "application/json", {"content_encoding": "zstd"}),
    ]
    for body, kind, headers in bodies:
        answer = any_server.post(body, kind, **headers)
        assert answer.status_code == 202, answer.text
        results = answer.json()["results"]
        assert answer.json()["accepted"] == len(results)
        for result in results:
            assert any_server.get(f"/v1/events/{result['event_id']}").status_code == 200
    assert [r["event_id"] for r in any_server.post(bodies[0][0]).json()["results"]] == [f"nd_{i}" for i in ids]


def test_a_bad_item_does_not_sink_the_others(any_server: Serving) -> None:
    """Accepted, duplicate, conflict and invalid stand beside each other, each where its event stood."""
    first = event("mixed_1", session_id="mixed")
    assert any_server.post(first).json()["accepted"] == 1
    lines = [
        event("mixed_2"),
        first,
        b"nonsense",
        event("mixed_1", session_id="mixed", attempt=2),
        b'{"session":{"session_id":7}}',
    ]
    answer = any_server.post(b"\n".join(lines)).json()
    assert [r["status"] for r in answer["results"]] == ["accepted", "duplicate", "invalid", "conflict", "invalid"]
    assert (answer["accepted"], answer["duplicate"], answer["conflict"], answer["invalid"]) == (1, 1, 1, 2)
    for result, line in list(zip(answer["results"], lines, strict=True))[2:]:
        assert result["remedy"]
        assert any_server.get(f"/v1/quarantine/{result['quarantine_id']}").json()["body"] == line.decode()
    assert answer["results"][4]["path"] == "session.session_id"


def test_a_bad_cloud_event_does_not_sink_its_batch(any_server: Serving) -> None:
    """It is invalid with its path, and in quarantine whole; numbered producers keep their numbers."""
    items = [cloud(event("cb_1"), "1"), b'{"specversion":"1.0","id":"2"}', cloud(b"7", "3"), cloud(event("cb_4"), "4")]
    headers = {"adjourn_producer": "cloudy", "adjourn_sequence": "11"}
    answer = any_server.post(b"[" + b",".join(items) + b"]", CLOUD_BATCH, **headers).json()
    assert [r["status"] for r in answer["results"]] == ["accepted", "invalid", "invalid", "accepted"]
    bad = answer["results"][1]
    assert bad["path"] == "source"
    assert any_server.get(f"/v1/quarantine/{bad['quarantine_id']}").json()["body"] == items[1].decode()
    again = any_server.post(b"[" + b",".join(items) + b"]", CLOUD_BATCH, **headers).json()
    assert [r["status"] for r in again["results"]] == ["duplicate", "invalid", "invalid", "duplicate"]


@pytest.mark.parametrize(
    ("body", "kind", "headers", "status", "code"),
    [
        (b"", "application/json", {}, 400, "body_invalid"),
        (b"", "application/x-ndjson", {}, 400, "body_invalid"),
        (b"[]", "application/json", {}, 400, "body_invalid"),
        (b"[1", "application/json", {}, 400, "body_invalid"),
        (b"[" * 1_000_000, "application/json", {}, 400, "body_invalid"),
        (event(), "text/xml", {}, 415, "media_type_unsupported"),
        (event(), "application/json", {"content_encoding": "br"}, 415, "media_type_unsupported"),
        (b"x", "application/json", {"content_encoding": "gzip"}, 400, "body_invalid"),
        (gzip.compress(event())[:-9], "application/json", {"content_encoding": "gzip"}, 400, "body_invalid"),
        (zstandard.compress(event())[:-1], "application/json", {"content_encoding": "zstd"}, 400, "body_invalid"),
        (gzip.compress(b"0" * 20_000_000), "application/json", {"content_encoding": "gzip"}, 413, "body_too_large"),
        (event(), "application/json", {"adjourn_producer": "p"}, 400, "body_invalid"),
        (event(), "application/json", {"adjourn_producer": "p", "adjourn_sequence": "0"}, 400, "body_invalid"),
        (
            event(),
            "application/json",
            {"adjourn_producer": "p", "adjourn_sequence": "0" * 19 + "1" * 5000},
            400,
            "body_invalid",
        ),
        (event(), "application/json", {"ce_specversion": "1.0"}, 400, "body_invalid"),
    ],
    ids=range(15),
)
def test_what_cannot_be_read_is_refused(
    server: Serving, body: bytes, kind: str, headers: dict[str, str], status: int, code: str
) -> None:
    """Each way of being unreadable has its status, as a problem."""
    assert is_problem(server.post(body, kind, **headers), status, code)


def test_a_body_over_the_limit_is_refused_before_it_is_whole(server: Serving) -> None:
    """With a length at once, without one as soon as the limit is passed; the connection's end is bounded too."""
    with server.socket() as line:
        line.sendall(server.head("POST /v1/events", "content-length: 99000000"))
        assert line.recv(65536).startswith(b"HTTP/1.1 413 ")
    with server.socket() as line:
        line.sendall(server.head("POST /v1/events", "transfer-encoding: chunked"))
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        sent = 0
        line.settimeout(0.02)
        answer = b""
        while not answer:
            line.settimeout(20)
            line.sendall(chunk)
            sent += 1
            assert sent < 200, "the server reads a body without end"
            line.settimeout(0.05)
            try:
                answer = line.recv(65536)
            except TimeoutError:
                pass
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert sent < 30


def test_a_refused_body_is_not_read_for_ever(server: Serving) -> None:
    """After 413 the rest is thrown away up to a bound, and then the connection is closed."""
    with server.socket() as line:
        line.sendall(server.head("POST /v1/events", "transfer-encoding: chunked"))
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        with pytest.raises(OSError):
            line.sendall(chunk * 200)


def test_a_client_that_hangs_up_leaves_nothing(server: Serving) -> None:
    """Half a body is no body: nothing of it is taken, and the room that it held is free again."""
    body = event("half")
    for _ in range(20):
        with server.socket() as line:
            line.sendall(server.head("POST /v1/events", "content-length: 15000000") + body + b" " * 4_000_000)
    time.sleep(0.5)
    assert server.post(event("whole") + b" " * 10_000_000, "application/json").status_code == 202
    assert server.get("/v1/events/half").status_code == 404


def test_one_connection_carries_many_requests(server: Serving) -> None:
    """Keep-alive and pipelining: as many answers as requests, in order."""
    with server.socket() as line:
        ids = [f"pipe_{n}" for n in range(20)]
        for event_id in ids:
            body = event(event_id)
            line.sendall(server.head("POST /v1/events", f"content-length: {len(body)}") + body)
        found: list[bytes] = []
        data = b""
        while len(found) < len(ids):
            data += line.recv(65536)
            found = re.findall(rb'"event_id":"(pipe_\d+)"', data)
    assert [name.decode() for name in found] == ids
    assert data.count(b"HTTP/1.1 202 ") == len(ids)


def test_expect_continue_is_answered(server: Serving) -> None:
    """A client that asks first is told to go on, or refused before it has sent anything."""
    with server.socket() as line:
        body = event()
        line.sendall(server.head("POST /v1/events", f"content-length: {len(body)}", "expect: 100-continue"))
        assert line.recv(100).startswith(b"HTTP/1.1 100 ")
        line.sendall(body)
        assert line.recv(65536).startswith(b"HTTP/1.1 202 ")
    with server.socket() as line:
        line.sendall(server.head("POST /v1/events", "content-length: 99000000", "expect: 100-continue"))
        assert line.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_slow_body_is_bounded_in_time(any_database: str, tmp_path: Path) -> None:
    """A sender that dribbles is cut off with 408, and others are served meanwhile."""
    assert 10 <= protocol.BODY_S_MAX <= 120
    with (
        serving(any_database, tmp_path, patches={"adjourn.http.protocol.BODY_S_MAX": 0.5}) as server,
        server.socket() as line,
    ):
        line.sendall(server.head("POST /v1/events", "content-length: 1000") + b"{")
        assert server.post(event()).status_code == 202
        answer = line.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        answer += line.recv(65536) if not answer.endswith(b"}") else b""
        assert b'"code":"body_slow"' in answer


def test_what_was_acknowledged_survives_a_kill(any_database: str, tmp_path: Path) -> None:
    """SIGKILL right behind the last 202: after the restart every acknowledged event is there, and none is doubled."""

    def lines(n: int) -> bytes:
        return b"\n".join(event(f"kill_{n}_{i}", session_id=f"s_{i}") for i in range(25))

    with serving(any_database, tmp_path) as server:
        acknowledged = [result["event_id"] for n in range(20) for result in server.post(lines(n)).json()["results"]]
        server.kill()
        keys = server.keys
    with serving(any_database, tmp_path, keys=keys) as server:
        missing = [i for i in acknowledged if server.get(f"/v1/events/{i}").status_code != 200]
        assert (len(acknowledged), missing) == (500, [])
        again = server.post(b"\n".join(lines(n) for n in range(20))).json()
        assert (again["duplicate"], again["accepted"]) == (500, 0)
        assert "adjourn_log_events 500.0" in server.get("/metrics").text


def test_others_are_served_while_a_large_body_is_read(server: Serving) -> None:
    """16 MB are decoded in slices: a probe beside it waits for a slice, not for the whole."""
    lines = b"\n".join(event(final="x" * 300) for _ in range(30_000))
    body = lines[: lines.rindex(b"\n", 0, 15_900_000)] if len(lines) > 15_900_000 else lines
    with server.socket() as line, httpx.Client(base_url=server.url, trust_env=False) as probe:
        probe.get("/healthz")
        line.sendall(server.head("POST /v1/events", f"content-length: {len(body)}") + body)
        answered = 0
        line.settimeout(0.0)
        data = b""
        deadline = time.monotonic() + 30
        while not data and time.monotonic() < deadline:
            assert probe.get("/healthz").status_code == 200
            answered += 1
            try:
                data = line.recv(64)
            except (TimeoutError, BlockingIOError):
                pass
    assert data.startswith(b"HTTP/1.1 202 ")
    assert answered > 5


def test_bodies_that_are_held_at_once_are_bounded(server: Serving) -> None:
    """Past the bound, a new body is told to come back: 429 with Retry-After; it is taken once there is room."""
    held = [server.socket() for _ in range(5)]
    try:
        for line in held:
            line.sendall(server.head("POST /v1/events", "content-length: 15900000"))
            line.sendall(b" " * 15_000_000)
        answers = []
        for line in held:
            line.settimeout(1.0)
            try:
                answers.append(line.recv(65536))
            except TimeoutError:
                pass
        assert any(a.startswith(b"HTTP/1.1 429 ") and b"retry-after: " in a for a in answers)
    finally:
        for line in held:
            line.close()
    time.sleep(0.2)
    assert server.post(event()).status_code == 202


def test_a_full_write_queue_is_429(tmp_path: Path) -> None:
    """More than the queue holds is refused with Retry-After; what was answered 202 is there, and nothing else."""
    from concurrent.futures import ThreadPoolExecutor

    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, database={"queue_events_max": 50}) as server:

        def send(n: int) -> tuple[int, httpx.Response]:
            return n, server.post(b"\n".join(event(f"q_{n}_{i}") for i in range(40)))

        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(send, range(120)))
        refused = [answer for _, answer in answers if answer.status_code != 202]
        assert refused, "the queue was never full"
        for answer in refused:
            assert is_problem(answer, 429, "too_busy")
            assert int(answer.headers["retry-after"]) >= 1
        taken = 40 * (len(answers) - len(refused))
        assert f"adjourn_log_events {float(taken)}" in server.get("/metrics").text
        assert json.loads(server.post(event()).text)["accepted"] == 1
