"""What a program says of a session: from any thread, and exactly."""

from __future__ import annotations

import asyncio
import signal
import threading
from decimal import Decimal
from types import FrameType

import pytest

from adjourn.account import Account, outcome_of
from adjourn.errors import EventInvalid
from adjourn.events import OutcomePart, UsagePart


class Said(Account):
    """Shows what was said."""

    @property
    def usage(self) -> UsagePart:
        return self._usage

    @property
    def tags(self) -> dict[str, bytes]:
        return {name: bytes(tag) for name, tag in self._tags.items()}

    @property
    def outcome(self) -> OutcomePart:
        return self._outcome


def said() -> Said:
    return Said(model=None, custom_tags=None)


def test_usage_adds_up_and_what_nobody_said_stays_unsaid() -> None:
    """Zero is said where a number was added to it; the total is of input and output; the last model stays."""
    it = said()
    assert it.usage == UsagePart()
    it.add_usage(input_tokens=10, output_tokens=5, model="a", cost_usd=Decimal("0.10"))
    it.add_usage(input_tokens=1, tool_calls=2, cost_usd=Decimal("0.2"))
    it.add_usage(tool_calls=0, cache_read_input_tokens=7, model="b")
    assert it.usage == UsagePart(
        input_tokens=11,
        output_tokens=5,
        total_tokens=16,
        model="b",
        estimated_cost_usd=Decimal("0.30"),
        tool_calls=2,
        cache_read_input_tokens=7,
    )


def test_threads_lose_nothing_and_readers_see_whole_additions() -> None:
    """Eight threads add at once, while another reads: all that it sees fits together, and the end is exact."""
    it = said()
    stop = threading.Event()
    torn: list[UsagePart] = []

    def read() -> None:
        while not stop.is_set():
            usage = it.usage
            if usage.total_tokens and not usage.input_tokens == usage.output_tokens == usage.tool_calls:
                torn.append(usage)

    def add() -> None:
        for _ in range(2000):
            it.add_usage(input_tokens=1, output_tokens=1, tool_calls=1)

    reader, adders = threading.Thread(target=read), [threading.Thread(target=add) for _ in range(8)]
    reader.start()
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    stop.set()
    reader.join()
    assert torn == []
    assert it.usage == UsagePart(input_tokens=16_000, output_tokens=16_000, total_tokens=32_000, tool_calls=16_000)


def test_a_signal_in_the_middle_of_an_addition_may_add_too() -> None:
    """What its handler adds to the same session is not overwritten by the addition that it interrupted."""
    it = said()
    handled: list[int] = []

    def handle(signum: int, _: FrameType | None) -> None:
        handled.append(signum)
        it.add_usage(input_tokens=100)

    class Interrupting(int):
        def __radd__(self, other: int) -> int:
            if not handled:
                signal.raise_signal(signal.SIGUSR1)
            return other + int(self)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        it.add_usage(input_tokens=Interrupting(7))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (it.usage.input_tokens, len(handled)) == (107, 1)


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("-Infinity"), {"deep": [Decimal("sNaN")]}], ids=repr)
def test_a_decimal_that_is_no_number_is_refused_as_a_tag(value: object) -> None:
    """JSON has no word for it: in the completion it would make the whole unreadable."""
    it = said()
    with pytest.raises(EventInvalid, match="'price'"):
        it.tag(price=value)
    it.tag(text="NaN, Infinity")
    assert it.tags == {"text": b'"NaN, Infinity"'}


def test_tags_are_kept_as_they_were_when_they_were_put_on() -> None:
    """Decimals are numbers with their digits, as costs are; what JSON cannot express is refused by name."""
    it = Said(model=None, custom_tags={"price": Decimal("0.10"), "self": 1})
    names = ["a"]
    it.tag(names=names)
    names.append("b")
    with pytest.raises(EventInvalid, match="'wrong'"):
        it.tag(wrong=object())
    assert it.tags == {"price": b"0.10", "self": b"1", "names": b'["a"]'}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeoutError(), OutcomePart(status="timeout", error_code="TimeoutError")),
        (asyncio.CancelledError(), OutcomePart(status="user_terminated", error_code="CancelledError")),
        (KeyboardInterrupt(), OutcomePart(status="user_terminated", error_code="KeyboardInterrupt")),
        (GeneratorExit(), OutcomePart(status="user_terminated", error_code="GeneratorExit")),
        (SystemExit(), OutcomePart(status="success")),
        (SystemExit(0), OutcomePart(status="success")),
        (SystemExit(3), OutcomePart(status="error", error_code="SystemExit")),
        (ValueError("secret"), OutcomePart(status="error", error_code="ValueError")),
    ],
    ids=repr,
)
def test_how_a_session_was_left_is_its_outcome(error: BaseException, outcome: OutcomePart) -> None:
    """By the type of the error, and never with its text."""
    assert outcome_of(error) == outcome


def test_what_is_said_of_its_end_stands() -> None:
    """`end_as` says it."""
    it = said()
    it.end_as("timeout", error_code="max_turns", final_message="bye")
    assert it.outcome == OutcomePart(status="timeout", error_code="max_turns", final_message="bye")
