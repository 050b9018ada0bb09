"""Two nodes over one database are sent the same events at the same time, as by a client that retries elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.faults.rigs import assert_exact, audited, mapping, raw, settings_of, url_of

from adjourn.completion import quarantine
from adjourn.node import Node

ROUNDS = 25
EVENTS = 40


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_each_is_accepted_once_in_total(tmp_path: Path, rng: random.Random, kind: str) -> None:
    """However the two cut and order what they are sent, one of them accepts each event, the other calls it a duplicate,
    and the log and the destination have it once."""
    mapped = mapping(tmp_path, url_of(kind, tmp_path))
    statuses: dict[str, Counter[str]] = {}
    by_node: Counter[int] = Counter()

    async def send(number: int, node: Node, sessions: list[str]) -> None:
        while sessions:
            size = rng.choice((1, 3, 20))
            part, sessions = sessions[:size], sessions[size:]
            results = await node.ingest.take("default", [raw(s, event_id=f"evt_{s}") for s in part], source="test")
            for session, result in zip(part, results, strict=True):
                statuses.setdefault(session, Counter())[result.status] += 1
                by_node[number] += result.status == "accepted"

    async def run() -> None:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(Node(settings_of(mapped))) for _ in range(2)]
            for turn in range(ROUNDS):
                sessions = [f"{turn}-{number}" for number in range(EVENTS)]
                orders = [rng.sample(sessions, EVENTS) if rng.random() < 0.5 else sessions for _ in nodes]
                await asyncio.gather(
                    *(send(n, node, order) for n, (node, order) in enumerate(zip(nodes, orders, strict=True)))
                )
            assert_exact(await audited(nodes[0], list(statuses), f"sqlite:///{tmp_path}/out.db"))

    asyncio.run(run())
    print(f"{kind}: accepted by {dict(by_node)}")
    assert [counts for counts in statuses.values() if counts != Counter(accepted=1, duplicate=1)] == []
    assert len(statuses) == ROUNDS * EVENTS
    assert min(by_node.values()) > 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_of_two_that_differ_one_is_kept_as_a_conflict(tmp_path: Path, kind: str) -> None:
    """Sent at once to two nodes under one id with unlike content: one is accepted, the other is in quarantine whole."""
    mapped = mapping(tmp_path, url_of(kind, tmp_path))

    async def run() -> None:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(Node(settings_of(mapped))) for _ in range(2)]
            outcomes: Counter[tuple[str, ...]] = Counter()
            sent: set[bytes] = set()
            for turn in range(ROUNDS):
                bodies = [raw(f"s{turn}", event_id=f"evt_{turn}", note=number) for number in range(2)]
                sent.update(bodies)
                results = await asyncio.gather(
                    *(
                        node.ingest.take("default", [body], source="test")
                        for node, body in zip(nodes, bodies, strict=True)
                    )
                )
                outcomes[tuple(sorted(result.status for (result,) in results))] += 1
            assert outcomes == {("accepted", "conflict"): ROUNDS}
            held = await nodes[0].database.read(quarantine.select, None, state=None, before="", limit=100)
            assert len({entry.body for entry in held} & sent) == len(held) == ROUNDS
            assert_exact(
                await audited(nodes[0], [f"s{turn}" for turn in range(ROUNDS)], f"sqlite:///{tmp_path}/out.db")
            )

    asyncio.run(run())
