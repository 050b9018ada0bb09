"""An edge node and its centre, both killed at random: every event is in the centre once, in its session's order."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.destinations.centre import events_of, in_order, settled
from tests.faults.rigs import settings_of, url_of
from tests.flipping.rigs import free_port
from tests.http.serving import Serving, serving

from adjourn.node import Node

EVENTS = 20_000
PER_REQUEST = 250
SESSIONS = 1_000
KILLS = 12
DEADLINE_S = 240


class Site:
    """A server that is started, killed and started again at one address."""

    def __init__(self, database: str, directory: Path, **settings: Any) -> None:
        self.port = free_port()
        self.keys: dict[str, str] | None = None
        self.settings = {**settings, "server": {"port": self.port}}
        self._database = database
        self._directory = directory
        self._running = ExitStack()

    def start(self) -> Serving:
        found = self._running.enter_context(serving(self._database, self._directory, keys=self.keys, **self.settings))
        self.keys = found.keys
        return found

    def kill(self) -> None:
        self._running.close()  # SIGKILL

    def node(self) -> Node:
        """Over the same database, while no server runs."""
        whole = {**self.settings, "database": {"url": self._database}, "data_dir": str(self._directory)}
        return Node(settings_of(whole))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_edge_outlives_its_centre(tmp_path: Path, rng: random.Random, kind: str) -> None:
    """The centre is killed and away while the edge takes 20,000 events of two tenants, and is itself killed twice
    meanwhile. The centre comes back, and both are killed again and again while the backlog goes. In the end all that
    was acknowledged at the edge is in the centre, once, in order, and nothing is pending or unaccounted for."""
    for name in ("centre", "edge"):
        (tmp_path / name).mkdir()
    # A window of a second: it must not be what makes this exact.
    centre = Site(
        url_of(kind, tmp_path / "centre"),
        tmp_path / "centre",
        routing={"destinations": []},
        validation={"dedupe_window_s": 1},
    )
    key = centre.start().keys["acme/relay"]
    centre.kill()
    upstream = {
        "type": "upstream",
        "url": f"http://127.0.0.1:{centre.port}",
        "key": key,
        "allow_http": True,
        "allow_networks": ["127.0.0.0/8"],
        "batch_size": 20,
    }
    routing = {"destinations": [upstream], "retry_delay_ms": 20, "retry_delay_ms_max": 100}
    edge = Site(url_of("sqlite", tmp_path / "edge"), tmp_path / "edge", routing=routing)
    try:
        _fill(edge)
        _kill_while_it_goes(centre, edge, rng)
        midway = asyncio.run(_there(centre))
        centre.start()
        asyncio.run(_drained(edge))
        centre.kill()
        asyncio.run(_exact(centre))
    finally:
        centre.kill()
        edge.kill()
    print(f"{kind}: {KILLS} kills, after which {midway} of {EVENTS} events had arrived")


def _fill(edge: Site) -> None:
    server = edge.start()
    for number, start in enumerate(range(0, EVENTS, PER_REQUEST)):
        if number in (27, 61):
            edge.kill()
            server = edge.start()
        body = b"\n".join(_event(n) for n in range(start, start + PER_REQUEST))
        answer = server.post(body, who=("acme/writer", "other/writer")[number % 2])
        assert answer.json()["accepted"] == PER_REQUEST, answer.text
    # What is not delivered, an edge keeps: nobody had to be there.
    assert server.get("/v1/metrics").status_code == 200
    edge.kill()


def _event(n: int) -> bytes:
    return json.dumps({"event_id": f"evt_{n}", "session": {"session_id": f"s{n % SESSIONS}"}, "n": n}).encode()


def _kill_while_it_goes(centre: Site, edge: Site, rng: random.Random) -> None:
    """Each is killed wherever it is just then, and stays away for a moment or none."""
    centre.start()
    edge.start()
    for _ in range(KILLS):
        time.sleep(rng.uniform(0.0, 0.25))
        victims = rng.choice([[centre], [edge], [centre, edge]])
        for victim in victims:
            victim.kill()
        for victim in victims:
            victim.start()
    edge.kill()
    centre.kill()


async def _there(centre: Site) -> int:
    async with centre.node() as node:
        return sum(await node.log.heads())


async def _drained(edge: Site) -> None:
    async with edge.node() as node, asyncio.timeout(DEADLINE_S):
        await node.delivery.drained()
        balances = await node.delivery.balances()
        assert settled(balances), balances
        assert (balances[0].captured, balances[0].delivered) == (EVENTS, EVENTS)


async def _exact(centre: Site) -> None:
    async with centre.node() as node:
        arrived = await events_of(node)
        assert settled(await node.delivery.balances())
    ids = Counter((event.tenant, json.loads(event.body)["event_id"]) for event in arrived)
    expected = {(("acme", "other")[n // PER_REQUEST % 2], f"evt_{n}") for n in range(EVENTS)}
    assert (set(ids), set(ids.values())) == (expected, {1})
    assert in_order(arrived)
