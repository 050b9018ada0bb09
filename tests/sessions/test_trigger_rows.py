"""The table of triggers, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from tests.sessions.triggering import KINDS, Rig, rigged

from adjourn.database import Reader, Tx
from adjourn.sessions import trigger_rows as rows
from adjourn.sessions.trigger_rows import TriggerKey
from adjourn.sessions.triggers import FileTrigger, IntervalTrigger, Seen, WebhookTrigger

NOW_MS = 1_700_000_000_000
EVERY = IntervalTrigger(name="a", prompt="x", every_ms=60_000)
FILES = FileTrigger(name="f", prompt="x", path="in")
KEY = TriggerKey("t", "s", "a")


@KINDS
def test_of_two_nodes_one_moves_a_trigger(tmp_path: Path, kind: str) -> None:
    """Whoever decided by an older revision changes nothing, and is told so; a change of the trigger counts too."""

    async def work(rig: Rig) -> None:
        await rig.database.write(rows.put, "t", "s", [EVERY], NOW_MS)
        moves = [rig.database.write(rows.moved, KEY, 1, NOW_MS + n, Seen(fired_ms=n), key=str(n)) for n in range(8)]
        assert sum(await asyncio.gather(*moves)) == 1
        kept = await rig.kept()
        assert (kept.revision, kept.next_ms) == (2, NOW_MS + (kept.seen.fired_ms or 0))
        await rig.database.write(rows.put, "t", "s", [msgspec.structs.replace(EVERY, prompt="y")], NOW_MS)
        assert not await rig.database.write(rows.moved, KEY, 2, None)
        assert not await rig.database.write(rows.moved, TriggerKey("t", "s", "none"), 1, None)

    rigged(kind, tmp_path, work)


@KINDS
def test_putting_the_same_again_changes_nothing(tmp_path: Path, kind: str) -> None:
    """Whoever puts an hourly trigger each minute, as it is, does not keep it from being due."""

    async def work(rig: Rig) -> None:
        await rig.database.write(rows.put, "t", "s", [EVERY], NOW_MS)
        before = await rig.kept()
        await rig.database.write(rows.put, "t", "s", [EVERY], NOW_MS + 30_000)
        assert await rig.kept() == before
        await rig.database.write(rows.put, "t", "s", [msgspec.structs.replace(EVERY, enabled=False)], NOW_MS)
        assert (await rig.kept()).next_ms is None

    rigged(kind, tmp_path, work)


@KINDS
def test_files_that_were_handled_stay_handled_while_the_same_is_watched(tmp_path: Path, kind: str) -> None:
    """Another prompt does not tell them again; another path begins anew."""

    async def work(rig: Rig) -> None:
        key = KEY._replace(name="f")
        await rig.database.write(rows.put, "t", "s", [FILES], NOW_MS)
        await rig.database.write(rows.moved, key, 1, NOW_MS, Seen(marks="AAAAAAAAAAA=", error="x"))
        await rig.database.write(rows.put, "t", "s", [msgspec.structs.replace(FILES, prompt="y")], NOW_MS)
        assert (await rig.kept("f")).seen == Seen(marks="AAAAAAAAAAA=")
        await rig.database.write(rows.put, "t", "s", [msgspec.structs.replace(FILES, path="out")], NOW_MS)
        assert (await rig.kept("f")).seen == Seen()

    rigged(kind, tmp_path, work)


@KINDS
def test_what_is_due_comes_by_an_index_the_longest_due_first(tmp_path: Path, kind: str) -> None:
    """Of thousands, those whose time has come, and no other row is looked at."""

    async def work(rig: Rig) -> None:
        def many(tx: Tx) -> None:
            for n in range(2000):
                rows.put(tx, "t", f"s{n:04}", [EVERY, WebhookTrigger(name="w", prompt="x")], NOW_MS + n)

        await rig.database.write(many)
        found, unreadable = await rig.database.read(rows.due, NOW_MS + 60_002, 10)
        assert [kept.key.session_id for kept in found] == ["s0000", "s0001", "s0002"]
        assert unreadable == []
        assert len((await rig.database.read(rows.due, NOW_MS + 10**9, 7))[0]) == 7

        def plan(reader: Reader) -> str:
            sql = "EXPLAIN QUERY PLAN" if reader.dialect == "sqlite" else "EXPLAIN"
            return str(reader.rows(f"{sql} {rows.DUE}", (NOW_MS, 10)))

        if kind == "postgresql":
            await rig.database.write(lambda tx: tx.run("ANALYZE session_triggers"))
        assert "session_triggers_by_next" in await rig.database.read(plan)

    rigged(kind, tmp_path, work)


@KINDS
def test_one_that_cannot_be_read_is_told_and_hides_no_other(tmp_path: Path, kind: str) -> None:
    """A later version may have written it; the others are found all the same, and it can be put anew."""

    async def work(rig: Rig) -> None:
        await rig.database.write(rows.put, "t", "s", [EVERY, msgspec.structs.replace(EVERY, name="b")], NOW_MS)
        spoil = "UPDATE session_triggers SET spec = ? WHERE name = 'a'"
        await rig.database.write(lambda tx: tx.run(spoil, (b'{"trigger":{"kind":"moon"}}',)))
        found, unreadable = await rig.database.read(rows.due, NOW_MS + 60_000, 10)
        assert [kept.key.name for kept in found] == ["b"]
        assert unreadable == [(KEY, 1)]
        assert [kept.key.name for kept in (await rig.database.read(rows.page, TriggerKey("", "", ""), 2))[0]] == ["b"]
        await rig.database.write(rows.put, "t", "s", [EVERY], NOW_MS)
        assert (await rig.kept()).trigger == EVERY

    rigged(kind, tmp_path, work)


@KINDS
def test_triggers_go_with_their_session(tmp_path: Path, kind: str) -> None:
    """Stopped when it ends, and still to be seen; gone when it is deleted; those of others stay."""

    async def work(rig: Rig) -> None:
        for session_id in ("s", "other"):
            await rig.database.write(rows.put, "t", session_id, [EVERY, FILES], NOW_MS)
        await rig.database.write(rows.stop, "t", "s")
        stopped = await rig.database.read(rows.select, "t", "s")
        assert [(kept.key.name, kept.next_ms) for kept in stopped] == [("a", None), ("f", None)]
        assert len((await rig.database.read(rows.due, NOW_MS + 10**9, 10))[0]) == 2
        await rig.database.write(rows.remove_all, "t", "s")
        assert await rig.database.read(rows.select, "t", "s") == []
        assert await rig.database.write(rows.remove, TriggerKey("t", "other", "a"))
        assert not await rig.database.write(rows.remove, TriggerKey("t", "other", "a"))
        assert [kept.key.name for kept in await rig.database.read(rows.select, "t", "other")] == ["f"]

    rigged(kind, tmp_path, work)
