"""`/readyz` tells how the database is now, not how it was when somebody last wrote."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest
from tests import postgres
from tests.http.serving import Serving, serving

from adjourn.http import readiness


@pytest.fixture
def server() -> Generator[postgres.PostgresServer]:
    """One of its own, because it is stopped."""
    running = postgres.PostgresServer()
    yield running
    running.close()


def ready(serving: Serving) -> tuple[int, str]:
    answer = serving.client.get("/readyz")
    return answer.status_code, answer.json()["detail"]


def test_the_first_to_ask_hears_of_an_outage_and_of_its_end(server: postgres.PostgresServer, tmp_path: Path) -> None:
    """Nobody writes: the probe itself finds that PostgreSQL is away, and that it is back, in its own answer."""
    settings = {"log": {"compact_interval_ms": 3_600_000}}  # no upkeep that would find out by itself
    with serving(server.fresh_database(), tmp_path, **settings) as node:
        assert ready(node) == (200, "")
        server.stop("immediate")
        status, detail = ready(node)
        assert (status, "the database cannot be reached" in detail) == (503, True)
        assert node.client.get("/healthz").status_code == 200
        node.post(b'{"session":{"session_id":"s"}}')  # now the lanes know it too
        assert ready(node)[0] == 503
        server.start()
        assert ready(node) == (200, "")


def test_a_database_that_hangs_is_not_ready(server: postgres.PostgresServer, tmp_path: Path) -> None:
    """Backends that are stopped, and do not answer, make the probe say so in time; it recovers when they go on."""
    url = server.fresh_database()
    with serving(url, tmp_path) as node:
        assert ready(node) == (200, "")
        backends = backends_of(url)
        assert len(backends) > 2
        for backend in backends:
            os.kill(backend, signal.SIGSTOP)
        try:
            began = time.monotonic()
            answers = [ready(node) for _ in range(3)]
            assert [status for status, _ in answers] == [503] * 3
            assert time.monotonic() - began < 3 * readiness.ANSWER_S_MAX + 1
        finally:
            for backend in backends:
                os.kill(backend, signal.SIGCONT)
        deadline = time.monotonic() + 10
        while ready(node)[0] != 200:
            assert time.monotonic() < deadline


def backends_of(url: str) -> list[int]:
    """The processes that serve this database's connections."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return [int(row[0]) for row in found]
