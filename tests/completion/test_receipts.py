"""Receipts, on a desk alone; tests/test_runtime.py asks those of a runtime."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.completion.receipts import KEPT_MAX, Receipt, ReceiptDesk, Settled
from adjourn.completion.validate import Context, prepare
from adjourn.errors import Unavailable
from adjourn.prices import PriceTable

PRICES = PriceTable()


def receipt(desk: ReceiptDesk, sequence: int, body: bytes = b"{}", producer: str = "p") -> Receipt:
    return Receipt(producer, sequence, body, desk)


def accept(desk: ReceiptDesk, sequences: Sequence[int], producer: str = "p") -> None:
    desk.settle(producer, sequences, [Settled("accepted", f"evt_{sequence}") for sequence in sequences])


def status(desk: ReceiptDesk, sequence: int, producer: str = "p") -> str:
    return receipt(desk, sequence, producer=producer).result(0).status


def test_whoever_asks_early_or_late_hears_the_same() -> None:
    """A receipt that waits and one that asks afterwards get the outcome of their own event, with id and message."""
    desk = ReceiptDesk("acme")
    told = [Settled("accepted", "evt_1"), Settled("invalid", None, "wrong"), Settled("conflict", "evt_3", "taken")]
    bodies = [b'{"event_id":"evt_1","session":{"session_id":"s"}}', b"{}", b"{}"]
    receipts = [receipt(desk, n + 1, body) for n, body in enumerate(bodies)]
    waiting = [desk.future(each) for each in receipts]
    with pytest.raises(TimeoutError):
        receipts[0].result(0)
    desk.settle("p", [1, 2, 3], told)
    assert [future.result(0) for future in waiting] == told
    assert [each.result(0) for each in receipts] == told


def test_producers_are_told_apart() -> None:
    """What is settled of one stream says nothing about another's event of the same number."""
    desk = ReceiptDesk()
    accept(desk, [1, 2], producer="a")
    assert status(desk, 2, "a") == "accepted"
    with pytest.raises(TimeoutError):
        status(desk, 2, "b")
    desk.settle("b", [1, 2], [Settled("duplicate"), Settled("invalid")])
    assert (status(desk, 2, "a"), status(desk, 2, "b")) == ("accepted", "invalid")


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["accepted", "duplicate", "invalid"])), min_size=1))
def test_what_is_missing_among_the_settled_was_dropped(steps: list[tuple[int, str]]) -> None:
    """Whatever the gaps and the batches, each number up to the last is told its outcome, or that it was dropped,
    whether it was asked before or after."""
    desk = ReceiptDesk("acme")
    outcomes: dict[int, Settled] = {}
    last = 0
    for step, word in steps:
        last += step
        outcomes[last] = Settled(word)
    early = {number: desk.future(receipt(desk, number)) for number in range(1, last + 1, 2)}
    numbers = list(outcomes)
    for start in range(0, len(numbers), 3):
        batch = numbers[start : start + 3]
        desk.settle("p", batch, [outcomes[number] for number in batch])
    for number in range(1, last + 1):
        expected = outcomes[number].status if number in outcomes else "dropped"
        assert status(desk, number) == expected
        if number in early:
            assert early[number].result(0).status == expected


def test_a_gap_of_any_length_is_remembered_whole() -> None:
    """Of 100,000 events that were dropped at once none is told that it was accepted."""
    desk = ReceiptDesk()
    first = desk.future(receipt(desk, 1))
    accept(desk, [100_001])
    assert first.result(0).status == "dropped"
    assert {status(desk, number) for number in range(1, 100_001, 997)} == {"dropped"}
    assert status(desk, 100_001) == "accepted"


def test_what_is_no_longer_remembered_is_not_passed_off_as_accepted() -> None:
    """After KEPT_MAX further refusals or gaps an old one is forgotten, and its receipt says so; newer ones are not."""
    desk = ReceiptDesk()
    numbers = range(1, KEPT_MAX + 101)
    desk.settle("p", numbers, [Settled("invalid")] * len(numbers))
    assert (status(desk, 100), status(desk, 101)) == ("forgotten", "invalid")
    accept(desk, [KEPT_MAX + 101])
    assert status(desk, KEPT_MAX + 101) == "accepted"
    gaps = ReceiptDesk()
    accept(gaps, range(2, 2 * KEPT_MAX + 22, 2))
    assert (status(gaps, 19), status(gaps, 21)) == ("forgotten", "dropped")
    assert status(gaps, 2 * KEPT_MAX) == "accepted"


def test_answers_that_do_not_fit_their_events_settle_nothing() -> None:
    """A receiver that gives one answer too few is in error: nobody is told anything of that batch."""
    desk = ReceiptDesk()
    with pytest.raises(ValueError, match="shorter"):
        desk.settle("p", [1, 2], [Settled("accepted")])
    with pytest.raises(TimeoutError):
        status(desk, 1)
    accept(desk, [1, 2])
    assert status(desk, 1) == "accepted"


def test_a_closed_desk_tells_what_it_knows_and_raises_for_the_rest() -> None:
    """Those that wait, and those that ask later, hear Unavailable; what was settled before stays told."""
    desk = ReceiptDesk()
    accept(desk, [1])
    waiting = desk.future(receipt(desk, 2))
    desk.close()
    for ask in (lambda: waiting.result(0), lambda: status(desk, 2)):
        with pytest.raises(Unavailable, match="still in the spool"):
            ask()
    assert status(desk, 1) == "accepted"


def test_giving_up_waiting_disturbs_nobody() -> None:
    """A cancelled waiter, in asyncio too, does not keep others of the same event, or later ones, from being told."""
    desk = ReceiptDesk()
    future = desk.future(receipt(desk, 1))
    other = desk.future(receipt(desk, 1))
    assert future.cancel()

    async def main() -> None:
        gone = asyncio.ensure_future(receipt(desk, 2).durable())
        await asyncio.sleep(0)
        gone.cancel()
        stays = asyncio.ensure_future(receipt(desk, 2).durable())
        await asyncio.sleep(0)
        threading.Thread(target=accept, args=(desk, [1, 2])).start()
        assert (await asyncio.wait_for(stays, 10)).event_id == "evt_2"
        assert gone.cancelled()

    asyncio.run(main())
    assert other.result(0).event_id == "evt_1"
    with pytest.raises(CancelledError):
        future.result(0)


def test_threads_that_ask_while_events_are_settled_all_hear(rng: random.Random) -> None:
    """Eight threads race a settling one over 4,000 events; each question is answered, and rightly."""
    desk = ReceiptDesk()
    count = 4_000
    wrong: list[tuple[int, str]] = []

    def right(number: int) -> str:
        return "invalid" if number % 7 == 0 else "accepted"

    def ask(numbers: list[int]) -> None:
        for number in numbers:
            said = receipt(desk, number).result(20).status
            if said != right(number):
                wrong.append((number, said))

    askers = [
        threading.Thread(target=ask, args=(sorted(rng.sample(range(1, count + 1), 1_000)),), daemon=True)
        for _ in range(8)
    ]
    for asker in askers:
        asker.start()
    for start in range(1, count + 1, 50):
        batch = range(start, start + 50)
        desk.settle("p", batch, [Settled(right(number)) for number in batch])
    for asker in askers:
        asker.join(30)
    assert not any(asker.is_alive() for asker in askers)
    assert wrong == []


@pytest.mark.parametrize(
    "event",
    [
        {"event_id": "mine", "session": {"session_id": "s"}},
        {"session": {"session_id": "s"}},
        {"session": {"session_id": "s", "attempt": 3}},
        {"event_id": None, "session": {"session_id": "s:1 ü"}},
        {"event_type": "session.amended", "amends": "evt_1", "session": {"session_id": "s"}},
        {"event_type": "session.amended", "amends": "evt_1", "session": {"session_id": "s", "attempt": 2}},
    ],
)
def test_the_id_of_a_receipt_is_the_one_in_the_log(event: dict[str, Any]) -> None:
    """A receipt knows the id that ingest gives its event, whether that has its own or gets one."""
    body = msgspec.json.encode(event)
    ctx = Context(tenant="acme", now_ms=1_766_313_045_123, secret=b"s" * 32, prices=PRICES)
    (record,) = prepare([body], ctx).records
    assert receipt(ReceiptDesk("acme"), 1, body).event_id == record.event_id
    other = receipt(ReceiptDesk("other"), 1, body).event_id
    assert (other == record.event_id) is (event.get("event_id") is not None)


def test_where_the_id_cannot_be_known_there_is_none() -> None:
    """An event without an id that goes to a server, and one that is none by the schema, have no id here."""
    nameless = b'{"session":{"session_id":"s"}}'
    assert receipt(ReceiptDesk(None), 1, nameless).event_id is None
    assert receipt(ReceiptDesk(None), 1, b'{"event_id":"e","session":{"session_id":"s"}}').event_id == "e"
    for wrong in (b"{}", b'{"session":{"session_id":1}}', b"[" * 10_000, b'{"session":', b"\xff"):
        assert receipt(ReceiptDesk("acme"), 1, wrong).event_id is None
    desk = ReceiptDesk(None)
    asked = receipt(desk, 1, nameless)
    waiting = desk.future(asked)
    desk.settle("p", [1], [Settled("accepted", "evt_of_the_server")])
    assert waiting.result(0).event_id == "evt_of_the_server"


def test_a_receipt_does_not_show_its_event() -> None:
    """What somebody said in a session does not come into a log by way of its receipt."""
    assert "secret" not in repr(receipt(ReceiptDesk(), 1, b'{"outcome":{"final_message":"secret"}}'))
