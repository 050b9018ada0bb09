"""Damage on disk: a block of the log, and a line of a spool. It is found, told and passed; the rest arrives."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.faults.rigs import mapping, raw, settings_of

from adjourn.completion import quarantine
from adjourn.completion.spool import Spool
from adjourn.node import Node
from adjourn.runtime import Runtime
from adjourn.testing.account import compare, logged, stored


def test_a_damaged_block_is_told_skipped_and_counted_and_the_rest_arrives(tmp_path: Path, rng: random.Random) -> None:
    """Flipped bits in one block and the loss of another: their events are `lost` at each destination, all others are
    delivered once, and the account is balanced."""
    out = f"sqlite:///{tmp_path}/out.db"
    waiting = {"type": "database", "connection_string": out, "enabled": False}
    sessions = [f"s{number}" for number in range(500)]

    async def put() -> None:
        async with Node(settings_of(mapping(tmp_path, routing={"destinations": [waiting]}))) as node:
            for start in range(0, 500, 50):
                await node.ingest.take("default", [raw(s) for s in sessions[start : start + 50]], source="test")

    asyncio.run(put())
    with closing(sqlite3.connect(tmp_path / "adjourn.db")) as connection:
        blocks = connection.execute("SELECT first_offset, count, body FROM log_blocks ORDER BY 1").fetchall()
        (flipped, count, body), (removed, removed_count, _) = rng.sample(blocks, 2)
        damaged = bytearray(body)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        connection.execute("UPDATE log_blocks SET body = ? WHERE first_offset = ?", (bytes(damaged), flipped))
        connection.execute("DELETE FROM log_blocks WHERE first_offset = ?", (removed,))
        connection.commit()
    gone = {f"s{n}" for first, c in ((flipped, count), (removed, removed_count)) for n in range(first, first + c)}
    left = [session for session in sessions if session not in gone]

    async def deliver() -> None:
        async with Node(settings_of(mapping(tmp_path))) as node:
            await node.ingest.take("default", [raw("after")], source="test")
            await node.delivery.drained()
            (balance,) = await node.delivery.balances()
            assert balance.captured == 501
            assert (balance.lost, balance.delivered) == (len(gone), 501 - len(gone))
            assert (balance.difference, balance.pending) == (0, 0)
            told = await node.database.read(lambda reader: reader.rows("SELECT first_offset, count FROM log_lost"))
            assert sorted(told) == sorted([(flipped, count), (removed, removed_count)])
            assert sorted(await logged(node)) == sorted([*left, "after"])

    asyncio.run(deliver())
    account = compare([*left, "after"], stored(out))
    assert account.exact
    assert account.found == len(left) + 1


def test_a_damaged_spool_line_goes_to_quarantine_and_the_rest_arrives(tmp_path: Path, rng: random.Random) -> None:
    """A line with a flipped bit and one that was cut off are in quarantine, whole, as spool_torn; every other event of
    the dead process arrives once."""
    spool = Spool(tmp_path / "spool")
    for number in range(200):
        spool.append(raw(f"s{number}"))
    spool.close()
    (segment,) = (tmp_path / "spool").glob("*.jsonl")
    lines = segment.read_bytes().split(b"\n")
    place = rng.randrange(1, 198)
    broken = bytearray(lines[place])
    broken[rng.randrange(30, len(broken) - 2)] ^= 4
    lines[place] = bytes(broken)
    lines[199] = lines[199][: len(lines[199]) // 2]
    segment.write_bytes(b"\n".join(lines).rstrip(b"\n"))
    whole = [f"s{number}" for number in range(199) if number != place]
    with Runtime(settings_of(mapping(tmp_path))) as runtime:
        runtime.start()
        runtime.drain()
        account = compare(whole, runtime.call(logged))

        async def held(node: Node) -> list[quarantine.Quarantined]:
            return await node.database.read(quarantine.select, None, state=None, before="", limit=10)

        entries = runtime.call(held)
    assert account.exact
    assert account.found == 198
    assert {entry.code for entry in entries} == {"spool_torn"}
    assert {entry.body for entry in entries} == {lines[place], lines[199]}
    assert sorted(stored(f"sqlite:///{tmp_path}/out.db")) == sorted(whole)
