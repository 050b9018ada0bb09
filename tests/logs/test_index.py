"""The index of ids: what it names, what it leaves to a search, and that neither ever hides an event."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from tests.databases.filling import new_url, opened, record, run

from adjourn.database import Reader, Tx
from adjourn.databases.laned import LanedDatabase
from adjourn.errors import Unavailable
from adjourn.events import Record, decode_identity
from adjourn.logs import index
from adjourn.logs.find import find
from adjourn.logs.upkeep import compact

BOTH = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
SIZES = (1, 3, 200, 40, 7, 300, 90)
"""Of blocks: they begin and end anywhere, and one is longer than a segment."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EVENTS", 256)


def append(tx: Tx, records: list[Record]) -> None:
    tx.append(records)


async def fill(database: LanedDatabase, count: int) -> None:
    """Into one partition."""
    sizes = itertools.cycle(SIZES)
    start = sum(await database.read(_heads))
    while start < count:
        end = min(count, start + next(sizes))
        await database.write(append, [record(number) for number in range(start, end)], key="one")
        start = end


def _heads(reader: Reader) -> list[int]:
    return [int(row[0] or 0) for row in reader.rows("SELECT next_offset FROM log_heads")]


async def indexed(database: LanedDatabase) -> int:
    """How many segments were, until there was nothing to do."""
    done = 0
    for partition in range(database.partitions):
        while await index.index(database, partition):
            done += 1
    return done


async def found(database: LanedDatabase, number: int, *, late: bool) -> bool:
    """Whether an event is found; `late`: no time is left for what the index does not name."""
    wanted = record(number)
    event = await database.read(find, wanted.id_hash, "acme", wanted.event_id, lambda: late)
    assert event is None or decode_identity(event.body).event_id == wanted.event_id
    return event is not None


@BOTH
def test_what_is_in_the_index_is_found_without_a_search(tmp_path: Path, kind: str) -> None:
    """Every event of every full segment, before and after blocks are merged; of what is newer it is said, and not
    guessed, that it could not be searched in time."""

    async def main() -> None:
        async with opened(new_url(kind, tmp_path)) as database:
            await fill(database, 1_000)
            with pytest.raises(Unavailable, match="still being built"):
                await found(database, 5, late=True)
            assert all([await found(database, number, late=False) for number in range(0, 1_000, 37)])
            assert await indexed(database) == 1_000 // 256
            for _ in range(2):
                assert all([await found(database, number, late=False) for number in range(1_000)])
                assert not await found(database, 4_000, late=False)
                for partition in range(database.partitions):
                    await compact(database, partition, 0)
            await fill(database, 1_024)
            assert await indexed(database) == 1
            assert all([await found(database, number, late=True) for number in range(1_024)])
            assert not await found(database, 4_000, late=True)

    asyncio.run(main())


@BOTH
def test_a_damaged_row_of_the_index_hides_nothing(tmp_path: Path, kind: str) -> None:
    """Its segment is searched instead; so is one whose rows are gone, until it is indexed again."""
    url = new_url(kind, tmp_path)

    async def main() -> None:
        async with opened(url) as database:
            await fill(database, 768)
            assert await indexed(database) == 3
            changed = "CAST(X'00' || body AS BLOB)" if kind == "sqlite" else "'\\x00'::bytea || body"
            run(url, f"UPDATE log_index SET body = {changed} WHERE first_offset = 256")
            run(url, "DELETE FROM log_index WHERE first_offset = 0")
            assert all([await found(database, number, late=False) for number in range(768)])
            with pytest.raises(Unavailable):
                await found(database, 4_000, late=True)
            assert await indexed(database) == 1
            assert await found(database, 5, late=False)

    asyncio.run(main())


@BOTH
def test_what_retention_deleted_leaves_the_index(tmp_path: Path, kind: str) -> None:
    """Rows of segments that are gone go with the next one that is built; what the index names in vain is not found."""
    url = new_url(kind, tmp_path)

    async def main() -> None:
        async with opened(url) as database:
            await fill(database, 800)
            assert await indexed(database) == 3
            partition = database.partition_of("one")
            run(url, f"DELETE FROM log_blocks WHERE partition = {partition} AND first_offset < 551")
            run(url, f"UPDATE log_heads SET tail_offset = 551 WHERE partition = {partition}")
            assert not await found(database, 540, late=False)
            assert await found(database, 600, late=False)
            await fill(database, 1_024)
            assert await indexed(database) == 1
            rows = await database.read(lambda r: r.rows("SELECT DISTINCT first_offset FROM log_index ORDER BY 1"))
            assert rows == [(512,), (768,)]
            assert all([await found(database, number, late=True) for number in range(551, 1_024)])

    asyncio.run(main())
