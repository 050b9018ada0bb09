"""A disk that is full: callers are told, nothing acknowledged is missing, and it goes on once there is room."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
from tests.faults.rigs import assert_exact, audited, event, mapping, raw, settings_of

from adjourn.errors import StorageFull
from adjourn.http.app import Application
from adjourn.node import Node
from adjourn.runtime import Runtime
from adjourn.testing.faults import small_disk

MEGABYTES = 6
NOISE = "".join(chr(33 + (n * n + n // 7) % 90) for n in range(4_000)).replace('"', "q").replace("\\", "b")


def padding(number: int) -> str:
    """About 4 kB that compress badly, other ones for each event."""
    cut = number * 37 % len(NOISE)
    return NOISE[cut:] + str(number) + NOISE[:cut]


def fill(directory: Path) -> Path:
    """Take all the room that is left."""
    ballast = directory / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while file.write(b"\0" * 65_536):
                pass
        except OSError:
            pass
    return ballast


def test_a_full_disk_under_the_database_is_507_and_passes(tmp_path: Path) -> None:
    """What got 202 before, while and after the disk was full is in the log and delivered, once; what got 507 can be
    sent again."""
    statuses: Counter[int] = Counter()
    acknowledged: list[str] = []

    async def run(disk: Path) -> None:
        routing = {"destinations": [{"type": "database", "connection_string": f"sqlite:///{tmp_path}/out.db"}]}
        async with Node(settings_of(mapping(disk, routing=routing))) as node:
            transport = httpx.ASGITransport(app=Application(node))  # type: ignore[arg-type]  # httpx wants dicts
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:

                async def post(number: int) -> int:
                    body = raw(f"s{number}", event_id=f"evt_{number}", note=padding(number))
                    answer = await client.post("/v1/events", content=body, headers={"content-type": "application/json"})
                    statuses[answer.status_code] += 1
                    if answer.status_code == 202:
                        acknowledged.append(f"s{number}")
                    else:
                        assert answer.json()["code"] == "storage_full", answer.text
                    return answer.status_code

                await asyncio.gather(*(post(number) for number in range(50)))
                ballast = await asyncio.to_thread(fill, disk)
                number = 50
                while await post(number) != 507:
                    number += 1
                full = await asyncio.gather(*(post(number + n) for n in range(1, 20)))
                await asyncio.to_thread(ballast.unlink)
                for n in range(20):
                    assert await post(number + n) == 202
                assert full.count(507) > 0
            assert_exact(await audited(node, acknowledged, f"sqlite:///{tmp_path}/out.db"))

    with small_disk(MEGABYTES) as disk:
        asyncio.run(run(disk))
    assert statuses[202] == len(acknowledged) >= 70


def test_a_full_disk_under_a_destination_is_an_outage_of_that_destination(tmp_path: Path) -> None:
    """Ingest goes on, the backlog waits without using up an attempt, and all arrives once there is room."""

    async def run(disk: Path) -> None:
        destination = {
            "type": "database",
            "connection_string": f"sqlite:///{disk}/out.db",
            "retry_attempts": 1,
            "retry_delay_ms": 20,
        }
        mapped = mapping(tmp_path, routing={"destinations": [destination], "retry_delay_ms_max": 50})
        mapped["routing"]["retry_delay_ms"] = 20
        async with Node(settings_of(mapped)) as node:
            ballast = await asyncio.to_thread(fill, disk)
            sessions = [f"s{n}" for n in range(300)]
            raws = [raw(session, note=padding(n)) for n, session in enumerate(sessions)]
            await node.ingest.take("default", raws, source="test")
            async with asyncio.timeout(20):
                while not node.delivery.stats["database"].waiting:
                    await asyncio.sleep(0.01)
            (balance,) = await node.delivery.balances()
            assert (balance.dead_lettered, balance.difference, balance.captured) == (0, 0, 300)
            assert balance.pending > 0
            await asyncio.to_thread(ballast.unlink)
            assert_exact(await audited(node, sessions, f"sqlite:///{disk}/out.db"))

    with small_disk(MEGABYTES) as disk:
        asyncio.run(run(disk))


def test_a_full_disk_under_everything_refuses_captures_and_delivers_what_it_took(tmp_path: Path) -> None:
    """With spool and database on one full disk, capture raises StorageFull or takes the event; each that it took
    arrives once there is room, and no other."""
    captured: list[str] = []
    refused = 0
    with small_disk(MEGABYTES) as disk:
        routing = {"destinations": [{"type": "database", "connection_string": f"sqlite:///{tmp_path}/out.db"}]}
        with Runtime(settings_of(mapping(disk, routing=routing))) as runtime:
            runtime.start()
            ballast: Path | None = None
            for number in range(1200):
                if number == 200:
                    ballast = fill(disk)
                if number == 900 and ballast is not None:
                    ballast.unlink()
                try:
                    runtime.capture(event(f"s{number}", note=padding(number)[:600]))
                    captured.append(f"s{number}")
                except StorageFull:
                    refused += 1
            runtime.drain()
            accounts = runtime.call(lambda node: audited(node, captured, f"sqlite:///{tmp_path}/out.db"))
            assert runtime.spool_stats().torn <= 5
    assert refused > 0
    assert captured[-1] == "s1199"
    assert_exact(accounts)
    assert accounts[0].found == len(captured)
