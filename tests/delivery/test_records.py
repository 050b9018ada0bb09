from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.faults.rigs import mapping, settings_of, url_of

from adjourn.database import Tx
from adjourn.delivery import records
from adjourn.delivery.records import JOIN_MS, Record
from adjourn.node import Node


def record(first: int, following: int, fates: bytes = b"d9", attempts: int = 1, at_ms: int = 100) -> Record:
    return Record("hook", 0, first, following, attempts, at_ms, at_ms, fates)


@pytest.mark.parametrize(
    ("new", "joins"),
    [
        (record(9, 18), True),
        (record(10, 18), False),
        (record(9, 18, attempts=2), False),
        (record(9, 18, at_ms=100 + JOIN_MS), True),
        (record(9, 18, at_ms=101 + JOIN_MS), False),
        (record(9, 30_000), False),
    ],
)
def test_stretches_share_a_row_if_they_follow_closely_and_alike(new: Record, joins: bool) -> None:
    """Right behind, as many attempts, within a second, not too long; then what became of each is joined as well."""
    both = records.joined(record(0, 9), new)
    assert (both is not None) is joins
    if both is not None:
        assert (both.first_offset, both.next_offset, both.fates) == (0, 18, b"d18")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_event_is_found_in_its_own_row_first(tmp_path: Path, kind: str) -> None:
    """Whatever rows of its neighbours lie between it and the row of its stretch; behind the last there is none."""

    def fill(tx: Tx) -> None:
        last = None
        for first in range(0, 90, 9):
            new = record(first, first + 9, b"p9" if first == 45 else b"d9")
            records.write(tx, last, new)
            last = records.joined(last, new) or new
        for offset in range(45, 53):
            records.write(tx, None, record(offset, offset + 1, b"x" if offset % 2 else b"d", attempts=3, at_ms=900))

    async def run() -> None:
        async with Node(settings_of(mapping(tmp_path, url_of(kind, tmp_path)))) as node:
            await node.database.write(fill)
            found = [await node.database.read(records.of_event, "hook", 0, offset) for offset in range(91)]
            assert "".join(one.fate_of(at) for at, one in enumerate(found) if one) == (
                "d" * 45 + "xdxdxdxd" + "p" + "d" * 36
            )
            assert [at for at, one in enumerate(found) if one and one.attempts == 3] == list(range(45, 53))
            assert found[90] is None
            assert len(await node.database.read(lambda r: r.rows("SELECT 1 FROM delivery_records"))) == 9
            assert await node.database.write(records.forget, "hook", 500) == 1
            assert await node.database.read(records.of_event, "hook", 0, 10) is None

    asyncio.run(run())


def test_records_go_with_the_log(tmp_path: Path) -> None:
    """What the log does not hold any more nobody can ask for."""

    def fill(tx: Tx) -> None:
        for first in range(0, 90, 9):
            records.write(tx, None, record(first, first + 9))
        tx.run("UPDATE log_heads SET next_offset = 90, tail_offset = 30")

    async def run() -> None:
        async with Node(settings_of(mapping(tmp_path, routing={"destinations": []}))) as node:
            await node.database.write(fill)
            assert await node.database.write(records.forget_retained) == 3

    asyncio.run(run())
