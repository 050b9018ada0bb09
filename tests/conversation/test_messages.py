"""Messages in their table, on both databases: places, ids, pages, and many who append at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from tests.conversation.rigs import (
    T,
    begin_from,
    call,
    database_of,
    put_session,
    result,
    say,
    text,
    whole,
    words,
)
from tests.databases.rigs import KINDS, DatabaseRig, opened, query
from tests.documented import documented_names

from adjourn.conversation import messages
from adjourn.conversation.message import Draft, StoredMessage, TokenSource
from adjourn.conversation.messages import Placed
from adjourn.database import Tx
from adjourn.errors import BodyInvalid, MessageConflict, MessageUnreadable
from adjourn.runner import Part, Role
from adjourn.testing.faults import run_python

pytestmark = pytest.mark.parametrize("kind", KINDS)


def test_what_is_appended_is_read(kind: str, tmp_path: Path) -> None:
    """Every field comes back as it was given, places are consecutive, and ids that were not given are made."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "s")
            rich = Draft(
                role="assistant",
                parts=[Part(type="text", text="x" * 5_000), call("c")],
                agent="anna",
                metadata={"k": [1, {"é": None}]},
                id="mine",
                turn_id="turn_1",
                tokens=12,
                token_source="exact",
                expires_ms=2**40,
            )
            written = await database.write(say, "s", [text("a"), rich, text("b")], 1_700_000_000_000)
            assert written.last_seq == 3
            assert [each.seq for each in written.placed] == [1, 2, 3]
            first, second, third = await database.read(whole, "s")
            assert [each.id for each in (first, second, third)] == [each.id for each in written.placed]
            assert first.id.startswith("msg_")
            assert first.id != third.id
            assert second == StoredMessage(
                id="mine",
                session_id="s",
                seq=2,
                role="assistant",
                parts=second.parts,
                agent="anna",
                metadata=rich.metadata,
                turn_id="turn_1",
                created_ms=1_700_000_000_000,
                expires_ms=2**40,
                tokens=12,
                token_source="exact",
            )
            assert second.parts[0] == rich.parts[0]
            assert (await database.write(say, "s", [])).placed == []
            many = await database.write(say, "s", [text(str(n)) for n in range(200)])
            assert [each.seq for each in many.placed] == list(range(4, 204))
            assert await database.read(messages.count, T, "s") == 203
            assert await database.read(messages.count, "other", "s") == 0
            assert await database.read(whole, "s", "other") == []

    asyncio.run(run())


def test_the_same_id_again_is_the_same_message(kind: str, tmp_path: Path) -> None:
    """A message that comes again is told where it stands, within one call and over several; the order of names in its
    metadata does not count; and the places of the others stay without gaps."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "s")
            one = text("one", id="m1", metadata={"a": 1, "b": 2})
            await database.write(say, "s", [one, text("two", id="m2"), one])
            again = text("one", id="m1", metadata={"b": 2, "a": 1}, turn_id="other")
            written = await database.write(
                say, "s", [text("three"), again, text("four", id="m4"), text("two", id="m2")]
            )
            assert written.last_seq == 4
            assert written.placed[1:] == [Placed("m1", 1, False), Placed("m4", 4, True), Placed("m2", 2, False)]
            assert [words(each) for each in await database.read(whole, "s")] == ["one", "two", "three", "four"]
            after = await database.write(say, "s", [text("five")])
            assert after.last_seq == 5
            await database.write(put_session, "other")
            assert (await database.write(say, "other", [one])).placed == [Placed("m1", 1, True)], "ids are a session's"

    asyncio.run(run())


@pytest.mark.parametrize(
    "changed",
    [{"words": "uno"}, {"role": "assistant"}, {"agent": "anna"}, {"metadata": {"a": True}}],
    ids=lambda changed: next(iter(changed)),
)
def test_an_id_with_other_content_is_a_conflict(kind: str, changed: dict[str, object], tmp_path: Path) -> None:
    """Another message under an id that stands is refused, with the place of the first; nothing of the call is written,
    and what others write at the same time is."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "s")
            await database.write(put_session, "t")
            fields = {"words": "one", "id": "m1", "metadata": {"a": 1}}
            await database.write(say, "s", [text("zero"), text(**fields)])
            for drafts in ([text("x"), text(**fields | changed)], [text("y", id="m2"), text("z", id="m2")]):
                bad, good = await asyncio.gather(
                    database.write(say, "s", drafts, key="a"),
                    database.write(say, "t", [text("beside")], key="a"),
                    return_exceptions=True,
                )
                assert isinstance(bad, MessageConflict)
                assert not isinstance(good, BaseException)
            assert [words(each) for each in await database.read(whole, "s")] == ["zero", "one"]
            assert await database.read(messages.count, T, "t") == 2

    asyncio.run(run())


def test_an_id_in_what_is_shared_is_the_same_message_too(kind: str, tmp_path: Path) -> None:
    """An id that stands in the shared part of a conversation is not appended again; one behind that part may be."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "s")
            await database.write(say, "s", [text(name, id=name) for name in ("a", "b", "c")])
            await database.write(begin_from, "t", "s", 2)
            await database.write(begin_from, "u", "t")
            written = await database.write(say, "u", [text("b", id="b"), text("c", id="c")])
            assert written.placed == [Placed("b", 2, False), Placed("c", 3, True)]
            with pytest.raises(MessageConflict, match="number 1"):
                await database.write(say, "u", [text("other", id="a")])

    asyncio.run(run())


def test_what_cannot_be_kept_is_refused_whole(kind: str, tmp_path: Path) -> None:
    """A draft that is no JSON leaves nothing behind of the call that brought it."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "s")
            with pytest.raises(BodyInvalid):
                await database.write(say, "s", [text("a"), Draft(role="assistant", parts=[call("c", "{")])])
            assert (await database.write(say, "s", [text("b")])).last_seq == 1

    asyncio.run(run())


def test_pages_meet_without_gap_or_overlap(kind: str, tmp_path: Path) -> None:
    """Read forwards or backwards, in pages of any size, within any bounds: the whole conversation, each message once,
    through everything that it shares."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "a")
            await database.write(say, "a", [text(f"a{n}") for n in range(1, 6)])
            await database.write(begin_from, "b", "a", 4)
            await database.write(say, "b", [text(f"b{n}") for n in range(5, 8)])
            await database.write(begin_from, "c", "b", 6)
            await database.write(say, "c", [text(f"c{n}") for n in range(7, 10)])
            await database.write(say, "a", [text("a6"), text("a7")])
            expected = ["a1", "a2", "a3", "a4", "b5", "b6", "c7", "c8", "c9"]

            def look(reader: Tx) -> None:
                assert [words(each) for each in whole(reader, "c")] == expected
                assert [each.session_id for each in whole(reader, "c")] == list("aaaabbccc")
                assert messages.count(reader, T, "c") == 9
                for after in range(11):
                    for before in (None, *range(1, 12)):
                        end = 99 if before is None else before
                        right = [(n, w) for n, w in enumerate(expected, 1) if after < n < end]
                        for limit in (1, 2, 3, 5, 9, 20):
                            bounds = {"after": after, "before": before, "limit": limit}
                            some = messages.read(reader, T, "c", **bounds)
                            assert [(m.seq, words(m)) for m in some] == right[:limit], bounds
                            some = messages.read(reader, T, "c", **bounds, newest=True)
                            assert [(m.seq, words(m)) for m in some] == right[-limit:], bounds
                assert [words(each) for each in messages.last(reader, T, "c", 4)] == expected[-4:]
                assert messages.last(reader, T, "none", 4) == []

            await database.read(look)

    asyncio.run(run())


def test_a_runner_is_told_no_half_of_a_tool_call(kind: str, tmp_path: Path) -> None:
    """However few messages a history may have, it never begins with a result without its call, and never ends before a
    result; `before` leaves out what the turn itself is asked."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "s")
            step = [
                text("do"),
                Draft(role="assistant", parts=[call("1"), call("2")], agent="anna"),
                Draft(role="tool", parts=[result("1"), result("2")], agent="anna"),
                text("done", "assistant"),
            ]
            await database.write(say, "s", step)
            await database.write(begin_from, "t", "s")
            await database.write(say, "t", [*step, text("now")])

            def look(reader: Tx) -> None:
                told = ["do", "call 1 call 2", "result 1 result 2", "done"] * 2
                assert [words(each) for each in messages.history(reader, T, "t", before=9)] == told
                assert [words(each) for each in messages.history(reader, T, "t")] == [*told, "now"]
                assert [words(each) for each in messages.history(reader, T, "t", before=9, limit=2)] == ["done"]
                assert [words(each) for each in messages.history(reader, T, "t", before=9, limit=3)] == told[-3:]
                assert [words(each) for each in messages.history(reader, T, "t", before=7, limit=1)] == [
                    "call 1 call 2",
                    "error 1 error 2",
                ]
                assert messages.history(reader, T, "t", before=9, limit=3)[0].agent == "anna"

            await database.read(look)

    asyncio.run(run())


def test_a_history_has_a_bound(kind: str, tmp_path: Path) -> None:
    """It is the newest 200 messages, in order; of large ones fewer, but the newest in any case."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            await database.write(put_session, "s")
            await database.write(say, "s", [text(str(n)) for n in range(300)])
            told = await database.read(messages.history, T, "s")
            assert [words(each) for each in told] == [str(n) for n in range(100, 300)]
            large = "x" * (messages.HISTORY_BYTES_MAX // 8)
            await database.write(say, "s", [text(large) for _ in range(messages.HISTORY_STEP)])
            told = await database.read(messages.history, T, "s")
            assert [words(each) for each in told] == [large] * messages.HISTORY_STEP
            assert len(await database.read(messages.history, T, "s", limit=1)) == 1

    asyncio.run(run())


def test_a_damaged_message_is_not_an_empty_one(kind: str, tmp_path: Path) -> None:
    """A body that was damaged, or stands under a codec of a later version, is an error that names the message."""

    async def run() -> None:
        rig = DatabaseRig(kind, tmp_path)
        async with opened(rig.connect()) as database:
            await database.write(put_session, "s")
            await database.write(say, "s", [text("a" * 2_000, id="m1"), text("b", id="m2")])
            query(rig.url, "UPDATE messages SET body = ? WHERE id = 'm1'", b"(\xb5/\xfd")
            query(rig.url, "UPDATE messages SET codec = 32 WHERE id = 'm2'")
            with pytest.raises(MessageUnreadable, match="m1 is damaged"):
                await database.read(whole, "s")
            with pytest.raises(MessageUnreadable, match="m2 is stored with codec 32"):
                await database.read(messages.history, T, "s", limit=1)

    asyncio.run(run())


def test_many_who_append_at_once_all_find_their_place(kind: str, tmp_path: Path) -> None:
    """Appends of many callers to many sessions, all at once: each session has all of its own, in the order in which its
    callers were told, without a gap."""

    async def run() -> None:
        async with database_of(kind, tmp_path) as database:
            for n in range(8):
                await database.write(put_session, f"s{n}")
            drafts = [(f"s{n % 8}", f"{n}.{k}") for n in range(32) for k in range(5)]
            written = await asyncio.gather(
                *(database.write(say, s, [text(w, id=w), text(f"{w}+")], key=w) for s, w in drafts)
            )
            for n in range(8):
                stored = await database.read(whole, f"s{n}")
                assert [each.seq for each in stored] == list(range(1, 41))
                places = {
                    p.id: p.seq for (s, _), w in zip(drafts, written, strict=True) if s == f"s{n}" for p in w.placed
                }
                assert places == {each.id: each.seq for each in stored}

    asyncio.run(run())


APPENDER = """
import asyncio, sys
from tests.conversation.rigs import say, text
from adjourn.databases.choose import database_for
from adjourn.testing.database_rig import Recorder

async def main():
    database = database_for(sys.argv[1])
    await database.open(Recorder())
    print("open", flush=True)
    sys.stdin.readline()
    for n in range(40):
        written = await database.write(say, "s", [text(f"{sys.argv[2]}.{n}")], key=sys.argv[2])
        print(written.last_seq, flush=True)
    await database.close()

asyncio.run(main())
"""


def test_four_processes_append_to_one_session(kind: str, tmp_path: Path) -> None:
    """4 processes × 40 appends to one session are 160 messages, those of each process in its order, at the places that
    it was told."""
    rig = DatabaseRig(kind, tmp_path)

    async def run() -> None:
        async with opened(rig.connect()) as database:
            await database.write(put_session, "s")
            children = [run_python(APPENDER, rig.url, str(n)) for n in range(4)]
            for child in children:
                assert child.stdout is not None
                assert child.stdout.readline() == b"open\n"
            outputs = await asyncio.gather(*(asyncio.to_thread(child.communicate, b"\n") for child in children))
            stored = await database.read(whole, "s")
            assert [each.seq for each in stored] == list(range(1, 161))
            for n, (output, _) in enumerate(outputs):
                mine = [each for each in stored if words(each).startswith(f"{n}.")]
                assert [words(each) for each in mine] == [f"{n}.{k}" for k in range(40)]
                assert [each.seq for each in mine] == [int(line) for line in output.split()]

    asyncio.run(run())


def test_the_reference_lists_what_a_message_may_have(kind: str) -> None:
    """Every role, type of part and source of a token count is on the page, and nothing else is."""
    del kind
    page = "messages.md"
    assert documented_names(page, section="Roles") == set(get_args(Role))
    assert documented_names(page, section="Parts") == set(get_args(get_type_hints(Part)["type"]))
    assert documented_names(page, section="Token counts") == {each for each in get_args(TokenSource) if each}
