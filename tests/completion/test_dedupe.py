"""The rules of identity and content."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjourn.completion.dedupe import DedupeBy, identity, judge, same_content
from adjourn.completion.validate import Context, prepare
from adjourn.events import Record, StoredEvent, decode_completion
from adjourn.prices import PriceTable

PRICES = PriceTable()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def record(fields: dict[str, Any], *, tenant: str = "acme", dedupe_by: DedupeBy = "event") -> Record:
    ctx = Context(tenant=tenant, now_ms=1_700_000_000_000, secret=b"s" * 32, prices=PRICES, dedupe_by=dedupe_by)
    return prepare([json.dumps(fields).encode()], ctx).records[0]


def stored(record: Record) -> StoredEvent:
    return StoredEvent(0, 1, record.tenant, record.body, record.received_ms, record.cost_nanousd, record.price_ref)


def reordered(value: Any) -> Any:
    """The same JSON value with every object's keys in reverse."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("event_type", "dedupe_by", "expected"),
    [
        ("session.completed", "event", "e:evt_1"),
        ("session.amended", "event", "e:evt_1"),
        ("session.completed", "session", "s:sess_1"),
        ("session.amended", "session", "e:evt_1"),
    ],
)
def test_identity_is_the_event_or_the_session(event_type: str, dedupe_by: DedupeBy, expected: str) -> None:
    """By session a completion is its session's only one; amendments are told apart by their own ids."""
    fields = {"event_type": event_type, "event_id": "evt_1", "amends": "evt_0", "session": {"session_id": "sess_1"}}
    assert identity(decode_completion(json.dumps(fields).encode()), dedupe_by) == expected


def test_a_claim_is_never_what_is_trusted() -> None:
    """By session, too: whoever reads a page can name any session, and takes no trusted completion's place by that."""
    session = {"session": {"session_id": "beacon_s"}}
    claim = record({**session, "event_id": "beacon_e", "metadata": {"source": "beacon"}}, dedupe_by="session")
    trusted = record(session, dedupe_by="session")
    assert claim.dedupe_hash != trusted.dedupe_hash
    assert judge(trusted, stored(claim)) == "accepted"
    assert (
        judge(claim, stored(record({**session, "metadata": {"source": "beacon"}}, dedupe_by="session"))) != "accepted"
    )


@settings(max_examples=200)
@given(json_values)
def test_spacing_and_the_order_of_keys_do_not_make_another_event(value: Any) -> None:
    """However a JSON value is written, it is the same content."""
    assert same_content(json.dumps(value).encode(), json.dumps(reordered(value), indent=1, ensure_ascii=False).encode())


@settings(max_examples=200)
@given(json_values, json_values)
def test_content_is_the_same_exactly_where_the_values_are(a: Any, b: Any) -> None:
    """Two values written differently are the same content if and only if their canonical forms agree."""

    def canonical(value: Any) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(Fraction(json.dumps(value)))
        if isinstance(value, dict):
            parts = (f"{json.dumps(k)}:{canonical(value[k])}" for k in sorted(value) if k != "event_id")
            return f"{{{','.join(parts)}}}"
        return f"[{','.join(map(canonical, value))}]" if isinstance(value, list) else json.dumps(value)

    assert same_content(json.dumps(a).encode(), json.dumps(b).encode()) == (canonical(a) == canonical(b))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (b'{"x":1}', b'{"x":1.0}', True),
        (b'{"x":1}', b'{"x":true}', False),
        (b'{"x":1}', b'{"x":"1"}', False),
        (b'{"x":null}', b"{}", False),
        (b'{"x":0.1}', b'{"x":0.10000000000000000001}', False),
        (b'{"x":9007199254740993}', b'{"x":9007199254740992}', False),
        (b'{"x":' + b"9" * 5000 + b"}", b'{ "x":' + b"9" * 5000 + b"}", True),
        (b'{"x":1e99999999999999999999}', b'{"x": 1e99999999999999999999}', True),
        (b'{"x":1e99999999999999999999}', b'{"x":"1e99999999999999999999"}', False),
        (b'{"x":1e999999}', b'{"x":5}', False),
        (b'{"x":[1,2]}', b'{"x":[2,1]}', False),
        (b'{"x":"\\u00e9"}', '{"x":"é"}'.encode(), True),
        (b'{"event_id":"evt_1","x":1}', b'{"x":1}', True),
        (b'{"event_id":"evt_1","x":1}', b'{"event_id":null,"x":1}', True),
        (b'{"event_id":"evt_1","x":1}', b'{"event_id":"evt_2","x":1}', False),
        (b'{"event_id":"evt_1","x":{"event_id":"a"}}', b'{"x":{}}', False),
        (b"not json", b"not json", True),
        (b"not json", b"not  json", False),
        (b"[" * 100_000, b"[" * 100_001, False),
    ],
)
def test_what_counts_as_the_same_content(a: bytes, b: bytes, same: bool) -> None:
    """Numbers count exactly, types count, an event_id counts only where both have one; nothing raises."""
    assert same_content(a, b) is same
    assert same_content(b, a) is same


def test_a_retry_is_a_duplicate_and_a_change_is_a_conflict() -> None:
    """The same event again is a duplicate however it is written; with one other number it is a conflict."""
    fields = {"event_id": "evt_1", "session": {"session_id": "sess_1"}, "usage": {"input_tokens": 7}}
    first = stored(record(fields))
    assert judge(record(reordered(fields)), first) == "duplicate"
    assert judge(record({**fields, "usage": {"input_tokens": 8}}), first) == "conflict"


def test_a_blind_retry_without_an_id_is_a_duplicate() -> None:
    """An event that never had an id is judged the same as its retry, and as the copy that was stored with an id."""
    fields = {"session": {"session_id": "sess_1", "attempt": 2}}
    first = record(fields)
    assert judge(record(fields), stored(first)) == "duplicate"
    assert judge(record(json.loads(first.body)), stored(first)) == "duplicate"


def test_by_session_a_second_completion_is_a_conflict_unless_it_amends() -> None:
    """By session, another completion of the session is a conflict; an amendment is accepted."""
    first = record({"event_id": "evt_1", "session": {"session_id": "sess_1"}}, dedupe_by="session")
    second = record({"event_id": "evt_2", "session": {"session_id": "sess_1"}}, dedupe_by="session")
    amendment = record(
        {
            "event_type": "session.amended",
            "event_id": "evt_3",
            "amends": "evt_1",
            "session": {"session_id": "sess_1"},
        },
        dedupe_by="session",
    )
    assert first.dedupe_hash == second.dedupe_hash != b""
    assert judge(second, stored(first)) == "conflict"
    assert amendment.dedupe_hash == b""
    assert judge(amendment, stored(first)) == "accepted"


def test_a_collision_of_hashes_loses_no_event() -> None:
    """Events of other ids or other tenants are accepted even if their hashes were equal."""
    fields = {"event_id": "evt_1", "session": {"session_id": "sess_1"}}
    first = stored(record(fields))
    assert judge(record({**fields, "event_id": "evt_2"}), first) == "accepted"
    assert judge(record(fields, tenant="other"), first) == "accepted"
