"""Starting, draining, and what the server answers while something else is away."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest
from tests.http.serving import Serving, event, is_problem, serving
from tests.postgres import PostgresServer

from adjourn.errors import ConfigInvalid
from adjourn.testing.faults import small_disk


def test_sigterm_drains(any_database: str, tmp_path: Path) -> None:
    """What is under way is answered, what is new refused, what was acknowledged is there; exit code 0, in time."""
    drain_ms = 3000
    settings = {"server": {"drain_ms_max": drain_ms}}
    with serving(any_database, tmp_path, **settings) as server:
        acknowledged: list[str] = []
        stop = threading.Event()
        threads = [threading.Thread(target=_send, args=(server, acknowledged, stop, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        body = event("slow")
        with server.socket() as line:
            line.sendall(server.head("POST /v1/events", f"content-length: {len(body)}") + body[:5])
            time.sleep(0.5)
            started = time.monotonic()
            server.terminate()
            time.sleep(0.3)
            line.sendall(body[5:])
            assert line.recv(65536).startswith(b"HTTP/1.1 202 ")
        assert server.process.wait(drain_ms / 1000 + 2) == 0
        assert time.monotonic() - started < drain_ms / 1000 + 2
        stop.set()
        for thread in threads:
            thread.join()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")
        keys = server.keys
    with serving(any_database, tmp_path, keys=keys) as server:
        assert acknowledged
        for event_id in ["slow", *acknowledged[-50:]]:
            assert server.get(f"/v1/events/{event_id}").status_code == 200
        assert f"adjourn_log_events {len(acknowledged) + 1}.0" in server.get("/metrics").text


def _send(server: Serving, acknowledged: list[str], stop: threading.Event, thread: int) -> None:
    """Until the server is gone. Sent in one piece, so an error while connecting means: nothing was taken."""
    n = 0
    while not stop.is_set():
        n += 1
        event_id = f"drain_{thread}_{n}"
        try:
            if server.post(event(event_id)).status_code == 202:
                acknowledged.append(event_id)
        except httpx.HTTPError:
            return


def test_a_request_that_never_ends_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    """The drain is bounded: half a body is cut off at its end."""
    url, settings = f"sqlite:///{tmp_path}/a.db", {"server": {"drain_ms_max": 1000}}
    with serving(url, tmp_path, **settings) as server, server.socket() as line:
        line.sendall(server.head("POST /v1/events", "content-length: 1000") + b"{")
        time.sleep(0.3)
        server.terminate()
        assert server.process.wait(3) == 0


def test_a_database_that_goes_away_comes_back(tmp_path: Path) -> None:
    """PostgreSQL stops: 503 with Retry-After, not ready, alive. It starts: everything works again, by itself."""
    postgres = PostgresServer()
    try:
        with serving(postgres.fresh_database(), tmp_path, database={"write_timeout_ms": 1500}) as server:
            assert server.post(event("before")).status_code == 202
            postgres.stop()
            for answer in (server.post(event("during")), server.get("/v1/quarantine"), server.get("/v1/events/before")):
                assert is_problem(answer, 503, "unavailable")
                assert int(answer.headers["retry-after"]) >= 1
            assert server.client.get("/readyz").status_code == 503
            assert server.client.get("/healthz").status_code == 200
            postgres.start()
            _until(lambda: server.post(event("after")).status_code == 202)
            _until(lambda: server.client.get("/readyz").status_code == 200)
            assert server.get("/v1/events/before").status_code == 200
            assert "adjourn_log_events 2.0" in server.get("/metrics").text
            postgres.stop()
            server.terminate()
            assert server.process.wait(13) == 0
    finally:
        postgres.close()


def test_a_full_disk_is_507_until_there_is_room(tmp_path: Path) -> None:
    """Nothing is acknowledged that is not on the disk, and nothing that was is lost."""
    with small_disk(12) as disk, serving(f"sqlite:///{disk}/a.db", tmp_path) as server:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 6_000_000)
        taken: list[str] = []
        answer = None
        for n in range(100):
            ids = [f"disk_{n}_{i}" for i in range(200)]
            answer = server.post(b"\n".join(event(i, note=_noise(i)) for i in ids))
            if answer.status_code != 202:
                break
            taken += ids
        assert answer is not None
        assert is_problem(answer, 507, "storage_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert server.client.get("/healthz").status_code == 200
        ballast.unlink()
        _until(lambda: server.post(event("after")).status_code == 202)
        missing = [i for i in taken[::20] if server.get(f"/v1/events/{i}").status_code != 200]
        assert (missing, f"adjourn_log_events {len(taken) + 1}.0" in server.get("/metrics").text) == ([], True)


def test_a_port_that_is_taken_is_said(server: Serving, tmp_path: Path) -> None:
    """The message names address and remedy, and nothing is left running."""
    import asyncio

    from adjourn.http.server import serve
    from adjourn.node import Node
    from adjourn.settings import DatabaseSettings, ServerSettings, Settings

    port = int(server.url.rsplit(":", 1)[1])
    settings = Settings(
        data_dir=str(tmp_path),
        database=DatabaseSettings(url=f"sqlite:///{tmp_path}/b.db"),
        server=ServerSettings(port=port),
    )
    with pytest.raises(ConfigInvalid, match="cannot listen"):
        asyncio.run(serve(Node(settings)))


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    """The error is that of the database, and the port is free again."""
    import asyncio
    import socket

    from adjourn.errors import Unavailable
    from adjourn.http.server import serve
    from adjourn.node import Node
    from adjourn.settings import DatabaseSettings, ServerSettings, Settings

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = Settings(
        data_dir=str(tmp_path),
        database=DatabaseSettings(url=f"postgresql://nobody@127.0.0.1:{port}/none"),
        server=ServerSettings(port=0),
    )
    with pytest.raises(Unavailable):
        asyncio.run(serve(Node(settings)))


def test_an_answer_is_not_held_back_by_the_network(server: Serving) -> None:
    """Head and body of an answer leave at once: no request waits the 40 ms of Nagle and a delayed acknowledgement."""
    server.get("/healthz")
    times: list[float] = []
    for _ in range(20):
        started = time.perf_counter()
        server.get("/healthz")
        times.append(time.perf_counter() - started)
    assert min(times) < 0.035


def _noise(seed: str) -> str:
    """What compression cannot shrink."""
    import hashlib

    return "".join(hashlib.sha256(f"{seed}{n}".encode()).hexdigest() for n in range(8))


def _until(true: object) -> None:
    assert callable(true)
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it did not recover"
        time.sleep(0.1)
