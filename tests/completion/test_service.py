"""Ingest on a node, over both databases: what became of each event, and where it is then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.databases.rigs import KINDS
from tests.faults.rigs import mapping, raw, settings_of, url_of

from adjourn.clock import ManualClock
from adjourn.completion import quarantine
from adjourn.completion.quarantine import Quarantined, State
from adjourn.completion.results import Result
from adjourn.completion.service import SLICE_BYTES
from adjourn.completion.validate import Problem
from adjourn.errors import NotFound
from adjourn.events import StoredEvent
from adjourn.node import Node
from adjourn.testing.account import bodies, compare, logged, stored

NOW_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z
pytestmark = pytest.mark.parametrize("kind", KINDS)


def with_node(
    kind: str, folder: Path, proof: Callable[[Node, ManualClock], Awaitable[None]], **sections: dict[str, object]
) -> None:
    async def main() -> None:
        clock = ManualClock(NOW_MS)
        async with Node(settings_of(mapping(folder, url_of(kind, folder), **sections)), clock=clock) as node:
            await proof(node, clock)

    asyncio.run(main())


async def take(node: Node, *raws: bytes, tenant: str = "acme", **more: Any) -> list[Result]:
    return await node.ingest.take(tenant, raws, source="test", **more)


async def statuses(node: Node, *raws: bytes, tenant: str = "acme", **more: Any) -> list[str]:
    return [result.status for result in await take(node, *raws, tenant=tenant, **more)]


async def kept(node: Node, tenant: str = "acme", state: State = "held") -> list[Quarantined]:
    return await node.database.read(quarantine.select, tenant, state=state, before="", limit=500)


async def found(node: Node, event_id: str, tenant: str = "acme") -> StoredEvent:
    event = await node.log.find(tenant, event_id)
    assert event is not None
    return event


def test_each_event_of_a_batch_has_its_own_result_in_its_place(kind: str, tmp_path: Path) -> None:
    """Good and bad ones in one call: results in order, each kept where it belongs, and counted."""

    async def proof(node: Node, _: ManualClock) -> None:
        assert await take(node) == []
        first = raw("a", event_id="e1")
        batch = (
            first,
            b"not json",
            raw("b"),
            first,
            raw("a", event_id="e1", x=1),
            raw("c", usage={"input_tokens": -1}),
        )
        results = await take(node, *batch)
        assert [r.status for r in results] == ["accepted", "invalid", "accepted", "duplicate", "conflict", "invalid"]
        assert [r.code for r in results if r.code] == ["json_malformed", "event_conflict", "value_invalid"]
        assert results[5].path == "usage.input_tokens"
        assert all(r.message and r.remedy for r in results if r.status in ("invalid", "conflict"))
        assert compare(["a", "b"], await logged(node)).exact
        by_id = {entry.id: entry.body for entry in await kept(node)}
        assert by_id == {results[index].quarantine_id: batch[index] for index in (1, 4, 5)}
        counters = node.ingest.counters
        assert (counters.accepted, counters.duplicate, counters.conflict, counters.invalid) == (2, 1, 1, 2)

    with_node(kind, tmp_path, proof)


def test_tenants_may_use_the_same_ids(kind: str, tmp_path: Path) -> None:
    """Event ids, session ids and producers of one tenant mean nothing to another: no duplicate, no conflict."""

    async def proof(node: Node, _: ManualClock) -> None:
        for tenant in ("acme", "other", "default"):
            assert await statuses(node, raw("s", event_id="e1", whose=tenant), tenant=tenant) == ["accepted"]
            assert await statuses(node, raw("t"), tenant=tenant) == ["accepted"]
            numbered = {"producer": "p", "sequences": [1]}
            assert await statuses(node, raw("u"), tenant=tenant, **numbered) == ["accepted"]
            assert await statuses(node, raw("u"), tenant=tenant, **numbered) == ["duplicate"]
            event = await found(node, "e1", tenant)
            assert (event.tenant, json.loads(event.body)["whose"]) == (tenant, tenant)
        assert len(await logged(node)) == 9

    with_node(kind, tmp_path, proof)


def test_a_blind_retry_cannot_bill_twice(kind: str, tmp_path: Path) -> None:
    """Without an id, the same event again is a duplicate and one that differs a conflict; a new attempt is an event."""

    async def proof(node: Node, clock: ManualClock) -> None:
        usage = {"input_tokens": 1_000, "model": "gpt-4o"}
        (first,) = await take(node, raw("s", usage=usage))
        clock.advance(299)
        (again,) = await take(node, raw("s", usage=usage))
        (named,) = await take(node, raw("s", usage=usage, event_id=first.event_id))
        (other,) = await take(node, raw("s", usage={**usage, "input_tokens": 2_000}))
        (attempt,) = await take(node, b'{"session":{"session_id":"s","attempt":2}}')
        got = [(r.status, r.event_id == first.event_id) for r in (first, again, named, other, attempt)]
        assert got == [
            ("accepted", True),
            ("duplicate", True),
            ("duplicate", True),
            ("conflict", True),
            ("accepted", False),
        ]
        await node.delivery.drained()
        assert sorted(stored(f"sqlite:///{tmp_path}/out.db", "cost_nanousd")) == ["2500000", "None"]

    with_node(kind, tmp_path, proof)


def test_retries_that_race_are_accepted_once(kind: str, tmp_path: Path) -> None:
    """Twenty callers send the same fifty events at once, some without ids: each is accepted for exactly one."""
    batch = [raw(f"s{n}", **({"event_id": f"e{n}"} if n % 2 else {})) for n in range(50)]

    async def proof(node: Node, _: ManualClock) -> None:
        answers = await asyncio.gather(*(statuses(node, *batch) for _ in range(20)))
        for nth in zip(*answers, strict=True):
            assert (nth.count("accepted"), nth.count("duplicate")) == (1, 19)
        assert compare([f"s{n}" for n in range(50)], await logged(node)).exact

    with_node(kind, tmp_path, proof)


def test_by_event_a_session_may_complete_under_several_ids(kind: str, tmp_path: Path) -> None:
    """`dedupe_by: event`, the default: ids alone count, and an amendment has one of its own."""

    async def proof(node: Node, _: ManualClock) -> None:
        amendment = raw("s", event_type="session.amended", amends="e1")
        assert await statuses(node, raw("s", event_id="e1"), raw("s", event_id="e2"), amendment, amendment) == [
            "accepted",
            "accepted",
            "accepted",
            "duplicate",
        ]

    with_node(kind, tmp_path, proof)


def test_by_session_a_second_completion_conflicts_unless_it_amends(kind: str, tmp_path: Path) -> None:
    """`dedupe_by: session`: one completion a session whatever its id or attempt; what says what it amends is taken."""

    async def proof(node: Node, _: ManualClock) -> None:
        first = raw("s", event_id="e1")
        assert await statuses(node, first, first, raw("s", event_id="e2"), raw("s", x=1)) == [
            "accepted",
            "duplicate",
            "conflict",
            "conflict",
        ]
        second = b'{"event_id":"e4","session":{"session_id":"s","attempt":2}}'
        assert await statuses(node, second) == ["conflict"]
        assert await statuses(node, raw("other", event_id="e5")) == ["accepted"]
        amendments = [raw("s", event_type="session.amended", amends="e1", event_id=f"a{n}") for n in range(2)]
        assert await statuses(node, *amendments, amendments[0]) == ["accepted", "accepted", "duplicate"]
        assert sorted(await logged(node)) == ["other", "s", "s", "s"]
        assert len(await kept(node)) == 3

    with_node(kind, tmp_path, proof, validation={"dedupe_by": "session"})


def test_a_numbered_resend_is_exact_however_late(kind: str, tmp_path: Path) -> None:
    """(producer, sequence) is known long after the window, ids or none; what is new in a resent batch is taken."""

    async def proof(node: Node, clock: ManualClock) -> None:
        batch = [raw(f"s{n}") for n in range(6)]
        numbers = range(1, 7)
        assert await statuses(node, *batch[:4], producer="p", sequences=numbers[:4]) == ["accepted"] * 4
        clock.advance(30 * 86_400)
        got = await statuses(node, *batch, producer="p", sequences=numbers)
        assert got == ["duplicate"] * 4 + ["accepted"] * 2
        assert compare([f"s{n}" for n in range(6)], await logged(node)).exact

    with_node(kind, tmp_path, proof)


HOSTILE: list[dict[str, Any]] = [
    {"usage": {"input_tokens": 2**53, "output_tokens": 2**53, "model": "gpt-4"}},
    {"usage": {"model": "nul \x00 and \ufffe", "estimated_cost_usd": 1_000_000_000}},
    {"usage": {"estimated_cost_usd": 1e-300}},
    {"outcome": {"final_message": "\x00\x1b[31m\u202e" + "😀" * 100, "final_state": {"\x00": [None, 1e300]}}},
    {"timestamp": "2026-01-01T00:00:00+23:59", "metadata": {"custom_tags": {"": 0, "\x00": {"\x00": "\x00"}}}},
    {"timestamp": "1969-12-31T23:59:59.999999999-23:59"},
    {"timestamp": "0001-01-02T00:00:00+23:59"},
    {"unknown": 10**400, "deep": json.loads("[" * 60 + "]" * 60)},
]


def test_a_hostile_event_disturbs_none_of_those_beside_it(kind: str, tmp_path: Path) -> None:
    """Taken at the same moment, in calls of their own and in one: what is strange but allowed is in the log and at the
    destination like its neighbours, and nobody's call fails."""

    async def proof(node: Node, _: ManualClock) -> None:
        strange = [raw(f"strange {n}", **more) for n, more in enumerate(HOSTILE)]
        plain = [raw(f"plain {n}") for n in range(len(strange))]
        mixed = [each for pair in zip(strange, plain, strict=True) for each in pair]
        answers = await asyncio.gather(*(statuses(node, one) for one in mixed))
        assert answers == [["accepted"]] * len(mixed)
        assert await statuses(node, *mixed) == ["duplicate"] * len(mixed)
        again = [one.replace(b'"session_id": "', b'"session_id": "2 ') for one in mixed]
        assert await statuses(node, *again) == ["accepted"] * len(mixed)
        await asyncio.wait_for(node.delivery.drained(), 20)
        names = await logged(node)
        assert len(names) == 2 * len(mixed)
        assert sorted(stored(f"sqlite:///{tmp_path}/out.db")) == sorted(names)
        inside = [body.partition(b',"session"')[2] for body in await bodies(node)]
        assert sorted(inside) == sorted(one.partition(b'"session"')[2] for one in [*mixed, *again])

    with_node(kind, tmp_path, proof)


def test_unknown_fields_are_kept_to_the_destination_and_in_quarantine(kind: str, tmp_path: Path) -> None:
    """Fields that no schema knows, numbers of any length and odd spacing are there byte for byte, wherever it ends."""
    tail = b'"session" : {"session_id":"s","mood": "\\u00e9"},  "big":123456789012345678901234567890.50, "n":[1.0,1e2]}'

    async def proof(node: Node, _: ManualClock) -> None:
        named = b'{"event_id":"e1", ' + tail
        wrong = b'{"timestamp":"tomorrow", ' + tail
        nameless = b"{" + tail.replace(b'"s"', b'"t"')
        results = await take(node, named, nameless, wrong)
        assert [r.status for r in results] == ["accepted", "accepted", "invalid"]
        assert (await found(node, "e1")).body == named
        (entry,) = await kept(node)
        assert entry.body == wrong
        await node.delivery.drained()
        payloads = stored(f"sqlite:///{tmp_path}/out.db", "payload")
        assert named.decode() in payloads
        assert f'{{"event_id":"{results[1].event_id}",{nameless[1:].decode()}' in payloads

    with_node(kind, tmp_path, proof)


def test_cost_is_exact_with_its_provenance_and_unknown_is_null_and_counted(kind: str, tmp_path: Path) -> None:
    """What is sent wins and is `sent`; a known model is priced at the event's date; for another there is no cost."""

    async def proof(node: Node, _: ManualClock) -> None:
        tokens = {"input_tokens": 3, "output_tokens": 1}
        usages: Sequence[dict[str, object]] = (
            {**tokens, "model": "gpt-4o"},
            {**tokens, "model": "gpt-4o", "estimated_cost_usd": 0.0428},
            {**tokens, "model": "unheard-of"},
            tokens,
        )
        await take(node, *(raw(f"s{n}", event_id=f"e{n}", usage=usage) for n, usage in enumerate(usages)))
        events = [await found(node, f"e{n}") for n in range(4)]
        expected = 3 * Decimal("2.5") / 10**6 + Decimal(10) / 10**6
        assert [e.cost_nanousd for e in events] == [int(expected * 10**9), 42_800_000, None, None]
        version = node.prices.version
        assert [e.price_ref for e in events] == [f"genai-prices/{version}:openai/gpt-4o", "sent", "", ""]
        assert node.prices.unknown_models == {"unheard-of": 1}
        assert node.ingest.counters.unpriced == 2

    with_node(kind, tmp_path, proof)


def test_what_the_caller_has_refused_stands_in_its_place(kind: str, tmp_path: Path) -> None:
    """Problems that were found before keep their places among the events, in results and in quarantine."""

    async def proof(node: Node, _: ManualClock) -> None:
        problems = [Problem(n, "json_malformed", "", "no", "do this", b"bad %d" % n) for n in (0, 2, 5)]
        raws = [raw("a"), raw("b", usage=1), raw("c")]
        results = await take(node, *raws, refused=problems)
        assert [r.status for r in results] == ["invalid", "accepted", "invalid", "invalid", "accepted", "invalid"]
        assert [r.path for r in results] == ["", "", "", "usage", "", ""]
        by_id = {entry.id: entry.body for entry in await kept(node)}
        assert [by_id[results[n].quarantine_id] for n in (0, 2, 3, 5)] == [b"bad 0", b"bad 2", raws[1], b"bad 5"]
        assert await statuses(node, refused=problems[:1]) == ["invalid"]

    with_node(kind, tmp_path, proof)


def test_a_batch_of_many_slices_keeps_its_order(kind: str, tmp_path: Path) -> None:
    """Some thousand events, several slices long, over all partitions: each result is its event's."""

    async def proof(node: Node, _: ManualClock) -> None:
        batch = [b"bad" if n % 10 == 3 else raw(f"s{n}", event_id=f"e{n}", x="y" * 400) for n in range(2_000)]
        assert sum(map(len, batch)) > 3 * SLICE_BYTES
        results = await take(node, *batch)
        for n, result in enumerate(results):
            assert (result.status, result.event_id) == (("invalid", None) if n % 10 == 3 else ("accepted", f"e{n}"))
        assert len(await logged(node)) == 1_800

    with_node(kind, tmp_path, proof)


def test_a_retry_of_what_was_refused_is_judged_by_the_settings_of_now(kind: str, tmp_path: Path) -> None:
    """What is still wrong stays held; once it is right it is taken, whole, for its own tenant, and no longer held."""

    async def proof(node: Node, clock: ManualClock) -> None:
        ahead = raw("later", event_id="e1", timestamp="2026-09-21T15:00:00Z", unknown=[1])
        (first,) = await take(node, ahead)
        assert first.code == "time_ahead"
        again = await node.ingest.retry("acme", first.quarantine_id)
        assert (again.status, again.quarantine_id) == ("invalid", first.quarantine_id)
        assert len(await kept(node)) == 1
        for tenant in ("other", "acm"):
            with pytest.raises(NotFound):
                await node.ingest.retry(tenant, first.quarantine_id)
        clock.advance(3_600)
        assert (await node.ingest.retry(None, first.quarantine_id)).status == "accepted"
        assert (await node.ingest.retry("acme", first.quarantine_id)).status == "duplicate"
        assert await kept(node) == []
        assert [entry.body for entry in await kept(node, state="accepted")] == [ahead]
        assert (await found(node, "e1")).body == ahead

    with_node(kind, tmp_path, proof)


def test_a_retry_long_after_doubles_nothing(kind: str, tmp_path: Path) -> None:
    """What a retry took, or its sender sent again corrected, is a duplicate or a conflict also past the window; so is
    a retry that was cut off before it was recorded."""

    async def proof(node: Node, clock: ManualClock) -> None:
        ahead = [raw(f"s{n}", event_id=f"e{n}", timestamp="2026-09-21T15:00:00Z") for n in range(3)]
        held = [result.quarantine_id for result in await take(node, *ahead)]
        clock.advance(3_600)
        assert (await node.ingest.retry("acme", held[0])).status == "accepted"
        await take(node, ahead[1], raw("s2", event_id="e2"))
        clock.advance(3_600)
        assert [(await node.ingest.retry("acme", entry)).status for entry in held] == [
            "duplicate",
            "duplicate",
            "conflict",
        ]
        assert len(await logged(node)) == 3

    with_node(kind, tmp_path, proof)


def test_a_conflict_stays_a_conflict_when_it_is_retried(kind: str, tmp_path: Path) -> None:
    """The first one stands: a retry of the other is held as before, within the window and long after."""

    async def proof(node: Node, clock: ManualClock) -> None:
        _, other = await take(node, raw("s", event_id="e1", x=1), raw("s", event_id="e1", x=2))
        assert (await node.ingest.retry("acme", other.quarantine_id)).status == "conflict"
        clock.advance(3_600)
        assert (await node.ingest.retry("acme", other.quarantine_id)).status == "conflict"
        assert [entry.id for entry in await kept(node)] == [other.quarantine_id]
        assert json.loads((await found(node, "e1")).body)["x"] == 1

    with_node(kind, tmp_path, proof)
