"""Changes of status: how Adjourn writes them, what the log does with them, and that nobody else may send one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.databases.rigs import KINDS
from tests.faults.rigs import mapping, raw, settings_of, url_of

from adjourn.clock import ManualClock
from adjourn.completion import quarantine
from adjourn.completion.dedupe import derived_id
from adjourn.completion.relay_service import Cost
from adjourn.completion.status import REASON_LENGTH_MAX, Change, status_record
from adjourn.database import Tx
from adjourn.events import (
    STATUS_CHANGED_BYTES_MAX,
    Completion,
    HostedPart,
    Record,
    SessionPart,
    StatusChanged,
    decode_event,
    decode_status_changed,
    event_type_of,
    is_status_changed,
)
from adjourn.node import Node
from adjourn.testing.account import bodies

NOW_MS = 1_790_000_000_123
SECRET = b"s" * 32
BOTH = pytest.mark.parametrize("kind", KINDS)
OWN = b'{"event_type":"session.status_changed","event_id":"evt_own","session":{"session_id":"a"},"from":"idle"}'


def with_node(kind: str, folder: Path, proof: Callable[[Node], Awaitable[None]], **sections: dict[str, Any]) -> None:
    async def main() -> None:
        settings = settings_of(mapping(folder, url_of(kind, folder), **sections))
        async with Node(settings, clock=ManualClock(NOW_MS)) as node:
            await proof(node)

    asyncio.run(main())


def changed(node: Node, session_id: str = "a", *, to: str = "idle", revision: int = 1, reason: str = "") -> Record:
    return node.ingest.status_record(
        "acme", session_id, from_status="active", to_status=to, reason=reason, revision=revision, at_ms=NOW_MS
    )


async def append(node: Node, *records: Record, key: str = "a") -> list[str]:
    appended = await node.database.write(lambda tx: tx.append(records), key=key)
    return list(appended.verdicts or ["accepted"] * len(records))


def test_an_event_says_what_changed_when_and_why() -> None:
    """It is what the schema of such events names, with the time in UTC, and it costs nothing."""
    record = status_record(SECRET, "acme", "a", Change("active", "idle", "turn_ended", 7, NOW_MS, "hybrid"))
    event = decode_event(record.body)
    assert isinstance(event, StatusChanged)
    assert (event.event_id, event.session) == (
        record.event_id,
        HostedPart(session_id="a", pattern="hybrid", revision=7),
    )
    assert (event.from_status, event.to_status, event.reason) == ("active", "idle", "turn_ended")
    assert json.loads(record.body)["timestamp"] == "2026-09-21T14:13:20.123Z"
    assert (record.cost_nanousd, record.price_ref, record.received_ms) == (None, "", NOW_MS)
    long = status_record(SECRET, "acme", "a", Change("active", "idle", "x" * 5_000, 7, NOW_MS))
    assert len(decode_status_changed(long.body).reason or "") == REASON_LENGTH_MAX
    largest = Change("active", "x" * 64, "\x01" * 5_000, 2**53, NOW_MS, "y" * 64)
    body = status_record(SECRET, "acme", "\U0001f980" * 256, largest).body
    assert is_status_changed(body)  # which looks no farther than one can be long
    assert len(body) < STATUS_CHANGED_BYTES_MAX


def test_the_same_change_has_the_same_id_and_no_completion_has_it() -> None:
    """Tenant, session and revision are the id; an event without an id gets another one, whatever it amends."""

    def id_of(tenant: str, session_id: str, revision: int, at_ms: int = NOW_MS) -> str:
        return status_record(SECRET, tenant, session_id, Change("active", "idle", "", revision, at_ms)).event_id

    ids = [id_of("acme", "a", 1), id_of("acme", "a", 2), id_of("acme", "b", 1), id_of("other", "a", 1)]
    assert id_of("acme", "a", 1, NOW_MS + 5) == ids[0]
    parts = [SessionPart(session_id="a"), SessionPart(session_id="a", attempt=2)]
    ids += [derived_id("acme", Completion(session=part)) for part in parts]
    for amended in ("session.status_changed", "x"):
        ids.append(derived_id("acme", Completion(event_type="session.amended", session=parts[0], amends=amended)))
    assert len(set(ids)) == len(ids)


def test_the_type_of_an_event_is_known_from_its_bytes() -> None:
    """Whatever else it says, a text that mentions the type included; what cannot be read is no change of status."""
    assert is_status_changed(OWN)
    said = raw("a", outcome={"final_message": '{"event_type":"session.status_changed"}'})
    assert not is_status_changed(said)
    assert [event_type_of(body) for body in (OWN, said, raw("a", event_type=None), b'["session.status_changed"')] == [
        "session.status_changed",
        "session.completed",
        "session.completed",
        "",
    ]
    assert not is_status_changed(b'["session.status_changed"')


@BOTH
def test_a_change_stands_before_the_completion_that_it_brings(tmp_path: Path, kind: str) -> None:
    """Both are appended in one transaction, in the partition of the root that was named and not of the session: first
    the change, then the completion. Neither is there if the change does not take place."""

    async def proof(node: Node) -> None:
        root = next(name for name in map(str, range(100)) if _elsewhere(node, name))

        def change(took_place: bool) -> Callable[[Tx, Record], bool]:
            def fn(tx: Tx, _: Record) -> bool:
                if took_place:
                    tx.append([changed(node, to="completed")])
                return took_place

            return fn

        event = raw("a", event_id="evt_done")
        assert await node.ingest.take_if("acme", event, change(False), source="test", key=root) is None
        assert await bodies(node) == []
        result = await node.ingest.take_if("acme", event, change(True), source="test", key=root)
        assert result is not None
        assert result.status == "accepted"
        assert [event_type_of(body) for body in await bodies(node)] == ["session.status_changed", "session.completed"]
        partition = node.database.partition_of(root)
        assert (await node.log.heads())[partition] == 2
        held = await node.log.find("acme", changed(node, to="completed").event_id)
        assert held is not None
        assert (held.partition, held.offset, held.tenant, held.received_ms) == (partition, 0, "acme", NOW_MS)
        assert (await node.database.read(quarantine.select, "acme", state="held", before="", limit=5)) == []
        assert (node.ingest.counters.accepted, node.ingest.counters.unpriced) == (1, 1)

    with_node(kind, tmp_path, proof)


def _elsewhere(node: Node, name: str) -> bool:
    return node.database.partitions == 1 or node.database.partition_of(name) != node.database.partition_of("a")


@BOTH
@pytest.mark.parametrize("dedupe_by", ["event", "session"])
def test_a_change_that_is_appended_again_is_a_duplicate(tmp_path: Path, kind: str, dedupe_by: str) -> None:
    """The same one twice is one; many of one session are many, also where a session completes once. A completion that
    bears the id of one stops nobody: it is a conflict where ids tell events apart."""

    async def proof(node: Node) -> None:
        first, second = changed(node), changed(node, revision=2)
        assert await append(node, first, second) == ["accepted", "accepted"]
        assert await append(node, changed(node), changed(node, revision=3)) == ["duplicate", "accepted"]
        claims = [raw("a", event_id=first.event_id), raw("a", event_id="evt_1")]
        results = await node.ingest.take("acme", claims, source="test")
        told = [result.status for result in results]
        assert told == (["conflict", "accepted"] if dedupe_by == "event" else ["accepted", "conflict"])
        assert len(await bodies(node)) == 4

    with_node(kind, tmp_path, proof, validation={"dedupe_by": dedupe_by})


@BOTH
def test_what_a_caller_gave_as_its_reason_is_redacted(tmp_path: Path, kind: str) -> None:
    """The rules hold for these events too."""

    async def proof(node: Node) -> None:
        await append(node, changed(node, reason="a@b.cc said so"))
        (body,) = await bodies(node)
        assert decode_status_changed(body).reason == "[email] said so"

    with_node(kind, tmp_path, proof, validation={"redact": ["mask email"]})


@BOTH
def test_no_sender_may_send_one(tmp_path: Path, kind: str) -> None:
    """It is refused with fact and remedy, however its type is spelled and whatever else is wrong with it, and kept in
    quarantine, from where it does not get into the log either."""

    async def proof(node: Node) -> None:
        spelled = OWN.replace(b"status_", b"status\\u005f")
        also_wrong = raw("", event_type="session.status_changed")
        results = await node.ingest.take("acme", [OWN, spelled, also_wrong], source="test")
        assert {(one.status, one.code, one.path) for one in results} == {
            ("invalid", "event_type_reserved", "event_type")
        }
        assert "Adjourn itself writes" in results[0].message
        assert "send session.completed" in results[0].remedy
        again = await node.ingest.retry("acme", results[0].quarantine_id)
        assert again.code == "event_type_reserved"
        told = await node.ingest.take_if("acme", OWN, lambda *_: True, source="test")
        assert told is not None
        assert told.code == "event_type_reserved"
        assert await bodies(node) == []

    with_node(kind, tmp_path, proof)


@BOTH
def test_another_adjourn_hands_on_its_own(tmp_path: Path, kind: str) -> None:
    """Relayed, they are taken as they are, each once and without a price, among completions; what is none of them is
    refused."""

    async def relay(node: Node, *raws: bytes) -> list[str]:
        results = await node.ingest.take(
            "acme",
            raws,
            source="relay",
            producer="edge/up/0",
            sequences=range(1, len(raws) + 1),
            costs=[Cost(None, "")] * len(raws),
        )
        return [result.code or result.status for result in results]

    async def proof(node: Node) -> None:
        own, done = changed(node).body, raw("a", event_id="evt_done")
        assert await relay(node, own, done) == ["accepted", "accepted"]
        assert await relay(node, own, done) == ["duplicate", "duplicate"]
        assert await bodies(node) == [own, done]
        assert node.ingest.counters.unpriced == 2  # the completion, each time that it was handed on
        nameless = b'{"event_type":"session.status_changed","session":{"session_id":"a"}}'
        spaced = own.replace(b'"session_id":"a"', b'"session_id":" a"')
        assert (await relay(node, own, done, nameless, spaced))[2:] == ["field_missing", "id_invalid"]

    with_node(kind, tmp_path, proof)
