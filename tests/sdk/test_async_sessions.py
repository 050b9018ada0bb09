"""Hosted sessions through both clients, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import pytest

from adjourn.errors import (
    BodyInvalid,
    KeyReused,
    NotFound,
    PriceUnknown,
    RevisionStale,
    RunnerRefused,
    SessionEnded,
    StatusRefused,
    TriggerInvalid,
    TurnRunning,
)
from adjourn.http import session_views as views
from adjourn.http import triggers as trigger_views
from adjourn.http.conversation import MessageView
from adjourn.sdk import Agent, Config, Limits, Part, Price, models_events, models_sessions
from adjourn.sdk import _sessions as rules
from adjourn.sessions import hosting, lifecycle, session, turn
from adjourn.sessions.query import Query
from tests.http.serving import Serving, serving
from tests.sdk.talking import open_async, open_sync

BOTH = pytest.mark.parametrize("opened", [open_async, open_sync], ids=["async", "sync"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    directory = tmp_path_factory.mktemp("sessions")
    with serving(f"sqlite:///{directory}/adjourn.db", directory) as running:
        yield running


def talk(server: Serving, opened: Any, act: Any, who: str = "acme/admin", **options: Any) -> Any:
    async def main() -> Any:
        async with opened(server.url, server.keys[who], **options) as client:
            return await act(client.sessions)

    return asyncio.run(main())


# --- one session ------------------------------------------------------------------------------------------------------


@BOTH
def test_the_life_of_a_session(server: Serving, opened: Any) -> None:
    """Made, talked to, changed, completed, amended and deleted: each answer is typed, and its figures add up."""

    async def act(sessions: Any) -> None:
        made = await sessions.create(
            "hybrid",
            name="n",
            tags=["a"],
            user_id="usr/1",
            config=Config(options={"reply": "to {text}", "cost_usd": "0.25"}, system_prompt="be brief"),
            limits=Limits(max_turns=9, max_budget_usd=Decimal("5.50")),
            price=Price(input_usd_per_mtok=Decimal(3), output_usd_per_mtok=Decimal("1.5")),
            metadata={"deep": [1, {"x": None}]},
        )
        assert (made.status, made.pattern, made.cost_usd, made.limits.max_turns) == ("active", "hybrid", 0, 9)
        assert made.limits.max_budget_usd == Decimal("5.5")
        assert made.config.system_prompt == "be brief"
        assert made.live
        sent = [await sessions.send(made.id, "one two") for _ in range(3)]
        assert [each.text for each in sent] == ["to one two"] * 3
        assert [each.turn.number for each in sent] == [1, 2, 3]
        assert sum(each.turn.cost_usd for each in sent) == sent[-1].session.cost_usd == Decimal("0.75")
        assert sent[-1].session == await sessions.get(made.id)
        changed = await sessions.update(made.id, made.revision, name="m", state={"step": 2})
        assert (changed.name, changed.tags, changed.state) == ("m", ["a"], {"step": 2})
        with pytest.raises(RevisionStale):
            await sessions.update(made.id, made.revision, name="o")
        said = (await sessions.messages(made.id, limit=2, newest=True)).messages
        assert [(each.role, each.text) for each in said] == [("user", "one two"), ("assistant", "to one two")]
        assert (await sessions.snapshot(made.id)).messages == 6
        with pytest.raises(StatusRefused):
            await sessions.delete(made.id)
        ended = await sessions.complete(made.id, final_message="bye", final_state={"x": 1})
        assert (ended.status, ended.outcome, ended.final_message, ended.live) == ("completed", "success", "bye", False)
        with pytest.raises(SessionEnded):
            await sessions.complete(made.id)
        assert (await sessions.amend(made.id, outcome="error", cost_usd=Decimal("0.80"))).amendment_id
        again = await sessions.resume(made.id)
        assert (again.resumed_from, again.live) == (made.id, True)
        await sessions.delete(made.id)
        with pytest.raises(NotFound):
            await sessions.get(made.id)
        await sessions.delete(again.id, force=True)

    talk(server, opened, act)


@BOTH
def test_messages_in_parts_and_without_turns(server: Serving, opened: Any) -> None:
    """What is appended is there once, under its id, and is known to the next turn; agents are addressed by name."""

    async def act(sessions: Any) -> None:
        made = await sessions.create(
            "single_container", config=Config(agents=[Agent(name="a"), Agent(name="b")], options={"reply": "{agent}"})
        )
        first = await sessions.append(made.id, "be kind", agent="a", role="system", message_id="m/1")
        assert first == await sessions.append(made.id, "be kind", agent="a", role="system", message_id="m/1")
        assert (await sessions.append(made.id, "more", agent="a")).seq == first.seq + 1
        sent = await sessions.send(made.id, [Part(type="text", text="x")], agent="b", metadata={"n": 1})
        assert (sent.text, list(sent.session.by_agent)) == ("b", ["b"])
        assert (await sessions.terminate(made.id, reason="enough")).outcome == "user_terminated"
        assert (await sessions.terminate(made.id)).status == "terminated"

    talk(server, opened, act)


@BOTH
def test_a_call_is_made_once(server: Serving, opened: Any) -> None:
    """Under a key of the caller's it is the same session, and the same turn; another call under it is refused."""

    async def act(sessions: Any) -> None:
        key = f"k-{opened.__name__}"
        made = [await sessions.create("hybrid", idempotency_key=key) for _ in range(2)]
        assert made[0].id == made[1].id
        with pytest.raises(KeyReused):
            await sessions.create("hybrid", idempotency_key=key, name="other")
        sent = [await sessions.send(made[0].id, "x", idempotency_key="k") for _ in range(2)]
        assert sent[0] == sent[1]
        assert (await sessions.get(made[0].id)).usage.turns == 1
        await sessions.send(made[0].id, "x")
        assert (await sessions.get(made[0].id)).usage.turns == 2

    talk(server, opened, act)


@BOTH
def test_refusals_are_the_errors_that_the_server_raises(server: Serving, opened: Any) -> None:
    """Of the same class, with the same path; nothing else comes out."""

    async def act(sessions: Any) -> None:
        with pytest.raises(BodyInvalid, match="did you mean 'hybrid'") as wrong:
            await sessions.create("hybryd")
        assert wrong.value.path == "pattern"
        with pytest.raises(RunnerRefused):
            await sessions.create("hybrid", runner="nobody")
        with pytest.raises(PriceUnknown):
            await sessions.create("hybrid", limits={"max_budget_usd": 1})
        with pytest.raises(NotFound):
            await sessions.send("../x", "hello")
        with pytest.raises(BodyInvalid, match="empty"):
            await sessions.get("")
        with pytest.raises(BodyInvalid, match="cannot be written as JSON"):
            await sessions.create("hybrid", metadata={"x": object()})
        made = await sessions.create("hybrid", config={"options": {"hang": True}})
        async with sessions.stream(made.id, "x") as running:
            async for event in running:
                if event.type == "text_delta":
                    break
            with pytest.raises(TurnRunning):
                await sessions.send(made.id, "y")
            await sessions.interrupt(made.id)
            assert (await running.answer()).turn.status == "interrupted"
        with pytest.raises(TriggerInvalid):
            await sessions.put_trigger(made.id, "t", {"kind": "webhook", "prompt": "x"})

    talk(server, opened, act)


@BOTH
def test_triggers(server: Serving, opened: Any) -> None:
    """Put, called, listed and removed."""

    async def act(sessions: Any) -> None:
        made = await sessions.create("long_running")
        put = await sessions.put_trigger(made.id, "hook", {"kind": "webhook", "prompt": "got {body}"})
        assert (put.trigger["kind"], put.next_at, put.error) == ("webhook", None, "")
        begun = [await sessions.call_trigger(made.id, "hook", b"ping", idempotency_key="k") for _ in range(2)]
        assert begun[0].turn_id == begun[1].turn_id
        await sessions.put_trigger(made.id, "tick", {"kind": "interval", "every_ms": 3_600_000, "prompt": "x"})
        assert [each.trigger["name"] for each in await sessions.triggers(made.id)] == ["hook", "tick"]
        assert (await sessions.trigger(made.id, "tick")).next_at is not None
        await sessions.remove_trigger(made.id, "tick")
        with pytest.raises(NotFound):
            await sessions.remove_trigger(made.id, "tick")

    talk(server, opened, act)


# --- many -------------------------------------------------------------------------------------------------------------


@BOTH
def test_lists_and_stats(server: Serving, opened: Any) -> None:
    """Filters reach the server, pages lead to one another, and the totals are typed."""

    async def act(sessions: Any) -> None:
        tag = opened.__name__
        for n in range(5):
            made = await sessions.create("hybrid", tags=[tag, "all"], name=f"s{n}", kind="chat", role="observer")
            await sessions.send(made.id, "x", options={"cost_usd": f"0.{n}"})
        page = await sessions.list(tags=[tag, "all"], limit=2, order="cost", descending=False)
        assert [each.name for each in page.sessions] == ["s0", "s1"]
        found = [each.name async for each in sessions.iterate(tags=tag, order="cost", limit=2)]
        assert found == ["s4", "s3", "s2", "s1", "s0"]
        now = datetime.now(UTC)
        wanted = {"live": True, "status": ["active", "idle"], "role": "observer", "kind": "chat", "tags": tag}
        since = now - timedelta(hours=1)
        assert len((await sessions.list(**wanted, pattern="hybrid", created_since=since)).sessions) == 5
        assert (await sessions.list(**wanted, created_until=since.isoformat())).sessions == []
        assert (await sessions.list(tags=tag, name_prefix="s3")).sessions[0].name == "s3"
        stats = await sessions.stats(shown=10)
        assert stats.by_tag[tag].sessions == 5
        assert stats.total.sessions == sum(each.sessions for each in stats.by_pattern.values())

    talk(server, opened, act)


# --- from entry to exit -----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, ("success", "")), (TimeoutError(), ("timeout", "TimeoutError")), (KeyError("x"), ("error", "KeyError"))],
)
def test_a_session_lasts_from_entry_to_exit(
    server: Serving, opened: Any, error: Exception | None, outcome: tuple[str, str]
) -> None:
    """Its outcome is how the block ended, and what the block raises passes on."""
    seen: list[Any] = []

    async def act(sessions: Any) -> None:
        async with sessions.session("hybrid") as s:
            seen.append(s)
            await s.append("hello")
            assert (await s.send("x")).text == "x"
            if error is not None:
                raise error

    if error is None:
        talk(server, opened, act)
    else:
        with pytest.raises(type(error)):
            talk(server, opened, act)
    assert (seen[0].answer.outcome, seen[0].answer.error_code) == outcome


@BOTH
def test_one_that_ends_by_itself_or_is_left_in_a_turn(server: Serving, opened: Any) -> None:
    """An ephemeral one has its completion already; one whose turn runs is terminated."""

    async def act(sessions: Any) -> None:
        async with sessions.session("ephemeral") as s:
            await s.send("x")
        assert s.answer.status == "completed"
        async with sessions.session("hybrid", config={"options": {"hang": True}}) as s:
            async with s.stream("x") as running:
                async for event in running:
                    if event.type == "text_delta":
                        break
        assert s.answer.outcome == "user_terminated"

    talk(server, opened, act)


# --- the types --------------------------------------------------------------------------------------------------------


def test_the_words_are_those_of_the_server() -> None:
    """The client has words of its own, since it stands below; they are the same."""
    assert get_args(models_sessions.Pattern) == get_args(hosting.Pattern)
    assert get_args(models_sessions.Status) == get_args(lifecycle.Status)
    assert get_args(models_sessions.TurnStatus) == get_args(turn.TurnStatus)
    assert set(rules.NewSession.__annotations__) | {"pattern"} == set(session.NewSession.__struct_fields__)
    assert set(rules.Changes.__annotations__) | {"revision"} == set(session.Patch.__struct_fields__)
    assert set(rules.Correction.__annotations__) == set(turn.Amending.__struct_fields__)
    asking = {*rules.Saying.__annotations__, *rules.Asking.__annotations__, "prompt", "parts", "run", "stream"}
    assert asking == set(turn.Message.__struct_fields__)
    filters = {name.removesuffix("_ms") for name in Query.__struct_fields__} - {"cursor", "limit"}
    assert set(rules.Filter.__annotations__) == filters


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (models_sessions.SessionAnswer, views.SessionView),
        (models_sessions.UsageAnswer, views.UsageView),
        (models_sessions.TurnAnswer, views.TurnView),
        (models_sessions.SentAnswer, views.AnswerView),
        (models_sessions.AppendedAnswer, views.Appended),
        (models_sessions.SnapshotAnswer, views.SnapshotView),
        (models_sessions.StatsAnswer, views.StatsView),
        (models_sessions.Figures, views.FiguresView),
        (models_sessions.Durations, views.DurationsView),
        (models_sessions.MessageAnswer, MessageView),
        (models_sessions.TriggerAnswer, trigger_views.TriggerView),
        (models_sessions.Limits, session.Limits),
        (models_sessions.Price, session.Price),
        (models_events.SessionEvent, views.SessionEventView),
    ],
)
def test_every_field_is_typed(ours: Any, theirs: Any) -> None:
    """What the server answers has no field that the client leaves out."""
    assert ours.__struct_fields__ == theirs.__struct_fields__
