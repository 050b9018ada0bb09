"""Ids and bodies of webhooks."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.destinations.webhook_bodies import batch_body, item_of, thin, webhook_id
from adjourn.testing.exercise_destination import HOSTILE_TEXTS, Sample

PARTS = st.text(max_size=300)


@given(st.lists(st.tuples(PARTS, PARTS, PARTS), min_size=2, max_size=2, unique=True))
def test_different_events_have_different_ids(parts: list[tuple[str, str, str]]) -> None:
    """Tenant, session and event id make the id: no two events share one, and it fits into a header without a dot."""
    first, second = (webhook_id(*part) for part in parts)
    assert first != second
    for one in (first, second):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", one)


def test_the_id_shows_the_event_and_never_changes() -> None:
    """The event's own id can be read in it; the value is the same for ever, or retries of an older version repeat."""
    assert webhook_id("org_a", "sess_1", "evt_1") == "evt_1-0b4c630a6f890f79942ac4a4"
    assert webhook_id("org_a", "sess_1", "v1.2/x").startswith("evt-")


def test_a_batch_of_other_events_has_another_id() -> None:
    """The id of a batch follows from what is in it: a part of a batch is never taken for the whole."""
    items = [item_of(n, Sample(n).stored(), bytes_max=10**9, public_url="") for n in range(3)]
    whole, body = batch_body(items)
    assert batch_body(items) == (whole, body)
    assert len({whole, batch_body(items[:2])[0], batch_body(items[1:])[0]}) == 3
    assert "." not in whole
    assert [event["event_id"] for event in json.loads(body)["events"]] == ["evt_0", "evt_1", "evt_2"]
    assert json.loads(body)["type"] == "session.batch"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"event_id":1}', b'{"event_id":"a"}', b"\xff", b'{"a":' * 2000])
def test_what_is_no_event_is_refused(body: bytes) -> None:
    """A body that cannot be read is refused as an event, and nothing else is thrown."""
    event = msgspec.structs.replace(Sample(1).stored(), body=body)
    with pytest.raises((ValueError, msgspec.MsgspecError, RecursionError)):
        item_of(0, event, bytes_max=100, public_url="")


def thinned(event: dict[str, Any], bytes_max: int) -> dict[str, Any]:
    whole = json.dumps({**event, "adjourn": {"tenant": "org", "cost_usd": "1.000000000"}}).encode()
    found = thin(whole, bytes_max, "https://a.example/v1/events/evt_1")
    assert len(found) <= max(bytes_max, 600), "what must stay is small"
    return json.loads(found)


EVENT: dict[str, Any] = {
    "event_id": "evt_1",
    "event_type": "session.completed",
    "session": {"session_id": "sess_1", "session_type": "chat"},
    "usage": {"input_tokens": 7},
    "outcome": {"status": "success", "final_message": "m" * 5000},
    "metadata": {"custom_tags": {str(n): "x" * 100 for n in range(50)}},
}


def test_the_largest_fields_go_first() -> None:
    """As few fields as it takes are left out, the largest first, and they are named with where the whole is."""
    found = thinned(EVENT, 6500)
    assert found["adjourn"]["payload"]["left_out"] == ["metadata.custom_tags"]
    assert found["outcome"] == EVENT["outcome"]
    found = thinned(EVENT, 1000)
    assert sorted(found["adjourn"]["payload"]["left_out"]) == ["metadata.custom_tags", "outcome.final_message"]
    assert (found["outcome"], found["usage"]) == ({"status": "success"}, {"input_tokens": 7})
    assert found["adjourn"]["cost_usd"] == "1.000000000"


def test_what_identifies_an_event_stays_in_any_case() -> None:
    """With a limit that nothing fits into, ids and facts are left."""
    found = thinned(EVENT, 1)
    assert (found["event_id"], found["session"]) == ("evt_1", {"session_id": "sess_1"})
    assert found["adjourn"]["payload"]["bytes"] > 5000


def test_a_thousand_fields_do_not_make_a_long_list() -> None:
    """Hostile shapes end up small too: many fields, long names, a sender's own field `adjourn`."""
    many = {**EVENT, **{f"x{n}": n for n in range(5000)}, "y" * 5000: 1}
    assert len(thinned(many, 1000)["adjourn"]["payload"]["left_out"]) <= 20
    event = Sample(1).stored()
    body = event.body[:-1] + b',"adjourn":{"own":"' + b"z" * 9000 + b'"}}'
    item = item_of(0, msgspec.structs.replace(event, body=body), bytes_max=2000, public_url="")
    assert len(item.body) <= 2000
    assert json.loads(item.body)["adjourn"]["payload"]["left_out"] == ["adjourn.sent"]


@pytest.mark.parametrize("text", [text[:2000] for text in HOSTILE_TEXTS])
def test_hostile_texts_are_still_json_when_thin(text: str) -> None:
    """Whatever a field holds, what is left over is one JSON object with the fields as they were."""
    event = {**EVENT, "note": text}
    found = thinned(event, 3500)
    assert found.get("note", text) == text
