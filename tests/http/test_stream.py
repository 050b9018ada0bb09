"""`GET /v1/stream`: every event once, whatever happens to the connection, the server or the log."""

from __future__ import annotations

import random
import socket
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest
from tests.http.serving import Serving, event, is_problem, serving
from tests.http.streaming import streaming
from tests.http.test_relay import relay

from adjourn.testing.exercise_destination import change_of_status

EACH = 40


def ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}_{n:04}" for n in range(count)]


def send(server: Serving, names: list[str], who: str = "acme/writer") -> None:
    answer = server.post(b"\n".join(event(name) for name in names), who=who)
    assert answer.json()["accepted"] == len(names)


def test_events_come_as_they_are_committed(any_server: Serving) -> None:
    """A stream from now has what is sent from now on, whole, with what Adjourn knows of it, and no other tenant's."""
    send(any_server, ids("before", 3))
    with streaming(any_server) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        stream.next_of("mark")
        send(any_server, ids("foreign", 3), who="other/writer")
        pretty = b'{\r\n  "event_id": "pretty",\n  "session": {"session_id": "s"},\n  "own": "a\\nb"\n}'
        any_server.post(pretty, "application/json")
        message = stream.next_of("message").data
        assert message["event"] == {"event_id": "pretty", "session": {"session_id": "s"}, "own": "a\nb"}
        assert message["tenant"] == "acme"
        looked_up = any_server.get("/v1/events/pretty").json()
        assert all(looked_up[name] == value for name, value in message.items())


def test_a_client_that_comes_back_gets_each_event_once(any_server: Serving, rng: random.Random) -> None:
    """Cut off at any message, again and again, while events are being sent: with Last-Event-ID nothing is missing and
    nothing comes twice, and the order of each session is kept."""
    names = ids("back", EACH)
    with streaming(any_server) as stream:
        position = stream.next_of("mark").data
    sender = threading.Thread(target=lambda: [send(any_server, names[i : i + 4]) for i in range(0, EACH, 4)])
    sender.start()
    seen: list[str] = []
    while len(seen) < EACH:
        with streaming(any_server, last_id=position) as stream:
            seen += stream.events(min(rng.randint(1, 9), EACH - len(seen)))
            position = stream.last_id
    sender.join()
    assert sorted(seen) == names


def test_a_stream_goes_on_behind_a_killed_server(any_database: str, tmp_path: Path) -> None:
    """SIGKILL in the middle: the next server takes the id that the last one gave, and goes on exactly there."""
    names = ids("killed", 60)
    with serving(any_database, tmp_path) as first:
        send(first, names[:30])
        with streaming(first, "?from=start") as stream:
            seen = stream.events(17)
            first.kill()
            position = stream.last_id
        keys = first.keys
    with serving(any_database, tmp_path, keys=keys) as second:
        send(second, names[30:])
        with streaming(second, "?from=start", last_id=position) as stream:  # the header wins, as browsers need it
            seen += stream.events(43)
    assert sorted(seen) == names


def test_a_filter_lets_through_what_it_is_true_of(any_server: Serving) -> None:
    """The rest moves the position all the same, so that nobody who comes back has to have it looked at again."""
    tag = f"f{random.SystemRandom().randrange(2**32)}"
    query = f"?from=start&filter=session.session_id == '{tag}' || usage.nothing > 3"
    any_server.post(b'{"event_id":"%b","session":{"session_id":"%b"}}' % (tag.encode(), tag.encode()))
    with streaming(any_server, query) as stream:
        assert stream.events(1) == [tag]
    broken = any_server.get("/v1/stream?filter=1 %2B 1")
    assert is_problem(broken, 400, "config_invalid")
    assert broken.json()["path"] == "filter"


def test_what_is_no_position_is_refused(any_server: Serving) -> None:
    """Nonsense is 400; an id of another log, or of one that was rolled back since, is 410 and says how to go on."""
    for nonsense in ("yesterday", "1-", "-1", "2026-11-21T05:16:18", "1" * 40):
        answer = any_server.get(f"/v1/stream?from={nonsense}")
        assert is_problem(answer, 400, "body_invalid"), nonsense
        assert answer.json()["path"] == "from"
    for foreign in ("999999999", "0-0-0-0-0", "999999999-999999999"):
        assert is_problem(any_server.get(f"/v1/stream?from={foreign}"), 410, "position_gone")


def test_a_time_is_a_place_too(any_server: Serving) -> None:
    """From a time on: events that were received then or later, and none before."""
    send(any_server, ["old_one"])
    time.sleep(0.01)
    received = any_server.get("/v1/events/old_one").json()["received_at"]
    send(any_server, ["new_one"])
    later = any_server.get("/v1/events/new_one").json()["received_at"]
    assert later > received
    with streaming(any_server, f"?from={later}") as stream:
        assert stream.events(1) == ["new_one"]


def test_a_silent_stream_beats(any_database: str, tmp_path: Path) -> None:
    """With nothing to tell, a comment keeps the connection alive, and carries the position past others' events."""
    patches = {"adjourn.http.stream.HEARTBEAT_S": 0.2}
    with serving(any_database, tmp_path, patches=patches) as server, streaming(server) as stream:
        stream.next_of("comment")
        before = stream.last_id
        send(server, ["foreign"], who="other/writer")
        while stream.last_id == before:
            assert stream.next_of("comment").data == "heartbeat"


def test_a_revoked_key_s_stream_ends(tmp_path: Path) -> None:
    """A stream is open for days; its key is asked again with every heartbeat."""
    patches = {"adjourn.http.stream.HEARTBEAT_S": 0.2, "adjourn.security.service.CACHE_S": 0.1}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, patches=patches) as server:
        made = server.request("POST", "/v1/keys", json={"role": "reader"}).json()
        server.keys["made"] = made["secret"]
        with streaming(server, who="made") as stream:
            stream.next_of("comment")  # a heartbeat
            assert server.request("DELETE", f"/v1/keys/{made['key']['id']}").status_code == 204
            said = {message.data for message in stream if message.kind == "comment"}
            assert said == {"heartbeat", "the key was revoked"}
        with streaming(server, who="made") as stream:
            assert stream.status == 401


def test_streams_are_limited(tmp_path: Path) -> None:
    """One too many is told when to come back; a place that becomes free is given away."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, server={"streams_max": 2}) as server:
        with streaming(server) as one, streaming(server) as two, streaming(server) as three:
            assert (one.status, two.status, three.status) == (200, 200, 503)
            assert three.headers["retry-after"] == "10"
        deadline = time.monotonic() + 30
        while True:
            with streaming(server) as again:
                if again.status == 200:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_stopping_server_lets_its_streams_go(tmp_path: Path) -> None:
    """Idle and busy streams end as soon as the server is told to stop, each saying when to come back."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, server={"drain_ms_max": 60_000}) as server:
        send(server, ids("busy", 500))
        with streaming(server) as idle, streaming(server, "?from=start") as busy:
            busy.events(1)
            server.terminate()
            for stream in (idle, busy):
                assert [m.data for m in stream if m.kind == "comment"] == ["the server is stopping"]
                assert stream.retry_ms == 2000
                assert stream.ended
        assert server.process.wait(60) == 0


def test_what_retention_deleted_is_said(tmp_path: Path) -> None:
    """A client that comes back too late is told which offsets it cannot have, and gets the rest."""
    url = f"sqlite:///{tmp_path}/a.db"
    with serving(url, tmp_path) as server:
        send(server, ids("gone", 10))
        send(server, ids("kept", 5))
        with sqlite3.connect(tmp_path / "a.db") as connection:
            first = connection.execute("SELECT max(first_offset) FROM log_blocks").fetchone()[0]
            assert first == 10
            connection.execute("DELETE FROM log_blocks WHERE first_offset < 10")
            connection.execute("UPDATE log_heads SET tail_offset = 10")
        with streaming(server, last_id="3") as stream:
            gap = stream.next_of("gap").data
            assert (gap["partition"], gap["first_offset"], gap["count"]) == (0, 3, 7)
            assert "retention" in gap["reason"]
            assert stream.events(5) == ids("kept", 5)
        with streaming(server, "?from=start") as stream:
            stream.next_of("mark")
            assert next(iter(stream)).kind == "message"


def test_a_damaged_block_is_a_gap(tmp_path: Path) -> None:
    """What cannot be read is told with its place, and the stream goes on behind it."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, log={"compact_interval_ms": 600_000}) as server:
        for part in ("a", "b", "c"):
            send(server, ids(part, 4))
        with sqlite3.connect(tmp_path / "a.db") as connection:
            connection.execute("UPDATE log_blocks SET checksum = x'00' WHERE first_offset = 4")
        with streaming(server, "?from=start") as stream:
            stream.next_of("mark")
            found = [next(iter(stream)) for _ in range(9)]
        assert [m.kind for m in found] == ["message"] * 4 + ["gap"] + ["message"] * 4
        assert found[4].data["first_offset"] == 4


def test_a_slow_reader_costs_its_socket(tmp_path: Path) -> None:
    """Clients that read nothing hold no memory for what they have not read: 40 MB wait for each of 30, and the server
    grows by less than that for all of them; afterwards one that reads gets everything."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path) as server:
        big = b"\n".join(event(f"big_{n:04}", note="x" * 40_000) for n in range(100))
        for part in range(10):
            server.post(big.replace(b"big_", b"big%d_" % part))
        before = resident_mb(server)
        lines = server.head("GET /v1/stream?from=start")
        sockets = [server.socket() for _ in range(30)]
        try:
            for sock in sockets:
                sock.sendall(lines)
            for sock in sockets:
                assert sock.recv(15) == b"HTTP/1.1 200 OK"
            with streaming(server, "?from=start") as stream:
                assert len(set(stream.events(1000))) == 1000
            assert resident_mb(server) - before < 100
        finally:
            for sock in sockets:
                sock.close()


def test_a_stalled_reader_is_let_go(tmp_path: Path) -> None:
    """A client that takes nothing for long gives its place back."""
    patches = {"adjourn.http.stream.STALLED_S_MAX": 0.5}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, patches=patches, server={"streams_max": 1}) as server:
        for part in range(5):
            server.post(b"\n".join(event(f"e{part}_{n}", note="x" * 40_000) for n in range(100)))
        with server.socket() as stalled:
            stalled.sendall(server.head("GET /v1/stream?from=start"))
            assert stalled.recv(15) == b"HTTP/1.1 200 OK"
            deadline = time.monotonic() + 60
            while server.get("/v1/stream?from=nonsense").status_code == 503:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_head_tells_and_ends(server: Serving) -> None:
    """A probe with HEAD gets the headers of a stream, and no stream."""
    answer = server.request("HEAD", "/v1/stream")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_many_streams_get_every_event(tmp_path: Path) -> None:
    """Two hundred clients at the head of the log, each gets each event, and they leave nothing behind."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path) as server:
        request = server.head("GET /v1/stream")
        sockets = [server.socket() for _ in range(200)]
        for sock in sockets:
            sock.sendall(request)
        for sock in sockets:
            read_until(sock, b"\nid: 0\n")
        send(server, ids("all", 20))
        for sock in sockets:
            read_until(sock, b'"all_0019"')
            sock.close()
        deadline = time.monotonic() + 60
        while "adjourn_streams 0.0" not in server.get("/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def read_until(sock: socket.socket, wanted: bytes) -> None:
    found = b""
    while wanted not in found:
        part = sock.recv(65536)
        assert part, found[-200:]
        found += part


def resident_mb(server: Serving) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def test_the_answer_of_a_refusal_is_a_problem(server: Serving) -> None:
    """Whoever may not read events gets no stream."""
    with pytest.raises(httpx.HTTPStatusError):
        server.get("/v1/stream", who="acme/writer").raise_for_status()
    assert is_problem(server.get("/v1/stream", who="acme/writer"), 403, "forbidden")


def test_changes_of_status_are_in_a_stream_unless_it_leaves_them_out(any_server: Serving) -> None:
    """A stream shows every type of event; a filter tells them apart."""
    with streaming(any_server) as stream:
        position = stream.next_of("mark").data
    own = change_of_status(1).body.replace(b"evt_1", b"evt_changed")
    assert relay(any_server, [(1, "acme", None, "", own)], producer="streamed/up/0").json()["accepted"] == 1
    send(any_server, ["after_the_change"])
    with streaming(any_server, last_id=position) as stream:
        assert sorted(stream.events(2)) == ["after_the_change", "evt_changed"]
    with streaming(any_server, "?filter=event_type!='session.status_changed'", last_id=position) as stream:
        assert stream.events(1) == ["after_the_change"]
    with streaming(any_server, "?filter=to=='active'", last_id=position) as stream:
        assert stream.events(1) == ["evt_changed"]
