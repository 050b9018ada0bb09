"""Looking many events up at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.faults.rigs import mapping, raw, settings_of, url_of

from adjourn.logs import find
from adjourn.logs.upkeep import compact
from adjourn.node import Node


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_is_there_is_found_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Events are found in new and old blocks, merged ones too, of their tenant alone; what is absent is looked for to
    the end and not found."""
    monkeypatch.setattr(find, "BLOCKS_AT_ONCE", 3)

    async def main() -> None:
        settings = settings_of(mapping(tmp_path, url_of(kind, tmp_path), routing={"destinations": []}))
        async with Node(settings) as node:
            for n in range(20):
                await node.ingest.take("a", [raw(f"s{n}", event_id=f"evt_{n}")], source="test")
            await node.ingest.take("b", [raw("s3", event_id="evt_b")], source="test")
            for merged in (False, True):
                for n in (0, 7, 19):
                    partition = node.database.partition_of(f"s{n}")
                    found = await node.log.find_all(partition, "a", [f"evt_{n}", "evt_absent", "evt_b"])
                    assert {i: e.tenant for i, e in found.items()} == {f"evt_{n}": "a"}, merged
                    assert await node.log.find_all(partition, "b", [f"evt_{n}"]) == {}
                    assert await node.log.find_all(partition, "a", [f"evt_{n}"], since_ms=2**50) == {}
                for partition in range(node.database.partitions):
                    await compact(node.database, partition, 0)

    asyncio.run(main())
