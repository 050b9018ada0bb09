"""Triggers as callers see them: put, looked at, removed, called; on both databases."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.sessions.triggering import KINDS, Rig, rigged

from adjourn.errors import (
    BodyInvalid,
    BodyTooLarge,
    NotFound,
    SessionEnded,
    StatusRefused,
    TriggerInvalid,
    TurnRunning,
)
from adjourn.sessions import trigger_service
from adjourn.sessions.triggers import TRIGGERS_MAX, IntervalTrigger, WebhookTrigger

EVERY = IntervalTrigger(name="a", prompt="look", every_ms=60_000)
HOOK = WebhookTrigger(name="a", prompt="got {body}")


@KINDS
def test_triggers_are_put_looked_at_and_removed(tmp_path: Path, kind: str) -> None:
    """As they were given, with their next time; of a session that is there, lives, and starts turns by its pattern."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.session("short", "ephemeral")
        await rig.put(HOOK, msgspec.structs.replace(EVERY, name="b"))
        assert [kept.trigger for kept in await rig.triggers.list("t", "s")] == [
            HOOK,
            msgspec.structs.replace(EVERY, name="b"),
        ]
        assert (await rig.kept("b")).next_ms == rig.clock.wall_ms() + 60_000
        await rig.triggers.remove("t", "s", "b")
        await rig.later(60)
        assert rig.door.begun == {}
        with pytest.raises(NotFound):
            await rig.triggers.remove("t", "s", "b")
        for tenant, session_id in (("t", "none"), ("other", "s")):
            with pytest.raises(NotFound):
                await rig.triggers.put(tenant, session_id, EVERY)
            with pytest.raises(NotFound):
                await rig.triggers.list(tenant, session_id)
        with pytest.raises(TriggerInvalid, match="ephemeral"):
            await rig.put(EVERY, session_id="short")
        await rig.database.write(lambda tx: tx.run("UPDATE sessions SET ended_ms = 1 WHERE id = 's'"))
        with pytest.raises(SessionEnded):
            await rig.put(EVERY)

    rigged(kind, tmp_path, work)


@KINDS
def test_a_session_has_so_many_and_no_more(tmp_path: Path, kind: str) -> None:
    """One more is refused; one of those that are there may change."""

    async def work(rig: Rig) -> None:
        await rig.session()
        many = [msgspec.structs.replace(HOOK, name=f"t{n}") for n in range(TRIGGERS_MAX)]
        await rig.put(*many)
        with pytest.raises(TriggerInvalid, match="remove one"):
            await rig.put(EVERY)
        await rig.put(msgspec.structs.replace(EVERY, name="t0"))

    rigged(kind, tmp_path, work)


@KINDS
def test_a_webhook_says_what_it_was_sent(tmp_path: Path, kind: str) -> None:
    """Each call is a turn, and the same call that is sent again is the same turn; what cannot be said is refused, and
    so is one that is off, or is none."""

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(
            HOOK, msgspec.structs.replace(EVERY, name="b"), msgspec.structs.replace(HOOK, name="off", enabled=False)
        )

        async def call(body: bytes, key: str = "", name: str = "a") -> str:
            return (await rig.triggers.call_webhook("t", "s", name, body, idempotency_key=key)).turn_id

        first = await call(b'{"n": 1}', "k")
        assert first == await call(b'{"n": 1}', "k")
        assert await call(b"") != await call(b"")
        assert rig.door.prompts == ['got {"n": 1}', "got ", "got "]
        for name, error in (("b", StatusRefused), ("off", StatusRefused), ("none", NotFound)):
            with pytest.raises(error):
                await call(b"", name=name)
        with pytest.raises(BodyInvalid, match="byte 1"):
            await call(b"a\xff")
        with pytest.raises(BodyTooLarge):
            await call(b"x" * (trigger_service.BODY_BYTES_MAX + 1))
        rig.door.refuse(TurnRunning("turn turn_1 runs; wait for it"))
        with pytest.raises(TurnRunning):
            await call(b"")

    rigged(kind, tmp_path, work)
