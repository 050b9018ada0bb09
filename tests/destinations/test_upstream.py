"""The upstream destination: the conformance suite, and real nodes on both sides."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from aiohttp import web

from adjourn.database import Tx
from adjourn.delivery.conservation import consumer_of
from adjourn.destination import Batch
from adjourn.destinations.upstream import UpstreamDestination
from adjourn.errors import DestinationOutage
from adjourn.events import StoredEvent
from adjourn.node import Node
from adjourn.testing.exercise_destination import Arrived, Sample, exercise_destination
from tests.destinations.centre import Between, centre, edge, events_of, in_order, settled
from tests.destinations.receiver import LOOPBACK, Receiver, Request, until
from tests.destinations.rigs import batch
from tests.faults.rigs import raw, url_of

KEY = "adj_0123"


def upstream(url: str, **settings: Any) -> UpstreamDestination:
    return UpstreamDestination(
        name="up", url=url, installation=lambda: "edge_1", **{"key": KEY, **LOOPBACK, **settings}
    )


class Taker:
    """Takes what is relayed as the protocol says, events of any kind and size; refuses the session of `poison`."""

    def __init__(self) -> None:
        self.taken: dict[tuple[str, int], list[Any]] = {}
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> web.Response:
        self.requests.append(request)
        lines = zstandard.ZstdDecompressor().decompress(request.body).splitlines()
        events = [json.loads(line) for line in lines]
        told = {"accepted": 0, "duplicate": 0, "refused": []}
        for index, event in enumerate(events):
            place = request.headers["Adjourn-Producer"], event[0]
            if event[4]["session"]["session_id"] == "sess_poison":
                result = {
                    "status": "invalid",
                    "code": "id_invalid",
                    "message": "it is poison",
                    "remedy": "find another",
                }
                told["refused"].append({"index": index, "result": result})
            else:
                told["duplicate" if place in self.taken else "accepted"] += 1
                self.taken.setdefault(place, event)
        return web.json_response(told, status=202)


class UpstreamRig:
    repeats = False
    poison: StoredEvent | None = Sample(7, session_id="sess_poison").stored()

    def __init__(self, receiver: Receiver, **settings: Any) -> None:
        self._taker = Taker()
        receiver.answer = self._taker
        self.destination = upstream(receiver.url, **settings)

    async def arrived(self) -> Sequence[Arrived]:
        return [
            Arrived(
                tenant=tenant,
                session_id=event["session"]["session_id"],
                event_id=event["event_id"],
                event_type=event["event_type"],
                user_id=event.get("user", {}).get("user_id"),
                final_message=event.get("outcome", {}).get("final_message"),
                cost_nanousd=cost,
            )
            for _, (_, tenant, cost, _, event) in sorted(self._taker.taken.items())
        ]

    async def close(self) -> None: ...


@pytest.mark.parametrize("settings", [{}, {"request_bytes_max": 2_000}], ids=str)
def test_it_passes_the_suite_of_destinations(settings: dict[str, Any]) -> None:
    """In large requests or small ones, the contract holds; what is sent twice is there once."""

    async def main() -> None:
        async with Receiver(secret="") as receiver:
            await exercise_destination(lambda: UpstreamRig(receiver, **settings))

    asyncio.run(main())


def test_what_goes_over_the_wire() -> None:
    """Packed lines with number, tenant and price, under the name of this installation, destination and partition."""

    async def main() -> None:
        taker = Taker()
        async with Receiver(taker, secret="") as receiver:
            destination = upstream(receiver.url.removesuffix("/in") + "/")
            await destination.send(batch(Sample(3), Sample(9, cost_nanousd=None)))
            await destination.probe()
            await destination.close()
        events, probe = taker.requests
        assert (events.path, events.headers["Adjourn-Producer"]) == ("/v1/relay", "edge_1/up/0")
        assert events.headers["Authorization"] == f"Bearer {KEY}"
        lines = zstandard.ZstdDecompressor().decompress(events.body).splitlines()
        assert lines[0] == b'[4,"org_a",42800000,"sent",%b]' % Sample(3).stored().body
        assert lines[1].startswith(b'[10,"org_a",null,"",{')
        assert zstandard.ZstdDecompressor().decompress(probe.body, max_output_size=10) == b""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: web.Response(status=200, text="welcome"), "not as an Adjourn"),
        (lambda _: web.json_response({"accepted": 1, "duplicate": 0, "refused": []}, status=202), "not as an Adjourn"),
        (lambda _: 409, "correct the url"),
        (lambda _: 401, "role relay"),
        (lambda _: 404, "correct the url"),
        (lambda _: 503, "its events wait"),
        (lambda _: 500, "500"),
        (lambda _: None, "closed the connection"),
    ],
)
def test_what_is_no_answer_of_an_adjourn_is_an_outage(answer: Any, says: str) -> None:
    """Whatever else stands there, no event is believed to be taken, and none is blamed; no message shows the key."""

    async def main() -> None:
        async with Receiver(answer, secret="") as receiver:
            destination = upstream(receiver.url)
            with pytest.raises(DestinationOutage, match=says) as caught:
                await destination.send(batch(Sample(1), Sample(2)))
            assert KEY not in caught.value.message
            await destination.close()

    asyncio.run(main())


def test_a_body_that_is_too_large_goes_in_parts() -> None:
    """Where the receiver takes less at once than is sent, events go in smaller requests, in order; one that is too
    large alone is refused, and the others arrive."""

    async def main() -> None:
        taker = Taker()
        rng = random.Random(7)
        noise = [str(rng.getrandbits(4_000)) for _ in range(40)]
        async with Receiver(lambda r: 413 if len(r.body) > 10_000 else taker(r), secret="") as receiver:
            destination = upstream(receiver.url)
            samples = [Sample(n, final_message=noise[n]) for n in range(40)]
            samples[9] = Sample(9, final_message="".join(noise))
            refusals = await destination.send(batch(*samples))
            await destination.close()
            assert [(r.index, r.code, r.permanent) for r in refusals] == [(9, "http_413", True)]
            assert "server.body_mb_max" in refusals[0].reason
            assert [number for _, number in taker.taken] == [n + 1 for n in range(40) if n != 9]

    asyncio.run(main())


def test_an_indented_event_goes_on_one_line() -> None:
    """Line breaks of a body are taken out; its values keep their digits."""

    async def main() -> None:
        taker = Taker()
        async with Receiver(taker, secret="") as receiver:
            destination = upstream(receiver.url)
            event = msgspec.structs.replace(
                Sample(1).stored(), body=b'{\r\n "event_id": "e",\n "session": {"session_id": "s"},\n "x": 1.500\n}'
            )
            assert await destination.send(Batch("b", [event])) == []
            await destination.close()
        body = zstandard.ZstdDecompressor().decompress(taker.requests[0].body)
        assert body.endswith(b',{"event_id":"e","session":{"session_id":"s"},"x":1.500}]')

    asyncio.run(main())


# --- real nodes on both sides -----------------------------------------------------------------------------------------


def numbered(n: int, sessions: int = 20, **more: Any) -> bytes:
    return raw(f"s{n % sessions}", event_id=f"evt_{n}", n=n, **more)


def _begin_anew(tx: Tx, consumer: str) -> None:
    tx.run("UPDATE cursors SET next_offset = 0 WHERE consumer = ?", (consumer,))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_events_of_every_tenant_arrive_as_they_were_priced(tmp_path: Path, kind: str) -> None:
    """Tenants, costs and where they came from are those of the edge, events without a price stay so, and each event is
    there as it was sent."""

    async def main() -> None:
        async with centre(tmp_path / "centre", url_of(kind, tmp_path)) as (there, url):
            async with edge(tmp_path / "edge", url, url_of(kind, tmp_path / "edge")) as here:
                await here.probe("upstream")
                for tenant in ("a", "b"):
                    usage = {"input_tokens": 7, "output_tokens": 3}
                    bodies = [numbered(n, usage={**usage, "model": ["gpt-4o", "none"][n % 2]}) for n in range(300)]
                    await here.ingest.take(tenant, bodies, source="test")
                await here.delivery.drained()
                assert settled(await here.delivery.balances())
                sent, arrived = await events_of(here), await events_of(there)
            facts = [
                Counter((e.tenant, e.body, e.cost_nanousd, e.price_ref) for e in events) for events in (sent, arrived)
            ]
            assert facts[0] == facts[1]
            assert len(facts[1]) == 600
            assert in_order(arrived)

    asyncio.run(main())


def test_a_filter_leaves_gaps_and_loses_nothing(tmp_path: Path) -> None:
    """Numbers rise with gaps where events are filtered out; all others arrive, once. When the filter is gone and the
    log is gone through anew, what was filtered is not taken for what was sent."""

    async def main() -> None:
        async with centre(tmp_path / "centre") as (there, url):
            filtered = edge(tmp_path / "edge", url, filter='event.session.session_id != "s3"')
            async with filtered as here:
                await here.ingest.take("a", [numbered(n, 5) for n in range(1_000)], source="test")
                await here.delivery.drained()
            assert len(await events_of(there)) == 800
            async with edge(tmp_path / "edge", url, enabled=False) as here:
                await here.database.write(_begin_anew, consumer_of("upstream"))
            async with edge(tmp_path / "edge", url) as here:
                await here.delivery.drained()
            ids = Counter(json.loads(e.body)["event_id"] for e in await events_of(there))
            assert ids == Counter(f"evt_{n}" for n in range(1_000))

    asyncio.run(main())


def test_what_was_refused_is_taken_when_it_is_redriven(tmp_path: Path) -> None:
    """The centre refuses one source: those events become dead letters, and others go on. When it takes the source, they
    are redriven, and arrive though their numbers are old."""

    async def main() -> None:
        bodies = [numbered(n, metadata={"source": "odd" if n % 10 == 3 else "even"}) for n in range(500)]
        async with centre(tmp_path / "centre", capture={"sources": ["even"]}) as (there, url):
            port = int(url.rpartition(":")[2])
            async with edge(tmp_path / "edge", url) as here:
                await here.ingest.take("a", bodies, source="test")
                await here.delivery.drained()
                (balance,) = await here.delivery.balances()
                assert (balance.delivered, balance.dead_lettered, balance.difference) == (450, 50, 0)
                rows = await here.database.read(lambda reader: reader.rows("SELECT DISTINCT code FROM held_events"))
                assert rows == [("source_refused",)]
            assert len(await events_of(there)) == 450
        async with centre(tmp_path / "centre", server={"port": port}) as (there, url):
            async with edge(tmp_path / "edge", url) as here:
                rows = await here.database.read(lambda r: r.rows("SELECT partition, event_offset FROM held_events"))
                for partition, offset in rows:
                    await here.dead_letters.redrive(None, f"upstream:{partition}:{offset}")
                await until(lambda: here.delivery.stats["upstream"].success == 50)
                await here.delivery.drained()
                (balance,) = await here.delivery.balances()
                assert (balance.delivered, balance.dead_lettered, balance.difference) == (500, 0, 0)
            ids = Counter(json.loads(e.body)["event_id"] for e in await events_of(there))
            assert ids == Counter(f"evt_{n}" for n in range(500))

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_whatever_stands_between_each_event_is_there_once(tmp_path: Path, rng: random.Random, kind: str) -> None:
    """Answers that get lost, errors after an event was taken and errors before, at every request by chance: events are
    halved, parked, set aside and tried again, and in the end each is in the centre once, in its session's order."""
    total = 1_500

    first = ["pass", "lie", "fail", "lose", "refuse", "cut"]
    rng.shuffle(first)

    def told(number: int) -> str:
        if number < len(first):
            return first[number]
        return rng.choices(["pass", "lose", "lie", "fail", "refuse", "cut"], weights=[8, 2, 3, 4, 1, 1])[0]

    async def main() -> None:
        async with centre(tmp_path / "centre", url_of(kind, tmp_path), validation={"dedupe_window_s": 1}) as (
            there,
            url,
        ):
            async with Between(url, told) as between:
                node = edge(tmp_path / "edge", between.url, batch_size=50, retry_attempts=1_000)
                async with node as here:
                    for start in range(0, total, 100):
                        bodies = [numbered(n, 40) for n in range(start, start + 100)]
                        await here.ingest.take("ab"[start // 100 % 2], bodies, source="test")
                    async with asyncio.timeout(90):
                        await here.delivery.drained()
                    balances = await here.delivery.balances()
                assert settled(balances), balances
                assert balances[0].delivered == total
                arrived = await events_of(there)
                ids = Counter((e.tenant, json.loads(e.body)["event_id"]) for e in arrived)
                assert (len(ids), set(ids.values())) == (total, {1}), Counter(between.done)
                assert in_order(arrived)
                assert set(first) <= set(between.done)

    asyncio.run(main())


def test_changes_of_status_are_handed_on_where_they_are_asked_for(tmp_path: Path) -> None:
    """Each is at the centre once, as the edge has written it and between the same completions; an edge that does not
    ask for them hands on completions alone, and its account says so."""

    async def main() -> None:
        async with centre(tmp_path / "centre") as (node, url):
            for name, asked in (("one", {"events": ["*"]}), ("two", {})):
                async with edge(tmp_path / name, url, **asked) as mine:
                    await emit(mine, name, 1)
                    await mine.ingest.take("acme", [raw(name, event_id=f"evt_{name}")], source="test")
                    await emit(mine, name, 2)
                    await mine.delivery.drained()
                    (balance,) = await mine.delivery.balances()
                    assert (balance.delivered, balance.filtered, balance.difference) == ((3, 0, 0), (1, 2, 0))[
                        not asked
                    ]
                    sent = [event.body for event in await events_of(mine)]
                taken = [event.body for event in await events_of(node)]
                assert taken[-3:] == sent if asked else taken[-1] == sent[1]
            assert len(await events_of(node)) == 4

    async def emit(mine: Node, session_id: str, revision: int) -> None:
        change = mine.ingest.status_record(
            "acme", session_id, from_status="idle", to_status="active", reason="", revision=revision, at_ms=1
        )
        await mine.database.write(lambda tx: tx.append([change]), key=session_id)

    asyncio.run(main())
