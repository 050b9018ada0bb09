"""The database destination on SQLite and PostgreSQL, with the faults that both can have."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from adjourn.destination import Batch
from adjourn.destinations.database import DatabaseDestination
from adjourn.errors import ConfigInvalid, DestinationOutage, ExtraMissing
from adjourn.events import StoredEvent
from adjourn.testing.exercise_destination import Sample, change_of_status, exercise_destination
from tests import postgres
from tests.destinations.rigs import TABLE, DatabaseRig, batch, execute, query, sqlite_url

NewUrl = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgres"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> NewUrl:
    numbers = itertools.count()
    if request.param == "sqlite":
        return lambda: sqlite_url(tmp_path / str(next(numbers)))
    return postgres.fresh_database


def destination(url: str, table: str = TABLE) -> DatabaseDestination:
    return DatabaseDestination(name="main", connection_string=url, table=table)


def test_it_passes_the_suite(new_url: NewUrl) -> None:
    """Both databases pass the suite that every destination passes."""
    asyncio.run(exercise_destination(lambda: DatabaseRig(new_url())))


def test_unreadable_events_are_refused_alone(new_url: NewUrl) -> None:
    """What is not a completion, has no id or is not UTF-8 is refused for good, and its neighbours are stored."""
    url = new_url()
    bodies = (
        b"",
        b"nothing",
        b"[]",
        b'{"session":{}}',
        b'{"session":{"session_id":"s"}}',
        b'{"event_id":"e","session":{"session_id":"s"},"x":"\xff"}',
        b'{"event_id":"e","session":{"session_id":"s"},"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    )
    good = Sample(1).stored()
    events = [msgspec.structs.replace(good, body=body) for body in bodies]

    async def send() -> None:
        target = destination(url)
        refusals = await target.send(Batch(id="b", events=[*events, good]))
        await target.close()
        assert [refusal.index for refusal in refusals] == list(range(len(bodies)))
        assert all(refusal.permanent for refusal in refusals)

    asyncio.run(send())
    assert query(url, f"SELECT event_id FROM {TABLE}") == [("evt_1",)]


def test_columns_hold_what_the_event_says(new_url: NewUrl) -> None:
    """Each column has its field of the event, times are in UTC, and the payload is the body to the byte."""
    url = new_url()
    body = (
        b'{"event_id":"e","timestamp":"2025-12-21T10:30:45.1239+02:00", "session":{"session_id":"s","session_type":'
        b'"realtime","start_time":"2025-12-21T08:00:00Z","end_time":"2025-12-21T08:30:00Z","duration_ms":1800000,'
        b'"input_modality":"audio","transport":"webrtc","attempt":2},"usage":{"cache_read_input_tokens":5,'
        b'"reasoning_output_tokens":0,"tool_calls":3},"big":1e999,"nul":"\\u0000","metadata":{"source":"sdk"}}'
    )
    event = StoredEvent(3, 9, "org", body, 1_766_313_045_123, None, "")

    async def send() -> None:
        target = destination(url)
        assert not await target.send(Batch(id="b", events=[event]))
        await target.close()

    asyncio.run(send())
    names = (
        "occurred_at, received_at, started_at, ended_at, duration_ms, input_modality, transport, attempt,"
        " cache_read_input_tokens, reasoning_output_tokens, tool_calls, input_tokens, price_ref, source,"
        ' "offset", payload'
    )
    (row,) = query(url, f"SELECT {names} FROM {TABLE} WHERE occurred_at = '2025-12-21T08:30:45.123Z'")
    rest = (1_800_000, "audio", "webrtc", 2, 5, 0, 3, None, None, "sdk", 9, body.decode())
    assert row[4:] == rest
    times = [
        time if isinstance(time, str) else f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z"
        for time in row[:4]
    ]
    assert times == [
        "2025-12-21T08:30:45.123Z",
        "2025-12-21T10:30:45.123Z",
        "2025-12-21T08:00:00.000Z",
        "2025-12-21T08:30:00.000Z",
    ]


def test_a_rule_that_someone_added_refuses_for_now(new_url: NewUrl) -> None:
    """A constraint of the owner's own isolates the events that break it, and they may be tried again."""
    url = new_url()

    async def send() -> None:
        target = destination(url)
        await target.open()
        execute(url, f"CREATE UNIQUE INDEX one_user ON {TABLE} (user_id)")
        samples = [Sample(n, user_id="usr_0" if n in (2, 5, 6) else f"usr_{n}") for n in range(1, 9)]
        await target.send(batch(Sample(0, user_id="usr_0")))
        refusals = await target.send(batch(*samples))
        await target.close()
        assert [(refusal.index, refusal.permanent) for refusal in refusals] == [(1, False), (4, False), (5, False)]

    asyncio.run(send())
    assert query(url, f"SELECT count(*) FROM {TABLE}") == [(6,)]


def test_a_newer_table_is_refused(new_url: NewUrl) -> None:
    """A table that a newer version migrated stops the destination and is not touched."""
    url = new_url()

    async def reopen() -> None:
        target = destination(url)
        await target.open()
        await target.close()
        execute(url, f"UPDATE {TABLE}_meta SET version = 99")
        with pytest.raises(DestinationOutage, match="upgrade Adjourn"):
            await target.open()
        await target.close()

    asyncio.run(reopen())
    assert query(url, f"SELECT version FROM {TABLE}_meta") == [(99,)]


def test_an_older_table_is_migrated(new_url: NewUrl) -> None:
    """A table of an older version gains the columns and indexes that it lacks, and keeps its rows."""
    url = new_url()

    async def migrate() -> None:
        target = destination(url)
        await target.send(batch(Sample(1)))
        await target.close()
        execute(url, f"DROP INDEX {TABLE}_failed; ALTER TABLE {TABLE} DROP COLUMN tool_calls")
        execute(url, f"UPDATE {TABLE}_meta SET version = 0")
        await target.send(batch(Sample(2)))
        await target.close()

    asyncio.run(migrate())
    assert query(url, f"SELECT event_id, tool_calls FROM {TABLE} ORDER BY 1") == [("evt_1", None), ("evt_2", None)]
    assert query(url, f"SELECT version FROM {TABLE}_meta") == [(1,)]


def test_another_s_table_is_left_alone(new_url: NewUrl) -> None:
    """A table of that name which Adjourn did not make is refused, not altered."""
    url = new_url()

    async def open_it() -> None:
        target = destination(url, "first")
        await target.open()
        execute(url, "CREATE TABLE theirs (id INTEGER)")
        with pytest.raises(DestinationOutage, match="not Adjourn's; set another `table`"):
            await destination(url, "theirs").open()
        await target.close()

    asyncio.run(open_it())


def test_two_open_at_once(new_url: NewUrl) -> None:
    """Nodes that start together create the table once."""
    url = new_url()

    async def open_all() -> None:
        targets = [destination(url) for _ in range(4)]
        await asyncio.gather(*(target.open() for target in targets))
        await asyncio.gather(*(target.send(batch(Sample(n))) for n, target in enumerate(targets)))
        await asyncio.gather(*(target.close() for target in targets))

    asyncio.run(open_all())
    assert query(url, f"SELECT count(*) FROM {TABLE}") == [(4,)]


def test_a_dropped_table_is_an_outage_then_made_again(new_url: NewUrl) -> None:
    """Without its table a destination reports an outage, and the batch that is sent again makes the table."""
    url = new_url()

    async def send() -> None:
        target = destination(url)
        await target.open()
        execute(url, f"DROP TABLE {TABLE}")
        with pytest.raises(DestinationOutage):
            await target.probe()
        await target.send(batch(Sample(1)))
        await target.close()

    asyncio.run(send())
    assert query(url, f"SELECT count(*) FROM {TABLE}") == [(1,)]


def test_a_cancelled_caller_leaves_whole_batches(new_url: NewUrl) -> None:
    """Cancelling `send` at any instant stores the whole batch or nothing, and the next batch is taken."""
    url = new_url()

    async def cancel() -> None:
        target = destination(url)
        await target.open()
        for number in range(10):
            samples = [Sample(number * 100 + n) for n in range(100)]
            sending = asyncio.create_task(target.send(batch(*samples)))
            await asyncio.sleep(number / 2000)
            sending.cancel()
        await target.send(batch(Sample(9999)))
        await target.close()

    asyncio.run(cancel())
    whole = query(url, f'SELECT "offset" / 100, count(*) FROM {TABLE} WHERE "offset" < 9999 GROUP BY 1')
    assert {count for _, count in whole} <= {100}
    assert query(url, f'SELECT count(*) FROM {TABLE} WHERE "offset" = 9999') == [(1,)]


@pytest.mark.parametrize(
    "string",
    [
        "",
        "sqlite://",
        "sqlite:///:memory:",
        ":memory:",
        "mysql://u:secret@h/d",
        "postgresql://u:my@secret@h/d",
        "postgresql://u:secret@[h/d",
    ],
)
def test_a_bad_connection_string_is_refused_without_repeating_it(string: str) -> None:
    """What names no durable database is refused at once, and its password is not repeated."""
    with pytest.raises(ConfigInvalid) as refused:
        destination(string)
    assert refused.value.path == "connection_string"
    assert "secret" not in refused.value.message


@pytest.mark.parametrize("table", ["", "1st", "a b", 'x"; DROP TABLE y; --', "t" * 57, "schema.t"])
def test_a_bad_table_name_is_refused(table: str) -> None:
    """A table's name is a plain word."""
    with pytest.raises(ConfigInvalid, match="cannot be a table's name"):
        destination("x.db", table)


def test_a_keyword_can_name_the_table(new_url: NewUrl) -> None:
    """The table may be called `order` or `User`: names are quoted."""

    async def send(table: str) -> None:
        target = destination(new_url(), table)
        await target.send(batch(Sample(1)))
        await target.probe()
        await target.close()

    asyncio.run(send("order"))
    asyncio.run(send("User"))


def test_postgres_without_psycopg_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg, a PostgreSQL destination says which extra to install."""
    monkeypatch.setitem(__import__("sys").modules, "adjourn.destinations.database_postgres", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'adjourn\[postgres\]'"):
        destination("postgresql://localhost/x")


def test_changes_of_status_have_a_table_of_their_own(new_url: NewUrl) -> None:
    """Its columns hold what they say. The table of completions has none of them, so that its rows and costs can be
    counted and summed; resent, they are there once; what is refused of both is named by its place in the batch."""
    url, torn = new_url(), msgspec.structs.replace(change_of_status(6), body=b'{"event_type":"session.status_changed"}')
    poison = Sample(5, event_id="evt_poison", cost_nanousd=2**63).stored()
    late = change_of_status(7, session_id="sess_2", reason="max_turns")
    events = [Sample(1).stored(), change_of_status(2), Sample(3).stored(), poison, torn, late]

    async def send() -> None:
        target = DatabaseDestination(name="main", connection_string=url, table=TABLE, status_changes=True)
        await target.open()
        assert query(url, f"SELECT count(*) FROM {TABLE}_status") == [(0,)]  # there from the start
        await target.probe()
        for _ in range(2):
            refusals = await target.send(Batch(id="b", events=events))
            assert [(one.index, one.code) for one in refusals] == [(3, "value_unstorable"), (4, "event_invalid")]
        await target.close()

    asyncio.run(send())
    assert query(url, f"SELECT count(*), sum(cost_nanousd) FROM {TABLE}") == [(2, 2 * 42_800_000)]
    columns = "session_id, event_id, revision, from_status, to_status, reason, pattern"
    assert query(url, f'SELECT {columns}, "offset" FROM {TABLE}_status ORDER BY "offset"') == [
        ("sess_1", "evt_2", 2, "idle", "active", "message", "hybrid", 2),
        ("sess_2", "evt_7", 7, "idle", "active", "max_turns", "hybrid", 7),
    ]
    (times,) = query(url, f"SELECT min(occurred_at), max(received_at) FROM {TABLE}_status")
    assert [str(time)[:23].replace("T", " ") for time in times] == [
        "2025-12-21 10:30:45.123",
        "2025-12-21 10:30:45.130",
    ]
    (payload,) = query(url, f"SELECT payload FROM {TABLE}_status WHERE event_id = 'evt_2'")
    assert payload[0].encode() == events[1].body


def test_whoever_wants_no_changes_of_status_gets_no_table(new_url: NewUrl) -> None:
    """It is made where they are wanted, or when one comes all the same."""
    url = new_url()

    async def send() -> None:
        target = destination(url)
        await target.send(batch(Sample(1)))
        with pytest.raises(Exception, match="session_completions_status"):
            query(url, f"SELECT 1 FROM {TABLE}_status")
        await target.send(Batch(id="b", events=[change_of_status(2)]))
        await target.close()

    asyncio.run(send())
    assert query(url, f"SELECT event_id FROM {TABLE}_status") == [("evt_2",)]


def test_a_table_of_changes_that_is_away_keeps_no_completion_twice(new_url: NewUrl) -> None:
    """The batch is an outage until both tables take it, and is there once when they do."""
    url = new_url()
    events = [Sample(1).stored(), change_of_status(2)]

    async def send() -> None:
        target = destination(url)
        await target.send(batch(Sample(0)))
        execute(url, f"CREATE TABLE {TABLE}_status (mine integer)")
        with pytest.raises(DestinationOutage, match=r"session_completions_status\" exists and is not Adjourn's"):
            await target.send(Batch(id="b", events=events))
        execute(url, f"DROP TABLE {TABLE}_status")
        assert await target.send(Batch(id="b", events=events)) == []
        await target.close()

    asyncio.run(send())
    assert query(url, f"SELECT event_id FROM {TABLE} ORDER BY 1") == [("evt_0",), ("evt_1",)]
    assert query(url, f"SELECT event_id FROM {TABLE}_status") == [("evt_2",)]
