"""The conservation judge: after any amount of trouble, is every event in exactly one place per destination?

    problems = await judge(node, {"hook": Arrivals(receiver.acknowledged, ordered=True), …}, captured=acknowledged)
    assert problems == []

`Arrivals` is what lies beyond a destination: the ids of the events that it acknowledged, in the order in which it did,
repeats included; `captured` are the ids of those that Adjourn acknowledged. Call it when nothing is pending any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from adjourn.delivery.whereabouts import Place, Whereabouts, whereabouts
from adjourn.events import StoredEvent, decode_identity
from adjourn.node import Node
from adjourn.testing.account import compare

READ_EVENTS = 5_000
SHOWN = 5

_KINDS: dict[Place, str] = {
    "delivered": "delivered",
    "filtered": "filtered",
    "sampled_out": "sampled_out",
    "dead_lettered": "dead_lettered",
    "discarded": "discarded",
    "expired": "expired",
    "lost": "lost",
    "pending": "pending",
    "retrying": "pending",
}


class Arrivals(msgspec.Struct, frozen=True):
    """`ordered`: the order of the ids is that of their arrival; a table has none."""

    event_ids: Sequence[str]
    ordered: bool = True
    repeats: bool = True
    """Whether at-least-once may show here: an event that arrived twice, under one id."""
    refuses: Callable[[str], bool] | None = None
    """Whether it refuses an event, whenever it comes. None other may be a dead letter: an outage is no event's."""


async def judge(node: Node, beyond: Mapping[str, Arrivals], captured: Iterable[str] = ()) -> list[str]:
    """What is wrong, in words; empty when all is well."""
    logged = await _events(node)
    events = dict(logged)
    account = compare(captured, (event_id for event_id, _ in logged))
    places: dict[str, dict[str, Whereabouts]] = {}
    for event_id, event in events.items():
        for found in await node.database.read(whereabouts, event.partition, event.offset):
            places.setdefault(found.destination, {})[event_id] = found
    problems = [
        _said("captured, and not in the log", set(account.missing)),
        _said("in the log twice", set(account.doubled)),
    ]
    problems += await _accounts(node, places)
    for name, arrivals in beyond.items():
        problems += [f"{name}: {text}" for text in _beyond(events, places.get(name, {}), arrivals)]
    return [text for text in problems if text]


async def _events(node: Node) -> list[tuple[str, StoredEvent]]:
    found: list[tuple[str, StoredEvent]] = []
    for partition, head in enumerate(await node.log.heads()):
        offset = 0
        while offset < head:
            part = await node.log.read(partition, offset, count=READ_EVENTS)
            found += [(decode_identity(event.body).event_id, event) for event in part.events]
            if part.next_offset == offset:
                break
            offset = part.next_offset
    return found


async def _accounts(node: Node, places: Mapping[str, Mapping[str, Whereabouts]]) -> list[str]:
    problems: list[str] = []
    for balance in await node.delivery.balances():
        name = balance.destination
        if balance.difference:
            problems.append(f"{name}: captured is not the sum of the places: {balance}")
        if balance.pending:
            problems.append(f"{name}: {balance.pending} events are pending; judge when nothing is")
        counted = Counter(_KINDS.get(found.place, found.place) for found in places.get(name, {}).values())
        for kind in sorted({*_KINDS.values()}):
            if counted[kind] != getattr(balance, kind):
                problems.append(f"{name}: {counted[kind]} events are {kind}, the balance says {getattr(balance, kind)}")
    return problems


def _beyond(events: Mapping[str, StoredEvent], places: Mapping[str, Whereabouts], arrivals: Arrivals) -> list[str]:
    there = Counter(arrivals.event_ids)
    delivered = {event_id for event_id, found in places.items() if found.place == "delivered"}
    problems = [
        _said("delivered, and never arrived", delivered - there.keys()),
        _said("arrived, and not counted as delivered", there.keys() - delivered),
        "" if arrivals.repeats else _said("arrived twice", {one for one, count in there.items() if count > 1}),
    ]
    if arrivals.refuses is not None:
        dead = {event_id for event_id, found in places.items() if found.place == "dead_lettered"}
        innocent = {event_id for event_id in dead if not arrivals.refuses(event_id)}
        problems.append(_said("dead letters, and would have been taken", innocent))
    if arrivals.ordered:
        problems.append(_said("overtaken by a later event of their session", _overtaken(events, arrivals.event_ids)))
    return [text for text in problems if text]


def _overtaken(events: Mapping[str, StoredEvent], event_ids: Sequence[str]) -> set[str]:
    """By first arrivals."""
    last: dict[tuple[str, str], int] = {}
    late: set[str] = set()
    for event_id in dict.fromkeys(event_ids):
        event = events.get(event_id)
        if event is None:
            continue
        session = event.tenant, decode_identity(event.body).session.session_id
        if event.offset < last.get(session, -1):
            late.add(event_id)
        last[session] = max(event.offset, last.get(session, -1))
    return late


def _said(what: str, event_ids: set[str]) -> str:
    if not event_ids:
        return ""
    shown = sorted(event_ids)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return f"{len(shown)} {what}: {', '.join(shown[:SHOWN])}{more}"
