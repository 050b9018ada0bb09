"""What filters and transforms see of an event."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.delivery.events import EVENT, MINIMAL, stored

from adjourn.delivery.transform_view import ROOTS, SECTIONS, View, amount_text, tamed, usd_text
from adjourn.errors import ShapingFailed
from adjourn.prices import nanousd_of
from adjourn.testing.exercise_destination import change_of_status


def test_only_what_is_asked_for_is_made() -> None:
    """An expression pays for the names that it uses."""
    assert set(View(stored()).bindings(["usage", "adjourn"])) == {"usage", "adjourn"}
    assert set(View(MINIMAL).bindings(ROOTS)) == set(ROOTS)


def test_every_field_of_the_schema_is_there() -> None:
    """What was not sent is null, what was sent is as it was, and unknown fields stay."""
    for section, empty in SECTIONS.items():
        seen = View(stored(EVENT | {"user": {"nickname": "a"}})).bindings([section])[section]
        assert isinstance(seen, dict)
        assert seen.keys() >= empty.keys()
    assert View(stored(EVENT | {"user": {"nickname": "a"}})).bindings(["user"])["user"] == {
        "nickname": "a", "user_id": None, "organization_id": None, "tier": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"0.0428", "0.0428"),
        (b"4.28e-2", "0.0428"),
        (b'"0.10"', "0.10"),
        (b"12", "12"),
        (b"1E3", "1000"),
        (b"0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        (b"1e-999999", "1E-999999"),
    ],
)
def test_an_amount_keeps_its_digits(raw: bytes, text: str) -> None:
    """Numbers in any notation are decimal text, exactly; an absurd exponent does not become a megabyte."""
    assert amount_text(raw) == text


@given(st.integers(-(10**20), 10**20))
def test_nano_usd_as_text_and_back(nanousd: int) -> None:
    """Nine places, always, and nothing is lost."""
    from decimal import Decimal

    text = usd_text(nanousd)
    assert len(text.partition(".")[2]) == 9
    assert nanousd_of(Decimal(text)) == nanousd


def test_what_the_language_lacks_is_tamed() -> None:
    """Large numbers become text, half surrogate pairs question marks, in keys too; all else stays."""
    wild = {"a": [2**63, -(2**63), 1.5, True, None], "\ud800": "x\udfff"}
    assert tamed(wild) == {"a": [str(2**63), -(2**63), 1.5, True, None], "?": "x?"}


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff", b"[" * 5000])
def test_what_is_no_object_fails_as_an_event(body: bytes) -> None:
    """A damaged body is a failure of that event."""
    with pytest.raises(ShapingFailed):
        View(msgspec.structs.replace(stored(), body=body)).sent  # noqa: B018 - reading it decodes


def test_a_change_of_status_is_seen_with_what_it_says() -> None:
    """`from`, `to` and `reason` are names of their own, null of a completion; what is a completion's is all null."""
    seen = View(change_of_status(1)).bindings(ROOTS)
    assert [seen[name] for name in ("event_type", "from", "to", "reason")] == [
        "session.status_changed", "idle", "active", "message"
    ]  # fmt: skip
    assert seen["usage"] == SECTIONS["usage"]
    assert [View(MINIMAL).bindings(ROOTS)[name] for name in ("from", "to", "reason")] == [None] * 3
