"""Begin, heartbeat and complete on a real node, over both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.faults.rigs import raw
from tests.sessions.rigs import complete, events, mapped_of, node_of, parts, until

from adjourn.errors import (
    AdjournError,
    BodyInvalid,
    EventConflict,
    EventInvalid,
    NotFound,
    SessionEnded,
    SessionExists,
    TooBusy,
)
from adjourn.sessions import watch_service, watched_service
from adjourn.sessions.watch import Begin, Complete, Heartbeat

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
ME = "default"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_service, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(watched_service, "GATHER_S", 0.01)


@KINDS
def test_a_session_is_completed_once_and_its_event_is_like_any_other(tmp_path: Path, kind: str) -> None:
    """The completion is validated, priced and identified as if it had come through POST /v1/events."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            begun, fresh = await node.watched.begin(ME, Begin(session_id="s", usage=parts(model="gpt-4o")))
            assert (fresh, begun.state) == (True, "open")
            await node.watched.heartbeat(ME, "s", Heartbeat(usage=parts(input_tokens=10, output_tokens=1)))
            end = complete(usage={"input_tokens": 1250, "output_tokens": 890})
            told = await node.watched.complete(ME, "s", end)
            assert (told.status, told.event_id) == ("accepted", begun.event_id)
            found = await node.log.find(ME, begun.event_id)
            assert found is not None
            assert found.cost_nanousd == 12_025_000
            assert found.completion().usage == msgspec.convert(
                {"model": "gpt-4o", "input_tokens": 1250, "output_tokens": 890}, type(found.completion().usage)
            )
            assert node.ingest.counters.accepted == 1
            # By another way the same completion has the same id: the log knows it.
            (again,) = await node.ingest.take(ME, [raw("s")], source="test")
            assert (again.status, again.event_id) == ("conflict", begun.event_id)

    asyncio.run(run())


@KINDS
def test_a_completion_that_is_sent_again_is_a_duplicate_and_another_one_a_conflict(tmp_path: Path, kind: str) -> None:
    """A lost answer costs nothing: the same call gets the same event. Other content is refused with what stands."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            await node.watched.begin(ME, Begin(session_id="s"))
            first = await node.watched.complete(ME, "s", complete(outcome={"status": "success"}))
            again = await node.watched.complete(ME, "s", complete(outcome={"status": "success"}))
            assert (again.status, again.event_id) == ("duplicate", first.event_id)
            with pytest.raises(SessionEnded, match=f"completed.*{first.event_id}.*session.amended"):
                await node.watched.complete(ME, "s", complete(outcome={"status": "error"}))
            with pytest.raises(SessionEnded, match="no more heartbeats"):
                await node.watched.heartbeat(ME, "s", Heartbeat())
            assert len(await events(node)) == 1

    asyncio.run(run())


@KINDS
def test_completions_that_race_are_one(tmp_path: Path, kind: str) -> None:
    """Of twenty callers at once with content of their own, one is told that it completed the session."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            await node.watched.begin(ME, Begin(session_id="s"))
            told = await asyncio.gather(
                *(node.watched.complete(ME, "s", complete(usage={"input_tokens": n})) for n in range(20)),
                return_exceptions=True,
            )
            accepted = [each for each in told if not isinstance(each, BaseException)]
            assert [each.status for each in accepted] == ["accepted"]
            assert all(isinstance(each, SessionEnded) for each in told if isinstance(each, BaseException))
            assert len(await events(node)) == 1

    asyncio.run(run())


@KINDS
def test_a_late_completion_amends_the_abandoned_one(tmp_path: Path, kind: str) -> None:
    """Nothing is lost when a client comes back after its lease, and nothing is completed twice."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            begun, _ = await node.watched.begin(ME, Begin(session_id="s", lease_ms=1000, user=parts(user_id="u")))
            assert await until(node, "s", lambda state: state != "open") == "abandoned"
            end = complete(usage={"input_tokens": 3})
            told = await node.watched.complete(ME, "s", end)
            assert (told.status, told.amends) == ("amended", begun.event_id)
            again = await node.watched.complete(ME, "s", end)
            assert (again.status, again.event_id, again.amends) == ("duplicate", told.event_id, begun.event_id)
            with pytest.raises(SessionEnded, match=told.event_id):
                await node.watched.complete(ME, "s", Complete())
            both = {event["event_id"]: event for event in await events(node)}
            assert both.keys() == {begun.event_id, told.event_id}
            amendment = both[told.event_id]
            assert (amendment["event_type"], amendment["amends"]) == ("session.amended", begun.event_id)
            assert (amendment["user"], amendment["usage"]) == ({"user_id": "u"}, {"input_tokens": 3})

    asyncio.run(run())


@KINDS
def test_begin_is_idempotent_by_its_key_and_by_its_content(tmp_path: Path, kind: str) -> None:
    """A begin whose answer was lost is sent again and finds its own session; another caller's is refused."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            begin = node.watched.begin
            (first, fresh), (again, fresh_again) = [await begin(ME, Begin(), idempotency_key="k") for _ in range(2)]
            assert (first.session_id, fresh, fresh_again) == (again.session_id, True, False)
            assert (await begin("other", Begin(), idempotency_key="k"))[1]
            assert (await begin(ME, Begin(session_id="s", lease_ms=5000)))[1]
            assert not (await begin(ME, Begin(session_id="s", lease_ms=5000)))[1]
            for wrong in ({"lease_ms": 6000}, {"attempt": 2}):
                with pytest.raises(SessionExists, match="attempt 1 is open"):
                    await begin(ME, Begin(session_id="s", **wrong))
            with pytest.raises(SessionExists):
                await begin(ME, Begin(session_id="s", lease_ms=5000), idempotency_key="mine")

    asyncio.run(run())


@KINDS
def test_a_session_that_ended_is_begun_again_as_its_next_attempt(tmp_path: Path, kind: str) -> None:
    """Each attempt has one completion, with an id of its own; the numbers go up."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            for attempt in (1, 2):
                await node.watched.begin(ME, Begin(session_id="s", attempt=attempt))
                await node.watched.complete(ME, "s", Complete(attempt=attempt))
            with pytest.raises(SessionExists, match="attempt 2 is completed.*begin attempt 3"):
                await node.watched.begin(ME, Begin(session_id="s"))
            found = await events(node)
            assert sorted(event["session"].get("attempt", 1) for event in found) == [1, 2]
            assert len({event["event_id"] for event in found}) == 2
            assert (await node.watched.get(ME, "s")).attempt == 2
            assert (await node.watched.get(ME, "s", 1)).state == "completed"

    asyncio.run(run())


@KINDS
def test_what_is_invalid_is_refused_and_the_session_stays_open(tmp_path: Path, kind: str) -> None:
    """A wrong completion is kept in quarantine, whole, and may be sent again mended."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            with pytest.raises(EventInvalid) as refused:
                await node.watched.begin(ME, Begin(session_id="s", session_type=msgspec.Raw(b'"talk"')))
            assert refused.value.path == "session.session_type"
            await node.watched.begin(ME, Begin(session_id="s"))
            with pytest.raises(EventInvalid, match=r"usage.input_tokens"):
                await node.watched.heartbeat(ME, "s", Heartbeat(usage=parts(input_tokens=-1)))
            with pytest.raises(EventInvalid, match="kept in quarantine as qrn_"):
                await node.watched.complete(ME, "s", complete(outcome={"status": "fine"}))
            assert (await node.watched.get(ME, "s")).state == "open"
            assert (await node.watched.complete(ME, "s", Complete())).status == "accepted"

    asyncio.run(run())


def test_a_completion_that_came_another_way_stands(tmp_path: Path) -> None:
    """Where the log holds the session's completion already, the watched one is a conflict, in quarantine."""

    async def run() -> None:
        async with node_of(mapped_of("sqlite", tmp_path)) as node:
            begun, _ = await node.watched.begin(ME, Begin(session_id="s"))
            await node.ingest.take(ME, [raw("s")], source="test")
            with pytest.raises(EventConflict, match=f"{begun.event_id}.*qrn_"):
                await node.watched.complete(ME, "s", Complete())
            assert len(await events(node)) == 1

    asyncio.run(run())


def test_bounds_are_refused_with_their_setting(tmp_path: Path) -> None:
    """Leases, attempts, sizes and the number of open sessions have bounds; a completed one makes room."""

    async def run() -> None:
        sections: dict[str, dict[str, object]] = {"sessions": {"open_max": 2, "lease_ms_max": 60_000}}
        async with node_of(mapped_of("sqlite", tmp_path, **sections)) as node:

            async def refusal(begin: Begin) -> AdjournError:
                with pytest.raises(AdjournError) as refused:
                    await node.watched.begin(ME, begin)
                return refused.value

            for lease_ms in (999, 60_001):
                assert "1000 to 60000" in (await refusal(Begin(lease_ms=lease_ms))).message
            assert (await refusal(Begin(attempt=0))).path == "attempt"
            assert isinstance(await refusal(Begin(metadata=parts(custom_tags={"x": "y" * 70_000}))), BodyInvalid)
            for name in ("a", "b"):
                await node.watched.begin(ME, Begin(session_id=name))
            assert isinstance(await refusal(Begin(session_id="c")), TooBusy)
            assert not (await node.watched.begin(ME, Begin(session_id="a")))[1]
            assert (await node.watched.begin("other", Begin(session_id="c")))[1]

    asyncio.run(run())


@KINDS
def test_heartbeats_of_many_sessions_are_one_write(tmp_path: Path, kind: str) -> None:
    """A thousand at once, some with usage, some of sessions that are not there: each is told what it is."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            names = [f"s{number}" for number in range(1000)]
            await asyncio.gather(*(node.watched.begin(ME, Begin(session_id=name)) for name in names))

            async def beat(name: str, number: int) -> int | str:
                usage = parts(input_tokens=number) if number % 3 == 0 else None
                try:
                    return await node.watched.heartbeat(ME, name, Heartbeat(usage=usage))
                except NotFound:
                    return "not found"

            told = await asyncio.gather(*(beat(name, n) for n, name in enumerate([*names, "none"])))
            assert told == [30_000] * 1000 + ["not found"]
            found = {w.session_id: w for w in await node.watched.list(ME, state="open", limit=1000)}
            assert {w.beat for w in found.values()} == {1}
            assert found["s3"].usage == b'{"input_tokens":3}'
            assert found["s4"].usage == b""

    asyncio.run(run())


def test_tenants_see_nothing_of_each_other(tmp_path: Path) -> None:
    """The same id is two sessions for two tenants; neither can beat, complete or see the other's."""

    async def run() -> None:
        async with node_of(mapped_of("sqlite", tmp_path)) as node:
            mine, _ = await node.watched.begin(ME, Begin(session_id="s"))
            for call in (
                node.watched.heartbeat("other", "s", Heartbeat()),
                node.watched.complete("other", "s", Complete()),
                node.watched.get("other", "s"),
            ):
                with pytest.raises(NotFound):
                    await call
            theirs, fresh = await node.watched.begin("other", Begin(session_id="s"))
            assert fresh
            assert theirs.event_id != mine.event_id
            assert [w.tenant for w in await node.watched.list("other", limit=10)] == ["other"]

    asyncio.run(run())
