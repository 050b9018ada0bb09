"""Events as they come, through both clients: on a real server, one that dies, and one that says what a test wants."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adjourn.errors import Unavailable
from adjourn.http.session_views import SessionView
from adjourn.sdk import Completed, Done, StatusChanged, TextDelta, ToolCall, ToolResult, TurnAnswer
from adjourn.sessions.session import NewSession, describe
from tests.http.serving import Serving, serving
from tests.sdk.scripted import answer, problem, scripted
from tests.sdk.talking import KEY, open_async, open_sync

BOTH = pytest.mark.parametrize("opened", [open_async, open_sync], ids=["async", "sync"])
SLOW = {"chunks": 60, "chunk_ms": 50, "reply": " ".join(map(str, range(60)))}


def talk(url: str, key: str, opened: Any, act: Any, **options: Any) -> Any:
    async def main() -> Any:
        async with opened(url, key, **options) as client:
            return await act(client.sessions)

    return asyncio.run(main())


def at_the_same_port(server: Serving) -> dict[str, Any]:
    return {"keys": server.keys, "server": {"port": int(server.url.rsplit(":", 1)[1])}}


@BOTH
def test_a_turn_and_a_session_as_they_happen(tmp_path: Path, opened: Any) -> None:
    """Each event comes once, in order, as a type; the turn's stream ends with the turn, the session's with the session,
    and both tell the same."""

    async def act(sessions: Any) -> None:
        made = await sessions.create("hybrid", config={"allowed_tools": ["look"]})
        tool = {"name": "look", "arguments": {"at": 1}, "output": [2]}
        async with sessions.stream(made.id, "one two", options={"chunks": 3, "tools": [tool]}) as stream:
            told = [event async for event in stream]
        assert "".join(event.text for event in told) == "one two"
        assert told[-1].detail == stream.turn
        assert stream.turn.status == "done"
        assert (await stream.answer()).turn == stream.turn
        kinds = [type(event.detail) for event in told]
        assert kinds[-1] is TurnAnswer
        assert {TextDelta, ToolCall, ToolResult, Done} <= set(kinds)
        await sessions.complete(made.id)
        seen = [event async for event in sessions.follow(made.id)]
        assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
        assert [event for event in seen if event.seq in {each.seq for each in told}] == told
        assert isinstance(seen[0].detail, StatusChanged)
        assert (seen[0].detail.before, seen[0].detail.after) == ("initializing", "active")
        assert isinstance(seen[-1].detail, Completed)
        page = await sessions.events(made.id, limit=3)
        assert list(page.events) == seen[:3]
        assert [event async for event in sessions.follow(made.id, after=page.next_after)] == seen[3:]
        assert [event async for event in sessions.follow(made.id, after=seen[-1].seq)] == []

    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path) as server:
        talk(server.url, server.keys["acme/admin"], opened, act)


@BOTH
def test_a_server_that_dies_in_the_middle_of_a_turn(tmp_path: Path, opened: Any) -> None:
    """Killed without warning and started again: the stream goes on to the turn's end, which says that it was abandoned;
    the turn ran once, and no event came twice, although the dead server had told what nobody knows any more. Whoever
    follows the session sees the same end."""
    url = f"sqlite:///{tmp_path}/a.db"

    async def act(sessions: Any, server: Serving, started: asyncio.Event) -> None:
        made = await sessions.create("hybrid")
        following = asyncio.create_task(collect(sessions.follow(made.id), "turn_ended"))
        told: list[Any] = []
        async for event in (stream := sessions.stream(made.id, "go", options=SLOW)):
            told.append(event)
            if event.type == "text_delta" and sum(each.type == "text_delta" for each in told) == 15:
                await asyncio.to_thread(server.kill)
                started.set()
        assert [event.type for event in told].count("turn_began") == 1
        assert told[-1].type == "turn_ended"
        assert stream.turn.status == "abandoned"
        text = "".join(event.text for event in told)
        assert str(SLOW["reply"]).startswith(text)
        assert len(text) > 20
        after = await sessions.get(made.id)
        assert (after.status, after.usage.errors, after.turn_id) == ("idle", 1, None)
        seen = await following
        assert [event.data for event in seen if event.type == "turn_ended"] == [told[-1].data]
        assert max(Counter((event.seq, event.type, bytes(event.data)) for event in seen).values()) == 1
        assert (await sessions.send(made.id, "again")).text == "again"
        assert len((await sessions.messages(made.id)).messages) == 3

    async def main() -> None:
        with serving(url, tmp_path) as server:
            async with opened(server.url, server.keys["acme/admin"], retries=None) as client:
                killed = asyncio.Event()
                acting = asyncio.create_task(act(client.sessions, server, killed))
                await asyncio.wait({acting, asyncio.create_task(killed.wait())}, return_when="FIRST_COMPLETED")
                again = serving(url, tmp_path, **at_the_same_port(server))
                await asyncio.to_thread(again.__enter__)
                try:
                    await acting
                finally:
                    again.__exit__(None, None, None)

    asyncio.run(main())


async def collect(stream: Any, until: str) -> list[Any]:
    found: list[Any] = []
    async for event in stream:
        found.append(event)
        if event.type == until:
            break
    return found


@BOTH
def test_a_send_that_loses_its_server_is_answered(tmp_path: Path, opened: Any) -> None:
    """Stopped in the middle, with time to finish: the answer is that of the one turn that ran."""
    url = f"sqlite:///{tmp_path}/a.db"

    async def main() -> None:
        with serving(url, tmp_path) as server:
            async with opened(server.url, server.keys["acme/admin"], retries=None) as client:
                made = await client.sessions.create("hybrid")

                async def send() -> Any:
                    return await client.sessions.send(made.id, "go", options=SLOW)

                sending = asyncio.create_task(send())
                await began(client.sessions, made.id)
                server.terminate()
                await asyncio.to_thread(server.process.wait)
                with serving(url, tmp_path, **at_the_same_port(server)):
                    sent = await sending
                    assert sent.turn.number == 1
                    assert sent.turn.status in ("done", "failed")
                    assert (await client.sessions.get(made.id)).usage.turns == 1

    asyncio.run(main())


async def began(sessions: Any, session_id: str) -> None:
    async for event in sessions.follow(session_id):
        if event.type == "text_delta":
            return


# --- what a network does ----------------------------------------------------------------------------------------------


def event(seq: int, kind: str = "text_delta", **data: Any) -> bytes:
    told = {"seq": seq, "type": kind, "at": "2026-11-21T00:00:00.000Z", "turn_id": "turn_1", "data": data}
    return f"event: {kind}\nid: {seq}\ndata: {json.dumps(told)}\n\n".encode()


def stream(*parts: bytes, whole: bool = True) -> bytes:
    """An answer that ends; one that is not whole is cut off."""
    body = b"".join(parts)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    if whole:
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
    return b"%bcut-off: yes\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body) + 10, body)


_ROW = describe(
    NewSession(pattern="hybrid"), tenant="t", session_id="s", root_id="s", runner="echo", event_id="evt_1", now_ms=0
)
SESSION = json.loads(msgspec.json.encode(SessionView.of(_ROW)))
ENDED: dict[str, Any] = {
    "turn_id": "turn_1",
    "number": 1,
    "status": "done",
    "text": "abc",
    "stop_reason": None,
    "error": None,
    "usage": {},
    "cost_usd": None,
    "began_at": None,
    "ended_at": None,
}


def read(url: str, opened: Any, **options: Any) -> list[Any]:
    async def act(sessions: Any) -> list[Any]:
        return [event async for event in sessions.stream("s", "go")]

    return talk(url, KEY, opened, act, **options)


@BOTH
def test_a_stream_that_is_cut_goes_on_behind_what_is_sure(opened: Any) -> None:
    """Under the same key, with the same message; what is told again, in whatever form, comes once, half an event not at
    all, and what a dead server told gives way to what there is."""
    first = stream(
        event(2, "turn_began", number=1), event(3, text="a", x=1), event(4, text="?"), b"data: {", whole=False
    )
    second = stream(event(3, x=1, text="a"), event(4, text="b"), b": heartbeat\n\n", whole=False)
    third = stream(event(3, text="a", x=1), event(4, text="b"), event(5, text="c"), event(6, "turn_ended", **ENDED))
    with scripted(first, problem(503, "unavailable", "wait"), second, third) as server:
        told = read(server.url, opened)
    assert [(each.seq, each.text) for each in told] == [(2, ""), (3, "a"), (4, "?"), (4, "b"), (5, "c"), (6, "")]
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
    assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "2", "2", "2"]
    assert {json.loads(asked.body)["prompt"] for asked in server.asked} == {"go"}


@BOTH
def test_a_server_that_stays_away_is_given_up(opened: Any) -> None:
    """After as many tries as any request; iterating again goes on where it was."""
    first = stream(event(2, "turn_began", number=1), event(3, text="a"), whole=False)
    rest = stream(event(3, text="a"), event(4, "turn_ended", **ENDED))
    busy = problem(503, "unavailable", "the database is away; wait")

    async def act(sessions: Any) -> None:
        told: list[Any] = []
        turn = sessions.stream("s", "go")
        with pytest.raises(Unavailable, match="tried 3 times"):
            async for each in turn:
                told.append(each)
        told += [each async for each in turn]
        assert [each.seq for each in told] == [2, 3, 4]
        assert turn.turn.text == "abc"

    with scripted(first, busy, busy, rest) as server:
        talk(server.url, KEY, opened, act, retries=2)


@BOTH
@pytest.mark.parametrize("reply", [answer(200, {}), stream(b"data: nonsense\n\n"), stream(b'data: {"seq": "x"}\n\n')])
def test_what_is_no_stream_of_events_is_said(opened: Any, reply: bytes) -> None:
    """At once: it would not help to try again."""
    with scripted(reply) as server:
        with pytest.raises(Unavailable, match="Adjourn"):
            read(server.url, opened)
        assert len(server.asked) == 1


@BOTH
def test_a_stream_that_ends_and_tells_nothing_is_settled(opened: Any) -> None:
    """A turn that waited and never began has no event: its answer says what became of it."""
    failed = {**ENDED, "status": "failed", "error": {"code": "session_ended", "message": "it ended"}}
    with scripted(stream(b"id: 7\n\n"), answer(200, {"turn": failed, "session": SESSION})) as server:

        async def act(sessions: Any) -> None:
            turn = sessions.stream("s", "go")
            assert [each async for each in turn] == []
            assert turn.turn.error.code == "session_ended"

        talk(server.url, KEY, opened, act)
    assert "stream" not in json.loads(server.asked[1].body)
