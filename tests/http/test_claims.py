"""What a browser claims: marked, kept apart, and never priced, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.completion.validate import Context, prepare
from adjourn.errors import BodyInvalid, EventInvalid, Forbidden
from adjourn.http.claims import claim, fields_of, key_of
from adjourn.prices import PriceTable

EVENT = {"event_id": "e", "session": {"session_id": "s"}}


def claimed(event: dict[str, Any]) -> dict[str, Any]:
    return json.loads(claim(fields_of(json.dumps(event).encode())))


def test_a_claim_is_marked_and_stands_beside_what_is_trusted() -> None:
    """Ids of event and session get a prefix of their own, the source is set, and cost and address are taken out; all
    else, unknown fields included, stays."""
    event = claimed(
        {
            "event_id": "evt_1",
            "session": {"session_id": "sess_1", "duration_ms": 5, "x": 1},
            "usage": {"model": "gpt-4o", "input_tokens": 3, "estimated_cost_usd": 9.5},
            "metadata": {"source": "billing", "source_ip": "10.0.0.1", "custom_tags": {"a": [1]}},
            "extra": {"deep": [None]},
        }
    )
    assert event == {
        "event_id": "beacon_evt_1",
        "session": {"session_id": "beacon_sess_1", "duration_ms": 5, "x": 1},
        "usage": {"model": "gpt-4o", "input_tokens": 3},
        "metadata": {"source": "beacon", "custom_tags": {"a": [1]}},
        "extra": {"deep": [None]},
    }
    for metadata in ({}, {"metadata": None}):
        assert claimed({**EVENT, **metadata})["metadata"] == {"source": "beacon"}


def test_a_claim_amends_nothing_and_has_an_id() -> None:
    """A correction is refused, and so is an event that a repetition could not be recognised by."""
    for kind in ("session.amended", "session.begun", ""):
        with pytest.raises(Forbidden, match=r"session\.completed and nothing else"):
            claimed({**EVENT, "event_type": kind})
    for event in ({"session": {"session_id": "s"}}, {**EVENT, "event_id": ""}, {**EVENT, "event_id": 7}):
        with pytest.raises(EventInvalid):
            claimed(event)
    for body in (b"", b"[]", b"1", b"{", b"\xff", b'{"a":' + b"[" * 30_000):
        with pytest.raises(BodyInvalid):
            fields_of(body)


def test_what_is_repeated_or_misshapen_gets_past_no_mark() -> None:
    """Of a key that stands twice one is kept, and it is marked; what has the wrong type is left for the schema to
    refuse, never taken as it is."""
    twice = b'{"event_id":"a","event_id":"b","session":{"session_id":"x","session_id":"y"},"metadata":{},"metadata":{}}'
    event = json.loads(claim(fields_of(twice)))
    assert event["event_id"] == "beacon_b"
    assert event["session"] == {"session_id": "beacon_y"}
    for wrong in (
        {"session": "s"},
        {"session": {"session_id": 7}},
        {"metadata": "m"},
        {"usage": [1]},
        {"session": None},
    ):
        ((name, value),) = wrong.items()
        assert claimed({**EVENT, **wrong})[name] == value


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2000) | st.text(max_size=5) | st.sampled_from(["gpt-4o", "beacon"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_PART = _ANY | st.dictionaries(
    st.sampled_from(["session_id", "model", "input_tokens", "output_tokens", "estimated_cost_usd", "source", "x"]),
    _ANY,
    max_size=6,
)
_FIELDS = ("event_id", "event_type", "session", "usage", "metadata", "user", "outcome", "amends", "x")


@given(st.dictionaries(st.sampled_from(_FIELDS), _PART), st.booleans())
def test_nothing_is_accepted_unmarked(event: dict[str, Any], complete: bool) -> None:
    """Whatever is sent: what the schema takes has both prefixes and the mark, and no cost."""
    body = json.dumps({**event, **EVENT} if complete else event).encode()
    try:
        claimed_body = claim(fields_of(body))
    except (Forbidden, EventInvalid):
        return
    context = Context(tenant="t", now_ms=1_700_000_000_000, secret=b"s" * 16, prices=PriceTable())
    for record in prepare([claimed_body], context).records:
        assert record.event_id.startswith("beacon_")
        assert record.session_id.startswith("beacon_")
        assert (record.cost_nanousd, record.price_ref) == (None, "")
        assert json.loads(record.body)["metadata"]["source"] == "beacon"


def test_an_id_of_a_claim_is_nobody_else_s() -> None:
    """Who is trusted cannot use an id that a page could have claimed first, and is told; a claim that comes on from
    another Adjourn, marked as it is, is taken, and so is an amendment of a claim."""
    context = Context(tenant="t", now_ms=1_700_000_000_000, secret=b"s" * 16, prices=PriceTable())
    trusted = {"event_id": "beacon_e", "session": {"session_id": "s"}}
    (problem,) = prepare([json.dumps(trusted).encode()], context).problems
    assert (problem.code, problem.path) == ("id_reserved", "event_id")
    assert "another form" in problem.remedy
    relayed = claim(fields_of(json.dumps(EVENT).encode()))
    amended = {
        "event_type": "session.amended",
        "event_id": "evt_2",
        "amends": "beacon_e",
        "session": {"session_id": "beacon_s"},
    }
    assert len(prepare([relayed, json.dumps(amended).encode()], context).records) == 2


def test_the_key_is_in_the_body_or_in_the_query() -> None:
    """That of the body counts, and does not stay in the event."""
    fields = fields_of(b'{"key":"adj_a","event_id":"e"}')
    assert key_of(fields, b"key=adj_b") == "adj_a"
    assert list(fields) == ["event_id"]
    assert key_of({}, b"x=1&key=adj_b") == "adj_b"
    assert key_of({}, b"") == key_of({"key": msgspec.Raw(b"7")}, b"") == ""
