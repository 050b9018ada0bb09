"""Watched sessions through both clients, on a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from adjourn.errors import EventInvalid, NotFound, SessionExists, Unavailable
from adjourn.sdk import AsyncClient, Client
from tests.http.serving import Serving, serving

PATIENCE_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    directory = tmp_path_factory.mktemp("watch")
    with serving(f"sqlite:///{directory}/adjourn.db", directory) as running:
        yield running


def inside_async(server: Serving, act: Callable[[Any], None], **options: Any) -> Any:
    """The session, after `act` ran inside it."""

    async def main() -> Any:
        async with AsyncClient(server.url, server.keys["acme/admin"], retries=0) as client:
            session = client.sessions.watch(**options)
            async with session:
                # In a thread: what blocks would keep the heartbeats of its event loop from being sent.
                await asyncio.to_thread(act, session)
            return session

    return asyncio.run(main())


def inside_sync(server: Serving, act: Callable[[Any], None], **options: Any) -> Any:
    with Client(server.url, server.keys["acme/admin"], retries=0) as client:
        session = client.sessions.watch(**options)
        with session:
            act(session)
        return session


BOTH = pytest.mark.parametrize("inside", [inside_async, inside_sync], ids=["async", "sync"])


def event_of(server: Serving, session: Any) -> dict[str, Any]:
    return server.get(f"/v1/events/{session.completed.event_id}").json()["event"]


def state_of(server: Serving, session_id: str, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while not met(found := server.get(f"/v1/watched-sessions/{session_id}").json()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


@BOTH
def test_a_session_lasts_from_entry_to_exit(server: Serving, inside: Callable[..., Any]) -> None:
    """It begins with what is known, and its completion holds what was added, tagged and measured."""

    def act(session: Any) -> None:
        assert server.get(f"/v1/watched-sessions/{session.session_id}").json()["state"] == "open"
        session.add_usage(input_tokens=1000, output_tokens=100, cache_read_input_tokens=10)
        session.add_usage(input_tokens=250, output_tokens=10, tool_calls=2, cost_usd=Decimal("0.1"))
        session.tag(plan="b")

    session = inside(server, act, user_id="usr_1", tier="pro", model="gpt-4o", custom_tags={"plan": "a", "team": 1})
    assert session.completed.status == "accepted"
    event = event_of(server, session)
    assert event["event_id"] == session.answer.event_id
    assert event["user"] == {"user_id": "usr_1", "tier": "pro"}
    assert event["outcome"] == {"status": "success"}
    assert event["metadata"] == {"custom_tags": {"plan": "b", "team": 1}}
    assert event["usage"] == {
        "input_tokens": 1250,
        "output_tokens": 110,
        "total_tokens": 1360,
        "model": "gpt-4o",
        "cache_read_input_tokens": 10,
        "tool_calls": 2,
        "estimated_cost_usd": 0.1,
    }


@BOTH
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeoutError("late"), {"status": "timeout", "error_code": "TimeoutError"}),
        (ZeroDivisionError("x"), {"status": "error", "error_code": "ZeroDivisionError"}),
    ],
)
def test_an_exception_is_the_outcome_and_passes_on(
    server: Serving, inside: Callable[..., Any], error: Exception, outcome: dict[str, str]
) -> None:
    """What ends the block ends the session, and the program sees it as it was raised."""
    seen: list[Any] = []

    def act(session: Any) -> None:
        seen.append(session)
        raise error

    with pytest.raises(type(error)):
        inside(server, act)
    assert event_of(server, seen[0])["outcome"] == outcome


@BOTH
def test_heartbeats_keep_the_lease_and_tell_the_usage(server: Serving, inside: Callable[..., Any]) -> None:
    """A session that takes longer than its lease is open at its end; the server knows what it had used by then."""

    def act(session: Any) -> None:
        heard = {session.answer.heard_at}
        session.add_usage(input_tokens=5)
        while len(heard) < 5:  # beats are a third of the lease apart
            heard.add(state_of(server, session.session_id, lambda found: found["heard_at"] not in heard)["heard_at"])

    session = inside(server, act, lease_ms=6000)
    assert session.completed.status == "accepted"
    assert event_of(server, session)["session"]["duration_ms"] > 6000


def test_a_program_that_blocks_its_event_loop_comes_late_and_loses_nothing(server: Serving) -> None:
    """Its heartbeats could not be sent, so it was taken for dead; its completion amends that."""

    async def main() -> Any:
        async with AsyncClient(server.url, server.keys["acme/admin"]) as client:
            async with client.sessions.watch(session_id="blocked", lease_ms=1000) as session:
                session.add_usage(input_tokens=7)
                # Deliberately not awaited: this is what a program does that blocks.
                state_of(server, "blocked", lambda found: found["state"] == "abandoned")
            return session

    session = asyncio.run(main())
    assert session.completed.status == "amended"
    event = event_of(server, session)
    assert (event["event_type"], event["amends"]) == ("session.amended", session.answer.event_id)
    assert event["usage"]["input_tokens"] == 7


@BOTH
def test_an_id_that_another_has_begun_is_refused(server: Serving, inside: Callable[..., Any]) -> None:
    """Two programs never share a session by accident, even with equal parameters."""
    name = f"shared-{inside.__name__}"

    def act(session: Any) -> None:
        with pytest.raises(SessionExists):
            inside(server, lambda _: None, session_id=name)

    inside(server, act, session_id=name)
    assert inside(server, lambda _: None, session_id=name, attempt=2).completed.attempt == 2


@BOTH
def test_what_cannot_be_written_is_refused_at_once(server: Serving, inside: Callable[..., Any]) -> None:
    """A tag that JSON cannot express costs the call, not the completion."""

    def act(session: Any) -> None:
        with pytest.raises(EventInvalid):
            session.tag(bad=object())
        session.end_as("user_terminated", error_code="stopped", final_message="bye")

    event = event_of(server, inside(server, act))
    assert event["outcome"] == {"status": "user_terminated", "final_message": "bye", "error_code": "stopped"}


def test_sessions_are_looked_up_and_listed(server: Serving) -> None:
    """By id and attempt, and page by page."""
    with Client(server.url, server.keys["other/admin"]) as client:
        for name in ("a", "b/..", "c"):
            with client.sessions.watch(session_id=name):
                assert client.sessions.watched(name).state == "open"
        assert client.sessions.watched("b/..", attempt=1).state == "completed"
        with pytest.raises(NotFound):
            client.sessions.watched("b/..", attempt=2)
        first = client.sessions.list_watched(state="completed", limit=2)
        rest = client.sessions.list_watched(state="completed", limit=2, cursor=first.next_cursor or "")
        assert [each.session_id for each in (*first.sessions, *rest.sessions)] == ["a", "b/..", "c"]


@BOTH
def test_a_server_that_goes_away_is_said_and_hides_nothing(tmp_path: Path, inside: Callable[..., Any]) -> None:
    """Where the block ended well, the lost completion is the error; where it did not, that passes on with a note."""
    with serving(f"sqlite:///{tmp_path}/adjourn.db", tmp_path) as mine:
        with pytest.raises(Unavailable):
            inside(mine, lambda _: mine.kill())
    other = tmp_path / "other"
    other.mkdir()
    with serving(f"sqlite:///{other}/adjourn.db", other) as mine:

        def fail(session: Any) -> None:
            mine.kill()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError) as raised:
            inside(mine, fail)
        assert "was not taken" in json.dumps(raised.value.__notes__)
