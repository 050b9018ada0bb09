"""`POST /v1/relay`: events that another Adjourn has taken, validated and priced, and hands on: docs/howto/edge.md.

The body is lines, `[sequence, tenant, cost, price_ref, event]`, the cost in nano-USD or null, by rising sequence, of
one producer. The answer names only what was refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from adjourn.completion.relay_service import Cost, Relayed
from adjourn.completion.results import Result
from adjourn.errors import BodyInvalid, Forbidden, MediaTypeUnsupported
from adjourn.http import bodies
from adjourn.http.events import EventsEndpoint
from adjourn.security.keys import Key, is_tenant
from adjourn.security.roles import Permission
from adjourn.security.service import ANONYMOUS

RELAY_PATH = "/v1/relay"

_decode = msgspec.json.Decoder(Relayed).decode_lines


class Refused(msgspec.Struct):
    """`index`: its place in the body."""

    index: int
    result: Result


class RelayAnswer(msgspec.Struct):
    """202: every event is durable, as accepted, as one that was there, or in quarantine."""

    accepted: int
    duplicate: int
    refused: list[Refused]


class RelayEndpoint(EventsEndpoint):
    permission: Permission = "events:relay"

    async def _ingested(self, key: Key, body: bytes, headers: Mapping[str, str]) -> msgspec.Struct:
        if bodies.media_type(headers.get("content-type", "")) not in bodies.LINES:
            raise MediaTypeUnsupported(f"a relay is sent as {bodies.NDJSON}", path="content-type")
        events = await _read(body)
        if not events:
            return RelayAnswer(0, 0, [])  # whoever asks whether its key is good
        producer = _producer(headers, events)
        results: dict[int, Result] = {}
        for tenant, places in _by_tenant(key, events).items():
            mine = [events[place] for place in places]
            told = await self._ingest.take(
                tenant,
                [bytes(one.event) for one in mine],
                source="relay",
                producer=producer,
                sequences=[one.sequence for one in mine],
                costs=[Cost(one.cost_nanousd, one.price_ref) for one in mine],
            )
            results |= zip(places, told, strict=True)
        statuses = [result.status for result in results.values()]
        return RelayAnswer(
            statuses.count("accepted"),
            statuses.count("duplicate"),
            [Refused(place, result) for place, result in sorted(results.items()) if result.code],
        )


async def _read(body: bytes) -> list[Relayed]:
    """In slices, between which others have their turn."""
    events: list[Relayed] = []
    for part in bodies.slices(body):
        try:
            events += _decode(part)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            fact = f"line {len(events) + 1} or one after it is not [sequence, tenant, cost, price_ref, event] ({error})"
            raise BodyInvalid(f"{fact}; nothing of the body was taken: send it corrected") from error
        if len(events) > bodies.EVENTS_MAX:
            raise bodies.too_many()
        await asyncio.sleep(0)
    return events


def _producer(headers: Mapping[str, str], events: Sequence[Relayed]) -> str:
    producer = headers.get("adjourn-producer", "")
    if not producer or len(producer) > 128 or not producer.isprintable():
        raise BodyInvalid("a relay needs Adjourn-Producer, 1 to 128 printable characters", path="adjourn-producer")
    if events[0].sequence < 1 or any(one.sequence >= two.sequence for one, two in pairwise(events)):
        raise BodyInvalid("the sequences of a relay's events must rise, from 1; send them in order")
    return producer


def _by_tenant(key: Key, events: Sequence[Relayed]) -> dict[str, list[int]]:
    """Places, in order. Raises Forbidden if one of the tenants is not the key's to write for."""
    places: dict[str, list[int]] = {}
    for place, event in enumerate(events):
        places.setdefault(event.tenant, []).append(place)
    for tenant in places:
        if not is_tenant(tenant):
            raise BodyInvalid(f"{tenant[:150]!r} cannot be a tenant's name; send the events of others without it")
        if tenant != key.tenant and key.role != "relay" and key is not ANONYMOUS:
            raise Forbidden(
                f"key {key.id} is of tenant {key.tenant}, and an event of tenant {tenant}; to relay for every tenant, "
                "make a key in the database itself with: adjourn keys create --role relay"
            )
    return places
