"""Totals of tenants and of users: budgets above all of their sessions."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.faults.rigs import Nursery
from tests.sessions.hosted import ME, PRICED, Story, made, new, say, sound, story_in, until
from tests.sessions.rigs import mapped_of, node_of

from adjourn.database import Reader
from adjourn.errors import BudgetReached, PriceUnknown, SessionEnded, TooBusy
from adjourn.node import Node
from adjourn.sessions import turn_changes
from adjourn.sessions.budgets import Total, Totals, account_of_total, move_totals, opened_budgets
from adjourn.sessions.session import Session
from adjourn.settings import HostingSettings, TenantSettings

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
NANO = 10**9


def mapped(kind: str, directory: Path, **tenant: object) -> dict[str, Any]:
    return mapped_of(kind, directory, hosting={"tenants": [{"name": ME, **tenant}]})


def other(mapped: dict[str, Any], **tenant: object) -> dict[str, Any]:
    """The same installation with other settings of the tenant."""
    return {**mapped, "hosting": {"tenants": [{"name": ME, **tenant}]}}


def balances_in(reader: Reader) -> dict[str, int]:
    """Of the totals, by account."""
    found = reader.rows("SELECT name, balance FROM accounts WHERE name LIKE 'total/%'")
    return {str(row[0]): int(row[1] or 0) for row in found}


async def balances(node: Node) -> dict[str, int]:
    return await node.database.read(balances_in)


def both_in(reader: Reader) -> tuple[Story, dict[str, int]]:
    return story_in(reader), balances_in(reader)


async def added_up(node: Node, totals: Totals, spent_before: int = 0) -> list[str]:
    """What contradicts itself at one instant: each total is what is left, what turns hold, and what was spent."""
    found, left = await node.database.read(both_in)
    wrong = found.wrong()
    for user in {"", *(session.user_id for session in found.sessions.values())}:
        for total in totals.of(ME, user):
            if total.user_id != user or total.account not in left:
                continue
            mine = [one for one in found.sessions.values() if not user or one.user_id == user]
            turns = [turn for one in mine for turn in found.turns.get((one.tenant, one.id), [])]
            held = sum(turn.reserved_nanousd for turn in turns if turn.reservation == "held")
            spent = sum(one.spent.cost_nanousd for one in mine) + spent_before
            if left[total.account] + held + spent != total.nanousd:
                wrong.append(f"{total}: {left[total.account]} are left, {held} held, {spent} spent")
    return wrong


async def one_user(node: Node, sessions: Sequence[Session], seed: int) -> None:
    """Turns of all kinds, in sessions that end or are deleted now and then."""
    mine = random.Random(seed)
    for session in sessions:
        for _ in range(3):
            chunks = mine.randrange(1, 6)
            options: dict[str, object] = {"chunks": chunks, "cost_usd": f"{mine.randrange(1, 200) / 1000}"}
            options |= mine.choice([{}, {}, {"fail": {}}, {"hang": True}, {"chunk_ms": 2}])
            try:
                turn = await node.sessions.begin(ME, session.id, say("w " * 6, options=options))
            except (BudgetReached, SessionEnded, TooBusy):
                continue
            if "hang" in options:
                await asyncio.sleep(mine.random() / 50)
                await node.sessions.interrupt(ME, session.id)
            await node.sessions.answer(ME, session.id, turn.turn_id)


@KINDS
def test_totals_hold_at_every_instant(tmp_path: Path, kind: str, rng: random.Random) -> None:
    """Fifteen sessions of three users, some with budgets of their own and in trees, over all lanes: whatever their
    turns cost, what is left, held and spent add up to each total, to the last nano-USD; and none is passed by more than
    one usage of each turn that ran then."""
    given = {"total_budget_usd": 2.5, "total_budget_usd_per_user": 1.1}
    totals = Totals(HostingSettings(tenants=(TenantSettings(name=ME, **given),)))  # pyright: ignore[reportArgumentType]  both are bounds

    async def run() -> None:
        async with node_of(mapped(kind, tmp_path, **given)) as node:
            users: dict[str, list[Session]] = {}
            for user in ("one", "other", "a/b %ü"):
                for number in range(5):
                    mine = users.setdefault(user, [])
                    parent = mine[0].id if number == 1 else None
                    budget = rng.choice([None, "0.4", "1"])
                    mine.append(await made(node, budget=budget, parent_id=parent, price=PRICED, user_id=user))
            over = asyncio.Event()

            async def look() -> int:
                looks = 0
                while not over.is_set() or looks < 2:
                    assert await added_up(node, totals) == []
                    looks += 1
                    await asyncio.sleep(0.01)
                return looks

            looking = asyncio.ensure_future(look())
            work = [one_user(node, [s], rng.randrange(2**32)) for mine in users.values() for s in mine]
            await asyncio.gather(*work)
            over.set()
            await looking
            left = await balances(node)
            # 200 thousandths in one piece, in each turn of a user, and of all, that ran at the same time.
            assert all(left[account_of_total(ME, user)] >= -5 * NANO // 5 for user in users)
            assert left[account_of_total(ME, "")] >= -15 * NANO // 5
            found = await sound(node)
            assert not [t for turns in found.turns.values() for t in turns if t.reservation == "held"]
            assert await added_up(node, totals) == []

    asyncio.run(run())


@KINDS
def test_turns_at_once_in_many_sessions_share_what_is_left(tmp_path: Path, kind: str) -> None:
    """Twenty sessions with no budget of their own begin at the same time: those that find nothing left are told whose
    total it is and where it is set; what the others spent is at most the total, and one usage each."""

    async def run() -> None:
        async with node_of(mapped(kind, tmp_path, total_budget_usd=0.5)) as node:
            options = {"chunks": 10, "cost_usd": "0.1"}
            sessions = [await made(node, price=PRICED, options=options) for _ in range(20)]
            results = await asyncio.gather(
                *(node.sessions.send(ME, session.id, say("w " * 20)) for session in sessions), return_exceptions=True
            )
            refused = [one for one in results if isinstance(one, BaseException)]
            ran = [one for one in results if not isinstance(one, BaseException)]
            assert all(isinstance(one, BudgetReached | TooBusy) for one in refused), refused
            spent = sum(one.turn.cost_nanousd or 0 for one in ran)
            assert spent <= NANO // 2 + len(ran) * NANO // 100
            assert await balances(node) == {f"total/{ME}": NANO // 2 - spent}
            # The turns that ran have used it up, or the last of them gave back what the others did not find.
            for session in sessions:
                if (await balances(node))[f"total/{ME}"] > 0:
                    await node.sessions.send(ME, session.id, say("w " * 20))
            with pytest.raises(BudgetReached) as caught:
                await node.sessions.send(ME, sessions[0].id, say())
            assert f"the total of tenant {ME} has" in caught.value.message
            assert "raise hosting.tenants[0].total_budget_usd in the server's settings" in caught.value.message

    asyncio.run(run())


@KINDS
def test_a_user_s_total_is_nobody_else_s(tmp_path: Path, kind: str) -> None:
    """One user has used it up, another has not; sessions without a user have the tenant's alone; and what has no price
    has no total."""

    async def run() -> None:
        async with node_of(mapped(kind, tmp_path, total_budget_usd=10, total_budget_usd_per_user=0.1)) as node:
            options = {"cost_usd": "0.1"}
            mine = [await made(node, price=PRICED, options=options, user_id=user) for user in ("one", "one", "two", "")]
            assert (await node.sessions.send(ME, mine[0].id, say())).turn.cost_nanousd == NANO // 10
            with pytest.raises(
                BudgetReached, match=f"the total of user one of tenant {ME} has 0.* USD left; raise hosti"
            ):
                await node.sessions.send(ME, mine[1].id, say())
            for session in (mine[2], mine[3], mine[3]):
                assert (await node.sessions.send(ME, session.id, say())).turn.cost_nanousd == NANO // 10
            spent = {f"total/{ME}": 96 * NANO // 10, f"total/{ME}/one": 0, f"total/{ME}/two": 0}
            assert await balances(node) == spent
            with pytest.raises(PriceUnknown):
                await node.sessions.create(ME, new())
            elsewhere = (await node.sessions.create("other", new(user_id="one")))[0]
            assert (await node.sessions.send("other", elsewhere.id, say())).turn.status == "done"

    asyncio.run(run())


@KINDS
def test_what_was_spent_outlives_its_sessions(tmp_path: Path, kind: str) -> None:
    """A session that is deleted gives nothing back, and one that is resumed begins with no new total."""

    async def run() -> None:
        async with node_of(mapped(kind, tmp_path, total_budget_usd=0.25)) as node:
            session = await made(node, budget="1", options={"cost_usd": "0.2"}, user_id="one")
            await node.sessions.send(ME, session.id, say())
            await node.sessions.terminate(ME, session.id)
            again = await node.sessions.resume(ME, session.id)
            await node.sessions.delete(ME, session.id)
            assert await balances(node) == {f"total/{ME}": NANO // 20}
            answer = await node.sessions.send(ME, again.id, say())
            assert answer.turn.error is not None
            assert answer.turn.error.code == "budget_reached"  # and billed for the usage that crossed it
            with pytest.raises(BudgetReached):
                await node.sessions.send(ME, again.id, say())
            assert await balances(node) == {f"total/{ME}": -15 * NANO // 100}

    asyncio.run(run())


@KINDS
def test_a_changed_total_keeps_what_was_spent(tmp_path: Path, kind: str) -> None:
    """Raised or lowered at a restart, what is left moves by the difference, of each user too; unset, nothing is
    refused; set again, it goes on from what was spent of it."""
    options = {"cost_usd": "0.1"}
    first = mapped(kind, tmp_path, total_budget_usd=1, total_budget_usd_per_user=0.3)

    async def run() -> None:
        async with node_of(first) as node:
            one = await made(node, price=PRICED, options=options, user_id="one")
            two = await made(node, price=PRICED, options=options, user_id="two")
            for session in (one, one, two):
                await node.sessions.send(ME, session.id, say())
            was = {f"total/{ME}": 7 * NANO // 10, f"total/{ME}/one": NANO // 10, f"total/{ME}/two": 2 * NANO // 10}
            assert await balances(node) == was
        async with node_of(other(first, total_budget_usd=2, total_budget_usd_per_user=0.15)) as node:
            now = {f"total/{ME}": 17 * NANO // 10, f"total/{ME}/one": -5 * NANO // 100, f"total/{ME}/two": NANO // 20}
            assert await balances(node) == now
            with pytest.raises(BudgetReached, match=r"has -0\.05"):
                await node.sessions.send(ME, one.id, say())
            assert (await node.sessions.send(ME, two.id, say())).turn.status in ("done", "failed")
        async with node_of(other(first)) as node:
            assert (await node.sessions.send(ME, one.id, say())).turn.status == "done"
            assert (await balances(node))[f"total/{ME}/one"] == -5 * NANO // 100
        async with node_of(other(first, total_budget_usd=0.4, total_budget_usd_per_user=0.4)) as node:
            end = {f"total/{ME}": 0, f"total/{ME}/one": 2 * NANO // 10, f"total/{ME}/two": 2 * NANO // 10}
            assert await balances(node) == end
            with pytest.raises(BudgetReached, match=f"the total of tenant {ME} has 0"):
                await node.sessions.send(ME, one.id, say())

    asyncio.run(run())


def test_two_nodes_that_start_with_different_totals_move_them_once(tmp_path: Path) -> None:
    """Whichever of them was last counts, and what is left is that total less what was spent: never moved twice."""
    first = mapped("postgresql", tmp_path, total_budget_usd=1, total_budget_usd_per_user=0.5)

    async def run() -> None:
        async with node_of(first) as node:
            users = [f"user{number}" for number in range(20)]
            for user in users:
                session = await made(node, price=PRICED, options={"cost_usd": "0.01"}, user_id=user)
                await node.sessions.send(ME, session.id, say())
        for total, other_total in ((3, 4), (0.9, 7), (2, 2)):
            nodes = [
                node_of(other(first, total_budget_usd=each, total_budget_usd_per_user=each / 2))
                for each in (total, total, other_total)
            ]
            await asyncio.gather(*(node.open() for node in nodes))
            left = await balances(nodes[0])
            await asyncio.gather(*(node.close() for node in nodes))
            assert left.pop(f"total/{ME}") in {int(each * NANO) - NANO // 5 for each in (total, other_total)}
            assert set(left.values()) <= {int(each * NANO / 2) - NANO // 100 for each in (total, other_total)}
            assert len(left) == 20

    asyncio.run(run())


class Meeting:
    """A transaction whose first reading is over only when another's is."""

    def __init__(self, tx: Any, barrier: threading.Barrier) -> None:
        self._tx = tx
        self._barrier = barrier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> Any:
        found = self._tx.rows(sql, params)
        with suppress(threading.BrokenBarrierError):
            self._barrier.wait(5)
        self._barrier.abort()  # whatever comes later, or again, waits for nobody
        return found


def test_nodes_that_move_a_total_at_the_same_time_move_it_once(tmp_path: Path) -> None:
    """Both have read the old total before either has written: the second finds it moved, and leaves it."""
    first = mapped("postgresql", tmp_path, total_budget_usd=1)
    wanted = Total(ME, "", 3 * NANO, "")

    async def run() -> None:
        async with node_of(first) as node, node_of(first) as second:
            session = await made(node, price=PRICED, options={"cost_usd": "0.1"})
            await node.sessions.send(ME, session.id, say())
            barrier = threading.Barrier(2)

            def move(tx: Any) -> int:
                return move_totals(Meeting(tx, barrier), wanted)

            assert await asyncio.gather(*(each.database.write(move) for each in (node, second))) == [1, 1]
            assert await balances(node) == {f"total/{ME}": 29 * NANO // 10}
            assert await node.database.write(move_totals, wanted) == 0

    asyncio.run(run())


def test_turns_in_two_lanes_that_want_the_last_of_a_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen what is left before either has taken it: one gets it, the other is told that nothing is left."""
    barrier = threading.Barrier(2)

    def seen(tx: Any, session: Session, totals: Totals) -> list[tuple[str, int]]:
        found = opened_budgets(tx, session, totals)
        with suppress(threading.BrokenBarrierError):
            barrier.wait(5)
        barrier.abort()
        return found

    async def run() -> None:
        # Less than an eighth of what a turn may cost: the first takes it all.
        async with node_of(mapped("postgresql", tmp_path, total_budget_usd=0.000002)) as node:
            first, second = await made(node, price=PRICED), await made(node, price=PRICED)
            while node.database.partition_of(first.root_id) == node.database.partition_of(second.root_id):
                second = await made(node, price=PRICED)
            await node.database.write(opened_budgets, first, node.sessions.turns.totals)
            monkeypatch.setattr(turn_changes, "opened_budgets", seen)
            both = (node.sessions.begin(ME, session.id, say(options={"hang": True})) for session in (first, second))
            results = await asyncio.gather(*both, return_exceptions=True)
            assert sorted(type(one).__name__ for one in results) == ["BudgetReached", "TurnResult"]
            for session in (first, second):
                await node.sessions.terminate(ME, session.id)
            await sound(node)

    asyncio.run(run())


DIES = """
def run(argument, into):
    async def main():
        from tests.sessions.hosted import ME, made, say, until_told, PRICED
        async with Node(settings) as node:
            for user in ("one", "two"):
                session = await made(node, price=PRICED, options={"cost_usd": "0.1", "hang": True}, user_id=user)
                await node.sessions.begin(ME, session.id, say())
                await until_told(node, session, "cost")
            os.write(into, b"running\\n")
            await asyncio.sleep(600)
    asyncio.run(main())
"""


@KINDS
def test_what_a_dead_node_held_is_spent(tmp_path: Path, kind: str) -> None:
    """Killed in the middle of two turns: all that they held is charged to the totals, once, as it is to their
    sessions."""
    given = {"total_budget_usd": 1, "total_budget_usd_per_user": 0.5}
    settings = mapped(kind, tmp_path, **given)
    totals = Totals(HostingSettings(tenants=(TenantSettings(name=ME, **given),)))  # pyright: ignore[reportArgumentType]  both are bounds
    with Nursery(DIES, settings) as nursery:
        assert nursery.kill_one(after_s=0.1, once_it_spoke=True) == (True, ["running"])

    async def run() -> None:
        async with node_of(settings) as node:

            async def none_runs() -> bool:
                found = await node.database.read(story_in)
                return not [one for one in found.sessions.values() if one.turn_id]

            await until(none_runs, "the turns of the dead node were not taken over")
            assert await added_up(node, totals) == []
            found = await sound(node)
            spent = {one.user_id: one.spent.cost_nanousd for one in found.sessions.values()}
            assert min(spent.values()) >= NANO // 10
            left = await balances(node)
            assert left[account_of_total(ME, "")] == NANO - sum(spent.values())
            assert {user: NANO // 2 - left[account_of_total(ME, user)] for user in spent} == spent

    asyncio.run(run())


def test_no_two_totals_have_one_account() -> None:
    """Whatever tenants and users are called; none is that of a session."""
    names = ["a", "b", "a/b", "a/", "/a", "a%2Fb", "%", "..", "ü", "user", "budget"]
    pairs = [(tenant, user) for tenant in names for user in ["", *names]]
    accounts = {account_of_total(*pair) for pair in pairs}
    assert len(accounts) == len(pairs)
    assert all(account.startswith("total/") for account in accounts)


def test_a_total_in_the_settings_is_that_decimal() -> None:
    """A tenth is a tenth; a tenant that is not named has none, and a session without a user none of a user's."""
    each = TenantSettings(name="acme", total_budget_usd=0.1, total_budget_usd_per_user=0.07)
    totals = Totals(HostingSettings(tenants=(TenantSettings(name="other"), each)))
    assert [(one.user_id, one.nanousd, one.setting) for one in totals.of("acme", "u")] == [
        ("", 100_000_000, "hosting.tenants[1].total_budget_usd"),
        ("u", 70_000_000, "hosting.tenants[1].total_budget_usd_per_user"),
    ]
    assert [one.user_id for one in totals.of("acme", "")] == [""]
    assert totals.of("other", "u") == totals.of("unknown", "u") == []
