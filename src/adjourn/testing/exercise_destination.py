"""The suite that every destination passes: `await exercise_destination(make)` raises AssertionError where one does not.

`make` gives a rig: a destination in front of an empty place, and a way to read what arrived there.

    async def test() -> None:
        await exercise_destination(lambda: MyRig())
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from adjourn.destination import Batch, Destination
from adjourn.events import STATUS_CHANGED, StoredEvent
from adjourn.typed import decoder

RECEIVED_MS = 1_766_313_045_123

HOSTILE_TEXTS = (
    "",
    "NUL \0 in the middle",
    "emoji 🦀 and a family 👨‍👩‍👧",
    "\"quotes\" 'single' `back` \\ \\\\ \\N \\. \\u0000 ${x} %s {y}",
    "tab\tline\nreturn\rform\fand\x1f",
    "line\u2028paragraph\u2029next\u0085bom\ufeff",
    "'; DROP TABLE sessions; --",
    "}]}\n{",
    "m" * 1_000_000,
)


class Arrived(msgspec.Struct, frozen=True):
    """One event as the place beyond the destination holds it."""

    tenant: str
    session_id: str
    event_id: str
    event_type: str
    user_id: str | None
    final_message: str | None
    cost_nanousd: int | None


class Rig(Protocol):
    destination: Destination
    repeats: bool
    """Whether a batch that is sent twice may arrive twice; never less than once."""
    poison: StoredEvent | None
    """An event that this destination refuses, or None if it takes all."""

    async def arrived(self) -> Sequence[Arrived]:
        """Everything that is there; each partition's events in the order in which they arrived."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Sample:
    """An event with the fields that `Arrived` shows."""

    offset: int
    tenant: str = "org_a"
    session_id: str = "sess_1"
    event_id: str = ""
    event_type: str = "session.completed"
    user_id: str | None = "usr_1"
    final_message: str | None = "done"
    cost_nanousd: int | None = 42_800_000
    amends: str | None = None
    indent: int = 0
    partition: int = 0

    def stored(self) -> StoredEvent:
        expected = self.expected()
        body: dict[str, Any] = {
            "event_type": expected.event_type,
            "event_id": expected.event_id,
            "timestamp": "2025-12-21T10:30:45.123Z",
            "session": {"session_id": self.session_id, "session_type": "chat", "duration_ms": 1200},
            "user": {"user_id": self.user_id},
            "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "model": "gpt-4o"},
            "outcome": {"status": "success", "final_message": self.final_message},
            "x_unknown": {"kept": [1, 2.5, None]},
        }
        if self.amends is not None:
            body["amends"] = self.amends
        encoded = msgspec.json.encode(body)
        return StoredEvent(
            partition=self.partition,
            offset=self.offset,
            tenant=self.tenant,
            body=msgspec.json.format(encoded, indent=self.indent) if self.indent else encoded,
            received_ms=RECEIVED_MS + self.offset,
            cost_nanousd=self.cost_nanousd,
            price_ref="" if self.cost_nanousd is None else "sent",
        )

    def expected(self) -> Arrived:
        event_id = self.event_id or f"evt_{self.offset}"
        return Arrived(
            tenant=self.tenant,
            session_id=self.session_id,
            event_id=event_id,
            event_type=self.event_type,
            user_id=self.user_id,
            final_message=self.final_message,
            cost_nanousd=self.cost_nanousd,
        )


def change_of_status(offset: int, *, session_id: str = "sess_1", reason: str = "message") -> StoredEvent:
    """A `session.status_changed`, as Adjourn writes it."""
    body = {
        "event_type": STATUS_CHANGED,
        "event_id": f"evt_{offset}",
        "timestamp": "2025-12-21T10:30:45.123Z",
        "session": {"session_id": session_id, "revision": offset, "pattern": "hybrid"},
        "from": "idle",
        "to": "active",
        "reason": reason,
    }
    return StoredEvent(0, offset, "org_a", msgspec.json.encode(body), RECEIVED_MS + offset, None, "")


async def exercise_destination(make: Callable[[], Rig]) -> None:
    """Run every check below, each with a rig of its own. Raises AssertionError naming the check that failed."""
    for check in CHECKS:
        rig = make()
        try:
            await check(rig)
        except Exception as error:
            raise AssertionError(f"{check.__name__}: {error!r}") from error
        finally:
            await rig.destination.close()
            await rig.close()


async def arrives_whole_and_in_order(rig: Rig) -> None:
    """What was sent is there when `send` returns, in order, over several batches."""
    samples = [Sample(offset, session_id=f"sess_{offset % 7}") for offset in range(350)]
    await rig.destination.open()
    await _send(rig, samples[:300])
    await _send(rig, samples[300:])
    _equal(await rig.arrived(), samples)


async def sends_without_open(rig: Rig) -> None:
    """`send` opens what is not open, also after `close`."""
    await _send(rig, [Sample(1)])
    await rig.destination.close()
    await _send(rig, [Sample(2)])
    _equal(await rig.arrived(), [Sample(1), Sample(2)])


async def resending_changes_nothing(rig: Rig) -> None:
    """A batch that is sent again loses nothing, and adds nothing where the destination promises that."""
    samples = [Sample(offset) for offset in range(5)]
    await rig.destination.open()
    await _send(rig, samples)
    await _send(rig, samples)
    await _send(rig, [*samples[3:], Sample(5)])
    arrived = list(await rig.arrived())
    if rig.repeats:
        arrived = list(dict.fromkeys(msgspec.json.encode(one) for one in arrived))
        arrived = [decoder(Arrived).decode(one) for one in arrived]
    _equal(arrived, [*samples, Sample(5)])


async def takes_an_empty_batch(rig: Rig) -> None:
    """A batch without events is no error and leaves nothing."""
    await rig.destination.open()
    await _send(rig, [])
    _equal(await rig.arrived(), [])


async def takes_hostile_texts(rig: Rig) -> None:
    """Any text that JSON can carry arrives as it was sent."""
    samples = [Sample(offset, final_message=text) for offset, text in enumerate(HOSTILE_TEXTS)]
    ids = [text for text in HOSTILE_TEXTS if text and "\0" not in text and len(text) < 256]
    samples += [Sample(100 + n, user_id=text, session_id=text, event_id=text) for n, text in enumerate(ids)]
    await rig.destination.open()
    await _send(rig, samples)
    _equal(await rig.arrived(), samples)


async def takes_indented_bodies(rig: Rig) -> None:
    """A body that its sender pretty-printed arrives as one event."""
    samples = [Sample(offset, indent=2) for offset in range(3)]
    await rig.destination.open()
    await _send(rig, samples)
    _equal(await rig.arrived(), samples)


async def keeps_costs_exact(rig: Rig) -> None:
    """No cost, a cost of zero and the largest cost are three things, to the last nano-USD."""
    costs = (None, 0, 1, 999_999_999, 1_000_000_000, 9_007_199_254_740_993, 2**63 - 1, -1_500_000_001)
    samples = [Sample(offset, cost_nanousd=cost) for offset, cost in enumerate(costs)]
    await rig.destination.open()
    await _send(rig, samples)
    _equal(await rig.arrived(), samples)


async def probing_leaves_nothing(rig: Rig) -> None:
    """A probe reaches the destination, before and after events, and adds none."""
    await rig.destination.open()
    await rig.destination.probe()
    _equal(await rig.arrived(), [])
    await _send(rig, [Sample(1)])
    await rig.destination.probe()
    _equal(await rig.arrived(), [Sample(1)])


async def opens_and_closes_twice(rig: Rig) -> None:
    """`open` and `close` may be called again, and a place that holds events already is continued."""
    await rig.destination.close()
    await rig.destination.open()
    await rig.destination.open()
    await _send(rig, [Sample(1)])
    await rig.destination.close()
    await rig.destination.close()
    await rig.destination.open()
    await _send(rig, [Sample(2)])
    _equal(await rig.arrived(), [Sample(1), Sample(2)])


async def takes_several_partitions_at_once(rig: Rig) -> None:
    """Batches of different partitions are sent side by side, and all of each arrives, in its order."""
    partitions = [
        [
            Sample(offset, event_id=f"evt_{p}_{offset}", session_id=f"sess_{p}_{offset % 3}", partition=p)
            for offset in range(40)
        ]
        for p in range(4)
    ]
    await rig.destination.open()
    await asyncio.gather(*(_send(rig, samples, name=f"batch_{p}") for p, samples in enumerate(partitions)))
    arrived = await rig.arrived()
    for p, samples in enumerate(partitions):
        _equal([one for one in arrived if one.event_id.startswith(f"evt_{p}_")], samples)
    assert len(arrived) == sum(map(len, partitions)), f"{len(arrived)} events arrived"


async def keeps_tenants_apart(rig: Rig) -> None:
    """The same ids of two tenants, or the same event id in two sessions, are different events."""
    samples = [
        Sample(1, tenant="org_a", event_id="evt_same"),
        Sample(2, tenant="org_b", event_id="evt_same"),
        Sample(3, tenant="org_b", event_id="evt_same", session_id="sess_2"),
    ]
    await rig.destination.open()
    await _send(rig, samples)
    _equal(await rig.arrived(), samples)


async def keeps_amendments_beside(rig: Rig) -> None:
    """An amendment arrives beside the completion that it corrects and changes nothing of it."""
    samples = [
        Sample(1),
        Sample(2, event_type="session.amended", amends="evt_1", cost_nanousd=5, final_message="corrected"),
    ]
    await rig.destination.open()
    await _send(rig, samples)
    _equal(await rig.arrived(), samples)


async def takes_changes_of_status(rig: Rig) -> None:
    """A change of a session's status is taken like a completion, and is none: those around it arrive as they were."""
    samples = [Sample(1), Sample(3, session_id="sess_2")]
    events = [samples[0].stored(), change_of_status(2), samples[1].stored(), change_of_status(4)]
    await rig.destination.open()
    refusals = await rig.destination.send(Batch(id="batch", events=events))
    assert not refusals, f"refused: {refusals}"
    _equal([one for one in await rig.arrived() if one.event_type != STATUS_CHANGED], samples)


async def refusals_are_the_event_s_alone(rig: Rig) -> None:
    """Events that are refused are named by their place, and all others of the batch arrive."""
    if rig.poison is None:
        return
    samples = [Sample(offset) for offset in range(100)]
    events = [sample.stored() for sample in samples]
    for index in (99, 98, 50, 0):
        events[index] = rig.poison
    await rig.destination.open()
    refusals = await rig.destination.send(Batch(id="batch", events=events))
    indexes = [refusal.index for refusal in refusals]
    assert indexes == [0, 50, 98, 99], f"refused {indexes}"
    assert all(refusal.code and refusal.reason for refusal in refusals), "a refusal without a code or a reason"
    _equal(await rig.arrived(), [sample for sample in samples if sample.offset not in indexes])


CHECKS = (
    arrives_whole_and_in_order,
    sends_without_open,
    resending_changes_nothing,
    takes_an_empty_batch,
    takes_hostile_texts,
    takes_indented_bodies,
    keeps_costs_exact,
    probing_leaves_nothing,
    opens_and_closes_twice,
    takes_several_partitions_at_once,
    keeps_tenants_apart,
    keeps_amendments_beside,
    takes_changes_of_status,
    refusals_are_the_event_s_alone,
)


async def _send(rig: Rig, samples: Sequence[Sample], *, name: str = "") -> None:
    name = name or f"batch_{samples[0].offset if samples else 0}"
    refusals = await rig.destination.send(Batch(id=name, events=[sample.stored() for sample in samples]))
    assert not refusals, f"refused: {refusals}"


def _equal(arrived: Sequence[Arrived], samples: Sequence[Sample]) -> None:
    expected = [sample.expected() for sample in samples]
    for number, (one, other) in enumerate(zip(arrived, expected, strict=False)):
        assert one == other, f"event {number}: sent {str(other)[:500]}, arrived {str(one)[:500]}"
    assert len(arrived) == len(expected), f"sent {len(expected)} events, {len(arrived)} arrived"
