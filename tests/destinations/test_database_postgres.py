"""The table of completions in PostgreSQL under real faults: a server that stops, freezes, cuts lines or says no."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from adjourn.destinations.database import DatabaseDestination
from adjourn.errors import DestinationOutage
from adjourn.testing.exercise_destination import Sample
from tests import postgres
from tests.destinations.rigs import TABLE, batch, execute, query


@pytest.fixture
def server() -> Iterator[postgres.PostgresServer]:
    yield postgres.server()
    postgres.server().start()


def postgres_destination(url: str) -> DatabaseDestination:
    return DatabaseDestination(name="main", connection_string=url, table=TABLE)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_stopped_server_is_an_outage_until_it_is_back(server: postgres.PostgresServer, mode: str) -> None:
    """Stopped or crashed, the server is an outage; when it is back, the same destination goes on by itself."""
    url = postgres.fresh_database()

    async def send() -> None:
        target = postgres_destination(url)
        assert not await target.send(batch(Sample(1)))
        server.stop(mode)
        for _ in range(2):
            with pytest.raises(DestinationOutage, match=r"check that the server runs|stopping"):
                await target.send(batch(Sample(2)))
        with pytest.raises(DestinationOutage):
            await target.probe()
        server.start()
        assert not await target.send(batch(Sample(2)))
        await target.close()

    asyncio.run(send())
    assert query(url, f'SELECT event_id FROM {TABLE} ORDER BY "offset"') == [("evt_1",), ("evt_2",)]


def test_a_crash_keeps_what_was_sent(server: postgres.PostgresServer) -> None:
    """What `send` returned from survives a crash of the server, also where the role's default is not to wait."""
    url = postgres.fresh_database()
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")

    async def send() -> None:
        target = postgres_destination(url)
        for number in range(20):
            await target.send(batch(*(Sample(number * 10 + n) for n in range(10))))
        server.stop("immediate")
        await target.close()

    asyncio.run(send())
    server.start()
    assert query(url, f"SELECT count(*) FROM {TABLE}") == [(200,)]


def test_cut_lines_lose_and_double_nothing() -> None:
    """While every connection is terminated again and again, resent batches end up stored once."""
    url = postgres.fresh_database()
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'adjourn'"

    async def send() -> int:
        target = postgres_destination(url)
        outages = 0
        for number in range(40):
            samples = [Sample(number * 50 + n) for n in range(50)]
            while True:
                killing = asyncio.create_task(asyncio.to_thread(execute, url, kill)) if number % 2 else None
                try:
                    await target.send(batch(*samples))
                    break
                except DestinationOutage:
                    outages += 1
                finally:
                    if killing is not None:
                        await killing
        await target.close()
        return outages

    assert asyncio.run(send()) > 0
    assert query(url, f"SELECT count(*) FROM {TABLE}") == [(2000,)]


def test_a_frozen_server_is_an_outage_in_time() -> None:
    """A server that answers nothing, though its line is up, is given up at the deadline."""
    url = postgres.fresh_database()

    async def send() -> None:
        target = postgres_destination(url)
        await target.open()
        ((backend,),) = query(url, "SELECT pid FROM pg_stat_activity WHERE application_name = 'adjourn'")
        target._worker.timeout_s = 0.3
        os.kill(backend, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(DestinationOutage, match="has not answered within"):
                await target.send(batch(Sample(1)))
            assert time.monotonic() - began < 3
        finally:
            os.kill(backend, signal.SIGCONT)
        target._worker.timeout_s = 10
        assert not await target.send(batch(Sample(1)))
        await target.close()

    asyncio.run(send())
    assert query(url, f"SELECT count(*) FROM {TABLE}") == [(1,)]


def test_what_the_role_may_not_do_is_an_outage() -> None:
    """A role without permission learns which to ask for, and one that may only insert and select is enough."""
    url = postgres.fresh_database()
    role = url.rpartition("/")[2] + "_writer"
    as_role = url.replace("postgres@", f"{role}@")

    async def send() -> None:
        owner = postgres_destination(url)
        await owner.open()
        await owner.close()
        execute(url, f"CREATE ROLE {role} LOGIN")
        target = postgres_destination(as_role)
        with pytest.raises(DestinationOutage, match="grant its role INSERT and SELECT"):
            await target.open()
        execute(url, f"GRANT SELECT ON {TABLE}, {TABLE}_meta TO {role}")
        await target.open()
        with pytest.raises(DestinationOutage, match="grant its role INSERT"):
            await target.probe()
        with pytest.raises(DestinationOutage, match="grant its role INSERT"):
            await target.send(batch(Sample(1)))
        execute(url, f"GRANT INSERT ON {TABLE} TO {role}")
        assert not await target.send(batch(Sample(1)))
        await target.close()

    asyncio.run(send())
    execute(url, f"DROP OWNED BY {role}")
    execute(url, f"DROP ROLE {role}")


def test_what_text_cannot_hold_is_refused_for_good() -> None:
    """NUL in an id, and ids too long for the index, are refused alone; NUL in a message is stored."""
    url = postgres.fresh_database()
    # Each character from another block: PostgreSQL cannot compress these 3 kB under the index's limit of 2.7 kB.
    long = ["".join(chr(0x10000 + (n * 7919 + k * 104_729) % 0xFFFF) for n in range(256)) for k in range(3)]
    samples = [
        Sample(0, session_id="a\0b"),
        Sample(1, final_message="a\0b"),
        Sample(2, tenant=long[0], session_id=long[1], event_id=long[2]),
        Sample(3),
    ]

    async def send() -> None:
        target = postgres_destination(url)
        refusals = await target.send(batch(*samples))
        await target.close()
        assert [(r.index, r.code, r.permanent) for r in refusals] == [
            (0, "value_unstorable", True),
            (2, "value_unstorable", True),
        ]

    asyncio.run(send())
    assert query(url, f'SELECT "offset" FROM {TABLE} ORDER BY 1') == [(1,), (3,)]


def test_a_locked_table_is_an_outage() -> None:
    """A lock on the whole table is waited for until the lock timeout, then it is an outage that says so."""
    url = postgres.fresh_database()

    async def send() -> None:
        target = postgres_destination(url + "?options=-c%20lock_timeout%3D100ms")
        await target.open()
        with psycopg.connect(url) as other:
            other.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE".encode())
            with pytest.raises(DestinationOutage, match="another transaction holds a lock"):
                await target.send(batch(Sample(1)))
        assert not await target.send(batch(Sample(1)))
        await target.close()

    asyncio.run(send())


def test_no_password_is_printed() -> None:
    """An outage names host and database, never the password."""

    async def send() -> None:
        target = postgres_destination("postgresql://me:hunter2@127.0.0.1:1/hidden?connect_timeout=2")
        with pytest.raises(DestinationOutage, match=r"127\.0\.0\.1/hidden") as outage:
            await target.open()
        await target.close()
        assert "hunter2" not in outage.value.message

    asyncio.run(send())


def test_it_works_over_a_unix_socket(server: postgres.PostgresServer, tmp_path: Path) -> None:
    """A connection string with a socket's directory as its host is taken."""
    database = postgres.fresh_database().rpartition("/")[2]

    async def send() -> None:
        target = postgres_destination(server.socket_url(database))
        assert not await target.send(batch(Sample(1)))
        await target.close()

    asyncio.run(send())
