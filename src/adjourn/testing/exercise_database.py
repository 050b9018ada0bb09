"""The suite that every database passes: `await exercise_database(make)` raises AssertionError where one does not.

`make` gives a rig: an empty place, and databases (nodes) over it, as many as a check asks for.

    async def test() -> None:
        await exercise_database(lambda: MyRig())
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from adjourn.database import Database, Reader, Tx, Value
from adjourn.errors import TooBusy, Unavailable
from adjourn.testing import exercise_batch
from adjourn.testing.database_rig import Failed, Recorder, Rig, add, ids, outcomes, put, raises, value

WRITES = 10_000
WAIT_S = 30.0


async def exercise_database(make: Callable[[], Rig]) -> None:
    """Run every check below, each with a rig of its own. Raises AssertionError naming the check that failed."""
    for check in CHECKS:
        rig = make()
        try:
            await asyncio.wait_for(_with_database(rig, check), WAIT_S)
        except Exception as error:
            raise AssertionError(f"{check.__name__}: {error!r}") from error
        finally:
            await rig.close()


async def _with_database(rig: Rig, check: Callable[[Rig, Database], Coroutine[Any, Any, None]]) -> None:
    database = rig.connect()
    await database.open(Recorder())
    try:
        await database.write(_create)
        await check(rig, database)
    finally:
        await database.close()


def _create(tx: Tx) -> None:
    binary = "BLOB" if tx.dialect == "sqlite" else "BYTEA"
    tx.run(f"CREATE TABLE exercise (id TEXT PRIMARY KEY, n BIGINT NOT NULL, text TEXT, body {binary})")


async def a_write_is_seen_by_others(rig: Rig, database: Database) -> None:
    """When `write` has returned, another node reads what it wrote, and gets its value."""
    other = rig.connect()
    await other.open(Recorder())
    try:
        for number in range(20):
            assert await database.write(put, f"row:{number:02}", key=str(number)) == f"row:{number:02}"
            assert len(await other.read(ids)) == number + 1
    finally:
        await other.close()


async def a_read_sees_one_instant(rig: Rig, database: Database) -> None:
    """All that one function reads is of one snapshot, whatever commits meanwhile."""
    await database.write(put, "row", 1)
    begun, go_on = threading.Event(), threading.Event()

    def twice(reader: Reader) -> tuple[Value, Value]:
        first = value(reader, "row")
        begun.set()
        go_on.wait(10)
        return first, value(reader, "row")

    reading = asyncio.ensure_future(database.read(twice))
    await asyncio.to_thread(begun.wait, 10)
    await database.write(add, "row", 5)
    go_on.set()
    assert await reading == (1, 1)
    assert await database.read(value, "row") == 6


async def reads_do_not_write(rig: Rig, database: Database) -> None:
    """A function that fails inside `read` leaves its reader usable."""

    def fail(reader: Reader) -> None:
        reader.rows("SELECT n FROM exercise")
        raise Failed

    for _ in range(20):
        await raises(Failed, database.read(fail))
    assert await database.read(ids) == []


async def a_cancelled_caller_undoes_nothing(rig: Rig, database: Database) -> None:
    """Cancelling callers, before or while their batch runs, hangs nobody; what was handed over is written once."""
    rng = random.Random(7)
    tasks = [asyncio.ensure_future(database.write(put, f"row:{n:03}")) for n in range(300)]
    for round_ in range(3):
        await asyncio.sleep(0 if round_ else 0.002)
        for task in rng.sample(tasks, 60):
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await database.write(put, "last")
    found = set(await database.read(ids))
    assert all(isinstance(r, str | asyncio.CancelledError) for r in results)
    assert {r for r in results if isinstance(r, str)} <= found
    assert len(found) == 301


async def small_writes_arrive_once(rig: Rig, database: Database) -> None:
    """Ten thousand concurrent increments add up exactly."""
    for name in range(20):
        await database.write(put, str(name), 0)
    await asyncio.gather(*(database.write(add, str(n % 20), 1, key=str(n % 20)) for n in range(WRITES)))
    total = await database.read(lambda reader: [value(reader, str(name)) for name in range(20)])
    assert total == [WRITES // 20] * 20


async def statements_of_both_kinds(rig: Rig, database: Database) -> None:
    """Text and Core statements do the same, whatever their values hold."""
    from sqlalchemy import column, func, insert, literal, select, table

    exercise = table("exercise", column("id"), column("n"), column("text"), column("body"))
    texts = ["what?", "100%", "%s", "a 'quoted' ?", "é🦀", "", "\\", "%%(x)s"]
    body = bytes(range(256))

    def write(tx: Tx) -> list[int]:
        changed = [
            tx.run("INSERT INTO exercise (id, n, text, body) VALUES (?, ?, ?, ?)", (f"t{n}", n, text, body))
            for n, text in enumerate(texts)
        ]
        for n, text in enumerate(texts):
            changed.append(tx.run(insert(exercise).values(id=f"c{n}", n=2**40 + n, text=text, body=body)))
        changed.append(tx.run("UPDATE exercise SET text = text WHERE n < ?", (3,)))
        return changed

    def read(reader: Reader) -> list[Any]:
        core = select(exercise.c.text, exercise.c.body).where(exercise.c.id.in_(["c0", "c1", "c2"]))
        return [
            reader.rows("SELECT text, body FROM exercise WHERE id LIKE ? ORDER BY id", ("t%",)),
            reader.rows("SELECT count(*) FROM exercise WHERE id LIKE 't%' AND text = 'what?' AND n = ?", (0,)),
            sorted(reader.rows(core.where(exercise.c.n >= literal(2**40)))),
            reader.rows(select(func.count()).where(exercise.c.text.like("%?")).select_from(exercise)),
            reader.rows("SELECT NULL, 1.5, ?", (None,)),
        ]

    assert await database.write(write) == [1] * (2 * len(texts)) + [3]
    text_rows, literal_rows, core_rows, count, nothing = await database.read(read)
    assert text_rows == [(text, body) for text in texts]
    assert literal_rows == [(1,)]
    assert core_rows == sorted((text, body) for text in texts[:3])
    assert count == [(4,)]
    assert [(row[0], float(row[1]), row[2]) for row in nothing] == [(None, 1.5, None)]


async def too_much_is_refused(rig: Rig, database: Database) -> None:
    """Beyond `queue_events_max` writes are refused with TooBusy and a time to wait; nothing accepted is lost, and what
    was refused is taken later."""
    small = rig.connect(queue_events_max=50)
    await small.open(Recorder())
    try:
        names = [f"row:{n:03}" for n in range(300)]
        waiting, rounds, refused = names, 0, 0
        while waiting:
            rounds += 1
            results = await outcomes(*(small.write(put, name, weight=3) for name in waiting))
            errors = [r for r in results if isinstance(r, BaseException)]
            assert all(isinstance(r, TooBusy) and r.retry_after_ms for r in errors), errors
            refused += len(errors)
            waiting = [name for name, result in zip(waiting, results, strict=True) if result != name]
            assert rounds < 1000
        assert refused > 100
        assert await small.read(ids) == names
        assert await small.write(put, "heavy", weight=1000) == "heavy", "a write heavier than the queue never passes"
        assert small.health().waiting_events == 0
    finally:
        await small.close()


async def closing_finishes_what_is_queued(rig: Rig, database: Database) -> None:
    """`close` writes what is queued, may be called again, at the same time too; afterwards calls raise Unavailable."""
    closing = rig.connect()
    await closing.open(Recorder())
    assert closing.health().ok
    writes = [asyncio.ensure_future(closing.write(put, f"row:{n:04}", key=str(n))) for n in range(2_000)]
    await asyncio.sleep(0)
    await asyncio.gather(closing.close(), closing.close())
    assert all(task.done() for task in writes), "close returned before what was queued was answered"
    assert all(isinstance(task.result(), str) for task in writes)
    await closing.close()
    assert not closing.health().ok
    await raises(Unavailable, closing.write(put, "late"))
    await raises(Unavailable, closing.read(ids))
    assert len(await database.read(ids)) == 2_000


async def many_loops_share_it(rig: Rig, database: Database) -> None:
    """Event loops in several threads use one database at once; loops closed before their answer hurt nobody."""

    async def use(name: str) -> None:
        await asyncio.gather(*(database.write(put, f"{name}:{n:02}", key=name) for n in range(40)))
        assert len(await database.read(ids)) >= 40

    async def abandon(name: str) -> None:
        task = asyncio.ensure_future(database.write(put, name))
        await asyncio.sleep(0.001)
        task.cancel()

    def thread(number: int) -> None:
        for part in range(4):
            asyncio.run(abandon(f"left:{number}:{part}"))
            asyncio.run(use(f"loop:{number}:{part}"))

    await asyncio.gather(*(asyncio.to_thread(thread, number) for number in range(4)))
    found = [str(name) for name in await database.read(ids)]
    assert sum(name.startswith("loop:") for name in found) == 4 * 4 * 40


async def a_key_has_one_lane(rig: Rig, database: Database) -> None:
    """A key's writes happen in the order in which they were handed over, and its partition never changes."""
    other = rig.connect()
    await other.open(Recorder())
    keys = [f"sess_{n}" for n in range(50)]
    try:
        assert other.partitions == database.partitions
        assert [other.partition_of(k) for k in keys] == [database.partition_of(k) for k in keys]
        assert {database.partition_of(k) for k in keys} == set(range(database.partitions))
    finally:
        await other.close()
    seen: list[int] = []
    await database.write(put, "row", 0)

    def step(tx: Tx, number: int) -> None:
        seen.append(number)
        tx.run("UPDATE exercise SET n = ? WHERE id = 'row' AND n = ?", (number + 1, number))

    await asyncio.gather(*(database.write(step, n, key="k") for n in range(500)))
    assert await database.read(value, "row") == 500


CHECKS = (
    *exercise_batch.CHECKS,
    a_write_is_seen_by_others,
    a_read_sees_one_instant,
    reads_do_not_write,
    a_cancelled_caller_undoes_nothing,
    small_writes_arrive_once,
    statements_of_both_kinds,
    too_much_is_refused,
    closing_finishes_what_is_queued,
    many_loops_share_it,
    a_key_has_one_lane,
)
