"""Snapshots in their tables."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.sessions.hosted import made
from tests.sessions.rigs import mapped_of, node_of

from adjourn.sessions import snapshot_rows

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@KINDS
def test_a_snapshot_whose_session_is_deleted_meanwhile_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """Parts of its archive that come after that are not written: nothing would ever delete them."""

    async def run() -> None:
        async with node_of(mapped_of(kind, tmp_path)) as node:
            write = node.database.write
            session = await made(node)
            await write(snapshot_rows.begin, session.key, "snap_1", 1)
            await write(snapshot_rows.put_part, session.tenant, "snap_1", 0, b"a")
            assert await write(snapshot_rows.forget_one, session.key)
            await write(snapshot_rows.put_part, session.tenant, "snap_1", 1, b"b")
            assert await node.database.read(lambda reader: reader.rows("SELECT number FROM snapshot_parts")) == []

    asyncio.run(run())
