from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from tests import postgres

from adjourn.testing.tcp_proxy import TcpProxy


@pytest.fixture(scope="module")
def database() -> str:
    url = postgres.fresh_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE rows (id int)")
    return url


@pytest.fixture
def direct(database: str) -> Iterator[psycopg.Connection]:
    """Past the proxy, to see what the server did."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("TRUNCATE rows")
        yield connection


@pytest.fixture
def proxy(database: str) -> Iterator[TcpProxy]:
    with TcpProxy(("127.0.0.1", postgres.server().port)) as proxy:
        yield proxy


def ids(direct: psycopg.Connection) -> list[int]:
    return [row[0] for row in direct.execute("SELECT id FROM rows ORDER BY id")]


def settle(direct: psycopg.Connection) -> None:
    """Until the server has noticed that the proxied clients are gone."""
    deadline = time.monotonic() + 5
    while direct.execute(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_bytes_pass_unchanged(proxy: TcpProxy, database: str, direct: psycopg.Connection) -> None:
    """Large values go both ways through the proxy as they are, pipelined statements included."""
    with psycopg.connect(proxy.url(database)) as connection:
        big = "é" * 2_000_000
        assert connection.execute("SELECT %s::text", (big,)).fetchone() == (big,)
        with connection.pipeline():
            for number in range(500):
                connection.execute("INSERT INTO rows VALUES (%s)", (number,))
    assert ids(direct) == list(range(500))


def test_a_commit_that_was_executed_and_never_answered(
    proxy: TcpProxy, database: str, direct: psycopg.Connection
) -> None:
    """Cut on the server's answer: the client sees an error, and the row is there, every time."""
    for number in range(10):
        connection = psycopg.connect(proxy.url(database))
        connection.execute("INSERT INTO rows VALUES (%s)", (number,))
        cut = proxy.cut_after_sending(b"COMMIT", answer=b"COMMIT")
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        assert cut.wait()
    assert ids(direct) == list(range(10))


def test_a_commit_that_was_never_sent(proxy: TcpProxy, database: str, direct: psycopg.Connection) -> None:
    """Cut before sending: the client sees the same error, and the row is not there."""
    for number in range(10):
        connection = psycopg.connect(proxy.url(database))
        connection.execute("INSERT INTO rows VALUES (%s)", (number,))
        cut = proxy.cut_before_sending(b"COMMIT")
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        assert cut.wait()
    settle(direct)
    assert ids(direct) == []


def test_a_commit_cut_in_flight_reaches_the_server(proxy: TcpProxy, database: str, direct: psycopg.Connection) -> None:
    """Cut right behind the commit: the client sees an error at once, and the server still carries the commit out."""
    connection = psycopg.connect(proxy.url(database))
    # A commit that takes its time: a deferred trigger sleeps.
    direct.execute(
        "CREATE OR REPLACE FUNCTION slow() RETURNS trigger AS"
        " 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END' LANGUAGE plpgsql"
    )
    direct.execute(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    try:
        connection.execute("INSERT INTO rows VALUES (1)")
        cut = proxy.cut_after_sending(b"COMMIT")
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        assert cut.wait()
        assert ids(direct) == []
        settle(direct)
        assert ids(direct) == [1]
    finally:
        direct.execute("DROP TRIGGER slow ON rows")


def test_a_cut_drops_every_connection(proxy: TcpProxy, database: str) -> None:
    """All open connections fail at once, and new ones work."""
    connections = [psycopg.connect(proxy.url(database)) for _ in range(3)]
    assert proxy.cut() == 3
    for connection in connections:
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with psycopg.connect(proxy.url(database)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_cut_is_a_reset(proxy: TcpProxy) -> None:
    """The client gets RST, not an orderly end that looks like the server's own."""
    with socket.create_connection((proxy.host, proxy.port)) as client:
        client.sendall(b"\0")
        while proxy.cut() == 0:
            time.sleep(0.001)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_server_that_is_gone_and_comes_back(proxy: TcpProxy, database: str) -> None:
    """While refused, connecting fails, open connections go on; accepting again is on the same port."""
    with psycopg.connect(proxy.url(database), autocommit=True) as connection:
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(proxy.url(database))
        assert connection.execute("SELECT 1").fetchone() == (1,)
        proxy.accept()
        psycopg.connect(proxy.url(database)).close()


def test_a_stalled_connection_hangs_and_goes_on(proxy: TcpProxy, database: str) -> None:
    """While stalled nothing comes back, and after it the answer does."""
    answers: list[object] = []
    with psycopg.connect(proxy.url(database)) as connection:
        proxy.stall()
        thread = threading.Thread(target=lambda: answers.append(connection.execute("SELECT 1").fetchone()))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        proxy.flow()
        thread.join(5)
    assert answers == [(1,)]


def test_the_target_may_be_a_unix_socket(database: str) -> None:
    """The proxy speaks TCP to the client and reaches a server that listens on a path."""
    name = database.rpartition("/")[2]
    url = postgres.server().socket_url(name)
    directory = url.partition("host=")[2].partition("&")[0]
    with TcpProxy(f"{directory}/.s.PGSQL.{postgres.server().port}") as proxy:
        with psycopg.connect(proxy.url(url)) as connection:
            assert connection.execute("SELECT inet_server_addr()").fetchone() == (None,)
        proxy.close()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(proxy.url(url))


def test_a_server_that_refuses_the_proxy_is_refused_to_the_client() -> None:
    """Nothing listens behind the proxy: the client is cut off, and does not wait."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = unused.getsockname()
    with TcpProxy((target[0], target[1])) as proxy, socket.create_connection((proxy.host, proxy.port)) as client:
        client.settimeout(5)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
