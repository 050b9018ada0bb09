"""What became of a stretch of the log at one destination, and its trace in the database. Pure, but for the last part,
which runs inside a transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from adjourn.database import Tx
from adjourn.delivery import fates, held, records
from adjourn.delivery.channel import Channel
from adjourn.delivery.conservation import consumer_of
from adjourn.delivery.fates import Fate
from adjourn.delivery.held import Held, Parked, State
from adjourn.delivery.records import Record
from adjourn.delivery.retry import backoff_ms
from adjourn.delivery.route import Routed
from adjourn.destination import BEHIND, Refusal
from adjourn.events import StoredEvent, decode_identity
from adjourn.log import Log, Slice

TRANSFORM_FAILED = "transform_failed"
SET_ASIDE = "set_aside"

_KINDS: dict[Fate, str] = {"d": "delivered", "f": "filtered", "s": "sampled_out", "x": "dead_lettered", "l": "lost"}


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of one partition, [first_offset, next_offset), that a destination is done with."""

    partition: int
    first_offset: int
    next_offset: int
    delivered: Sequence[StoredEvent]
    held: Sequence[Held]
    counts: dict[str, int]
    records: Sequence[Record]


class Superseded(Exception):
    """What was to be settled has been settled already, by a write whose outcome was not known; or the log does not have
    it any more, since the database lost its last commits."""


class Sent(msgspec.Struct, frozen=True):
    """How a batch ended: what was refused; or, if `set_aside` says why, all of it waits to be tried event by event."""

    attempts: int
    refused: Sequence[Refusal]
    began_ms: int
    set_aside: str = ""


def settlement(
    channel: Channel, partition: int, cursor: int, piece: Slice, routed: Routed, sent: Sent, *, now_ms: int, draw: float
) -> Settlement:
    """What became of a piece of the log that begins at `cursor`. What is missing between the two was deleted."""
    judged: dict[int, Refusal] = {refusal.index: refusal for refusal in sent.refused}
    if sent.set_aside:
        aside = [Refusal(i, SET_ASIDE, sent.set_aside, permanent=False) for i in range(len(routed.wanted))]
        judged = {refusal.index: refusal for refusal in aside}
    delivered: list[StoredEvent] = []
    kept = [_held(channel, event, "x", TRANSFORM_FAILED, why, 1, now_ms, 0) for event, why in routed.failed]
    kept += [_held(channel, event, "p", BEHIND, "", 0, now_ms, 0) for event in routed.behind]
    letters = list(routed.fates)
    places = [place for place, fate in enumerate(letters) if fate == "d"]
    for index, (place, event) in enumerate(zip(places, routed.wanted, strict=True)):
        refusal = judged.get(index)
        if refusal is None:
            delivered.append(event)
            continue
        counted = 0 if refusal.code in (BEHIND, SET_ASIDE) else 1
        fate: Fate = "x" if refusal.permanent or (counted and channel.attempts <= 1) else "p"
        wait_ms = delay_ms(channel, counted, draw) if counted else 0
        kept.append(_held(channel, event, fate, refusal.code, refusal.reason, counted, now_ms, wait_ms))
        letters[place] = fate
    fate_at: dict[int, Fate] = {event.offset: letter for event, letter in zip(piece.events, letters, strict=True)}
    for lost in piece.lost:
        fate_at.update(dict.fromkeys(range(lost.first_offset, lost.first_offset + lost.count), "l"))
    tally = Counter(fate_at.values())
    counts = {kind: tally[letter] for letter, kind in _KINDS.items() if tally[letter]}
    return Settlement(
        partition=partition,
        first_offset=cursor,
        next_offset=piece.next_offset,
        delivered=delivered,
        held=kept,
        counts={**counts, "expired": piece.next_offset - cursor - tally.total()},
        records=_records(channel.name, partition, fate_at, sent, now_ms),
    )


def merged(settlements: Sequence[Settlement]) -> Settlement:
    """One for all of these stretches, which follow one another."""
    if len(settlements) == 1:
        return settlements[0]
    counts: Counter[str] = Counter()
    found: list[Record] = []
    for one in settlements:
        counts.update(one.counts)
        for record in one.records:
            both = records.joined(found[-1] if found else None, record)
            found[-1:] = [both] if both is not None else [*found[-1:], record]
    return Settlement(
        partition=settlements[0].partition,
        first_offset=settlements[0].first_offset,
        next_offset=settlements[-1].next_offset,
        delivered=[event for one in settlements for event in one.delivered],
        held=[row for one in settlements for row in one.held],
        counts=dict(counts),
        records=found,
    )


def retried(channel: Channel, one: Held, refusal: Refusal | None, *, now_ms: int, draw: float) -> Held | Fate:
    """A parked event after one more attempt: delivered if it was taken; else parked for longer, or dead."""
    if refusal is None:
        return "d"
    attempts = one.attempts + 1
    dead = refusal.permanent or attempts >= channel.attempts
    return msgspec.structs.replace(
        one,
        state="dead" if dead else "parked",
        code=refusal.code,
        reason=refusal.reason,
        attempts=attempts,
        held_ms=now_ms if dead else one.held_ms,
        next_ms=0 if dead else now_ms + delay_ms(channel, attempts, draw),
    )


def due(one: Parked, channel: Channel, now_ms: int) -> bool:
    """Whether a parked event may be tried again. A time that is farther off than any delay was written by a clock that
    has been set back since."""
    return not now_ms < one.next_ms <= now_ms + channel.delay_ms_max


def delay_ms(channel: Channel, attempt: int, draw: float) -> int:
    return backoff_ms(attempt, first_ms=channel.delay_ms, max_ms=channel.delay_ms_max, draw=draw)


def settle(tx: Tx, log: Log, name: str, settlement: Settlement, last: Record | None) -> None:
    """Everything at once: what is held, the counts, the records, and the cursor. Where retention has moved the cursor
    meanwhile (`drop_after_ms`), what it counted as expired here is not. Raises Superseded."""
    moved_to = _moved_to(tx, name, settlement)
    held.hold(tx, settlement.held)
    for record in settlement.records:
        records.write(tx, last, record)
        last = None
    passed = min(moved_to, settlement.next_offset) - settlement.first_offset
    counts = {**settlement.counts, "expired": settlement.counts.get("expired", 0) - passed}
    following = max(moved_to, settlement.next_offset)
    log.advance(tx, consumer_of(name), settlement.partition, following, counts)


def _moved_to(tx: Tx, name: str, settlement: Settlement) -> int:
    """Where the cursor is: at the beginning of the stretch, or farther, but no farther than retention has deleted. It
    must not pass the head: what is appended there later would be skipped."""
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE OF c"  # retention moves it, maybe on another node
    rows = tx.rows(
        "SELECT c.next_offset, h.tail_offset, h.next_offset FROM cursors c "
        f"JOIN log_heads h ON h.partition = c.partition WHERE c.consumer = ? AND c.partition = ?{lock}",
        (consumer_of(name), settlement.partition),
    )
    if not rows:
        return settlement.first_offset
    cursor, tail, head = [int(value or 0) for value in rows[0]]
    if settlement.next_offset > head:
        raise Superseded(f"the log ends at {head}: what '{name}' was sent up to {settlement.next_offset} is lost")
    if cursor == settlement.first_offset:
        return cursor
    if not settlement.first_offset < cursor <= tail:
        raise Superseded(f"the cursor of '{name}' is at {cursor} and not at {settlement.first_offset} any more")
    return cursor


def settle_retried(tx: Tx, before: Sequence[Held], after: Sequence[Held | Fate], began_ms: int, now_ms: int) -> None:
    """Parked events after an attempt, in the order of the log: as they are held now, or what became of them."""
    for one, then in zip(before, after, strict=True):
        done = held.release(tx, one) if isinstance(then, str) else held.tried(tx, one, then)
        if not done or (not isinstance(then, str) and then.state == "parked"):
            continue
        fate: Fate = then if isinstance(then, str) else "x"
        held.count(tx, one, {_KINDS[fate]: 1})
        attempts = one.attempts_total + (fate != "f")
        records.write(
            tx,
            None,
            Record(
                one.destination, one.partition, one.offset, one.offset + 1, attempts, began_ms, now_ms, fate.encode()
            ),
        )


def _records(name: str, partition: int, fate_at: dict[int, Fate], sent: Sent, now_ms: int) -> list[Record]:
    if not fate_at:
        return []
    first, last = min(fate_at), max(fate_at)
    letters = "".join([fate_at.get(offset, "l") for offset in range(first, last + 1)])
    return [Record(name, partition, first, last + 1, sent.attempts, sent.began_ms, now_ms, fates.packed(letters))]


def _held(
    channel: Channel, event: StoredEvent, fate: Fate, code: str, reason: str, attempts: int, now_ms: int, wait_ms: int
) -> Held:
    identity = decode_identity(event.body)
    state: State = "dead" if fate == "x" else "parked"
    return Held(
        destination=channel.name,
        partition=event.partition,
        offset=event.offset,
        state=state,
        tenant=event.tenant,
        session_id=identity.session.session_id,
        event_id=identity.event_id,
        received_ms=event.received_ms,
        cost_nanousd=event.cost_nanousd,
        price_ref=event.price_ref,
        code=code,
        reason=reason or "an earlier event of its session is being tried again",
        attempts=attempts,
        held_ms=now_ms,
        next_ms=0 if state == "dead" else now_ms + wait_ms,
        body=event.body,
    )
