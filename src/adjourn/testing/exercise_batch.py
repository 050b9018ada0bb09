"""The part of the database suite about batches: what the members of one transaction do to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adjourn.database import Database, Fence, Tx
from adjourn.errors import AdjournError, DebitRefused, Fenced
from adjourn.testing.database_rig import Failed, Rig, balance, event, ids, open_account, outcomes, put, raises, take


async def a_member_fails_alone(rig: Rig, database: Database) -> None:
    """A failing function is undone with its events and debits; all others of its batch commit, each once."""
    await database.write(open_account, "a", 100)
    await database.write(put, "taken")

    def work(tx: Tx, number: int) -> int:
        put(tx, f"row:{number:02}")
        tx.append([event(f"{number:02}")])
        tx.debit("a", 1)
        if number % 7 == 3:
            raise Failed
        if number % 7 == 5:
            put(tx, "taken")
        return number

    results = await outcomes(*(database.write(work, n) for n in range(50)))
    good = [n for n in range(50) if n % 7 not in (3, 5)]
    assert [r for r in results if isinstance(r, int)] == good, results
    assert all(isinstance(results[n], Failed) for n in range(50) if n % 7 == 3)
    assert not any(isinstance(results[n], AdjournError) for n in range(50) if n % 7 == 5)
    expected = sorted(["taken", *(f"row:{n:02}" for n in good), *(f"event:{n:02}" for n in good)])
    assert await database.read(ids) == expected
    assert await database.read(balance, "a") == 100 - len(good)


async def any_exception_reaches_its_caller(rig: Rig, database: Database) -> None:
    """Whatever a function raises, its caller hears of a failure, and the rest of the batch of its success."""

    def stop(_: Tx) -> None:
        raise StopIteration

    def leave(_: Tx) -> None:
        raise asyncio.CancelledError

    results = await asyncio.wait_for(
        outcomes(database.write(put, "a"), database.write(stop), database.write(leave), database.write(put, "b")), 10
    )
    assert results[0] == "a", results
    assert isinstance(results[1], Exception), results
    assert isinstance(results[2], BaseException), results
    assert results[3] == "b", results


async def an_error_may_not_be_swallowed(rig: Rig, database: Database) -> None:
    """A function that goes on after a failed statement either keeps what it wrote or fails: it is never acknowledged
    and lost, and the rest of its batch is not hurt."""
    await database.write(put, "taken")

    def swallow(tx: Tx, name: str, *, goes_on: bool) -> str:
        put(tx, f"{name}:before")
        try:
            put(tx, "taken")
        except Exception:
            if goes_on:
                put(tx, f"{name}:after")
        return name

    def go_on(tx: Tx, name: str) -> str:
        return swallow(tx, name, goes_on=True)

    def end(tx: Tx, name: str) -> str:
        return swallow(tx, name, goes_on=False)

    work = [database.write(put, "x"), database.write(go_on, "a"), database.write(end, "b"), database.write(put, "y")]
    results = await asyncio.wait_for(outcomes(*work), 15)
    alone = await asyncio.wait_for(outcomes(database.write(end, "c")), 15)
    found = await database.read(ids)
    assert results[0] == "x", results
    assert results[3] == "y", results
    assert {"x", "y"} <= set(found)
    for name, result in zip("abc", [results[1], results[2], *alone], strict=True):
        assert (result == name) == (f"{name}:before" in found), f"{name}: {result!r}, found {found}"
    assert ("a:after" in found) == (results[1] == "a")


async def attempts_are_undone_alone(rig: Rig, database: Database) -> None:
    """`tx.attempt` undoes what was done inside, nested too, with events and debits; the rest of the function stays."""
    await database.write(open_account, "a", 10)
    await database.write(put, "taken")

    def attempt(tx: Tx, name: str, inner: Callable[[], object]) -> bool:
        try:
            with tx.attempt():
                put(tx, name)
                tx.append([event(name)])
                tx.debit("a", 1)
                inner()
        except Exception:
            return False
        return True

    def fail() -> None:
        raise Failed

    def work(tx: Tx) -> list[bool]:
        return [
            attempt(tx, "kept", lambda: None),
            attempt(tx, "undone", fail),
            attempt(tx, "refused", lambda: put(tx, "taken")),
            attempt(tx, "unread", lambda: tx.rows("INSERT INTO exercise (id, n) VALUES ('taken', 1) RETURNING n")),
            attempt(tx, "outer", lambda: attempt(tx, "inner", fail)),
            attempt(tx, "last", lambda: None),
        ]

    assert await database.write(work) == [True, False, False, False, True, True]
    kept = sorted(f"{prefix}{name}" for name in ("kept", "outer", "last") for prefix in ("", "event:"))
    assert await database.read(ids) == sorted(["taken", *kept])
    assert await database.read(balance, "a") == 7


async def a_fence_holds(rig: Rig, database: Database) -> None:
    """A write passes at the lease's epoch; at any other, or without the lease, it is Fenced and writes nothing."""

    def lease(tx: Tx, epoch: int) -> None:
        tx.run(
            "INSERT INTO leases (name, owner, epoch, beat) VALUES ('s', 'me', ?, 0) "
            "ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch",
            (epoch,),
        )

    await raises(Fenced, database.write(put, "no lease", fence=Fence("s", 0)))
    await database.write(lease, 2)
    fences = {"equal": 2, "lower": 1, "higher": 3, "again": 2}
    results = await outcomes(*(database.write(put, name, fence=Fence("s", e)) for name, e in fences.items()))
    assert [type(r) for r in results] == [str, Fenced, Fenced, str], results
    await database.write(lease, 3)
    await raises(Fenced, database.write(put, "late", fence=Fence("s", 2)))
    assert await database.read(ids) == ["again", "equal"]


async def debits_are_exact(rig: Rig, database: Database) -> None:
    """Debits over shared accounts, from all lanes at once, never overdraw, never deadlock, and lose nothing; a refused
    one fails only its own write."""
    for name in "abc":
        await database.write(open_account, name, 100)

    def pay(tx: Tx, number: int) -> int:
        put(tx, f"pay:{number:03}")
        for account in ("abc", "cba")[number % 2]:
            tx.debit(account, 1)
        return number

    def overpay(tx: Tx) -> None:
        put(tx, "overpaid")
        tx.debit("b", 1000)

    writes = [database.write(pay, n, key=str(n % 8)) for n in range(90)]
    results = await outcomes(*writes[:40], database.write(overpay, key="1"), *writes[40:])
    assert isinstance(results.pop(40), DebitRefused)
    assert results == list(range(90)), results
    assert [await database.read(balance, name) for name in "abc"] == [10, 10, 10]
    assert len(await database.read(ids)) == 90
    results = await outcomes(*(database.write(pay, n, key=str(n)) for n in range(100, 115)))
    assert sum(isinstance(r, DebitRefused) for r in results) == 5, results
    assert await database.read(balance, "a") == 0
    await raises(DebitRefused, database.write(take, "nobody", 1))
    await database.write(take, "a", -3)
    assert await database.read(balance, "a") == 3


async def a_forced_debit_is_never_refused(rig: Rig, database: Database) -> None:
    """It is applied below zero too; so is what is given. Only who takes without force is refused, and alone: whatever
    shares its batch, nothing is taken that was not there when those before it had their turn."""
    for name, held in (("a", 10), ("b", -100), ("c", 10)):
        await database.write(open_account, name, held)

    def force(tx: Tx, account: str, amount: int) -> None:
        tx.debit(account, amount, forced=True)

    def settle(tx: Tx, give: int, want: int) -> str:
        tx.debit("c", -give, forced=True)
        tx.debit("c", want)
        return put(tx, f"{give}/{want}")

    results = await outcomes(*(database.write(force, "a", 3, key=str(n)) for n in range(20)))
    assert results == [None] * 20, results
    assert await database.read(balance, "a") == -50
    await raises(DebitRefused, database.write(take, "a", 1))
    await database.write(take, "a", -20)
    assert await database.read(balance, "a") == -30, "what is given counts, however little"
    results = await outcomes(
        *(database.write(take, "b", -10), database.write(take, "b", 10), database.write(force, "b", 5))
    )
    assert [type(r) for r in results] == [type(None), DebitRefused, type(None)], results
    assert await database.read(balance, "b") == -95
    results = await outcomes(*(database.write(settle, give, want) for give, want in ((5, 15), (0, 1), (-4, 3), (9, 2))))
    assert [isinstance(r, str) for r in results] == [True, False, False, True], results
    assert await database.read(balance, "c") == 7
    assert await database.read(ids) == ["5/15", "9/2"]
    await raises(DebitRefused, database.write(force, "nobody", 1))


CHECKS = (
    a_member_fails_alone,
    any_exception_reaches_its_caller,
    an_error_may_not_be_swallowed,
    attempts_are_undone_alone,
    a_fence_holds,
    debits_are_exact,
    a_forced_debit_is_never_refused,
)
