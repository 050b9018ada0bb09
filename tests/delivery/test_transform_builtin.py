"""The built-in transforms: each has its golden output, in tests/delivery/golden, which docs/reference repeats."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.delivery.events import EVENT, MINIMAL, stored
from tests.documented import REFERENCE

from adjourn.delivery.transform import shaping_of
from adjourn.delivery.transform_builtin import BUILTINS
from adjourn.errors import ShapingFailed
from adjourn.events import StatusChanged, decode_completion, decode_event
from adjourn.testing.exercise_destination import change_of_status

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", BUILTINS)
def test_the_output_is_the_golden_one(name: str) -> None:
    """The form of a named transform never changes: another form gets another name."""
    assert json.loads(BUILTINS[name].make(stored())) == json.loads((GOLDEN / f"{name}.json").read_text())


def test_the_reference_shows_the_golden_outputs() -> None:
    """docs/reference/transforms.md documents each by the very output that the tests hold it to."""
    page = (REFERENCE / "transforms.md").read_text()
    for name in BUILTINS:
        assert f"## `{name}`" in page
        assert (GOLDEN / f"{name}.json").read_text().strip() in page, name


@pytest.mark.parametrize("name", BUILTINS)
def test_what_comes_out_is_a_completion(name: str) -> None:
    """Identity is whole, and the schema holds, also where next to nothing was sent."""
    for event in (stored(), MINIMAL):
        completion = decode_completion(BUILTINS[name].make(event))
        sent = event.completion()
        assert (completion.event_id, completion.session.session_id) == (sent.event_id, sent.session.session_id)


@pytest.mark.parametrize("name", ["billing_v1", "analytics_v2"])
def test_no_text_and_no_address_leaves(name: str) -> None:
    """Neither what was said, nor where from, nor a field that the schema does not know."""
    event = EVENT | {"prompt": "secret text"}
    body = BUILTINS[name].make(stored(event)).decode()
    for text in ("refund", "192.168", "secret text"):
        assert text not in body


def test_numbers_keep_their_digits() -> None:
    """What is passed on is copied as it was sent; an amount is decimal text."""
    sent = json.dumps(EVENT).replace("0.0428", "0.04280").replace('"support"', "1.500")
    body = BUILTINS["billing_v1"].make(stored(sent.encode())).decode()
    assert '"estimated_cost_usd":"0.04280"' in body
    assert "1.500" in body


def test_an_amendment_says_what_it_amends() -> None:
    """Whoever sums up can tell it from a completion."""
    amendment = EVENT | {"event_type": "session.amended", "amends": "evt_0", "event_id": "evt_2"}
    for name in BUILTINS:
        shaped = json.loads(BUILTINS[name].make(stored(amendment)))
        assert (shaped["event_type"], shaped["amends"]) == ("session.amended", "evt_0"), name


def test_audit_proves_the_body() -> None:
    """Taking the object `audit` out gives back what was sent, byte for byte, and the digest is of that."""
    body = json.dumps(EVENT, indent=1).encode() + b"\n"
    shaped = BUILTINS["audit_v1"].make(stored(body))
    head, _, audit = shaped.rpartition(b',"audit":')
    assert head + b"}" == body.strip()
    assert json.loads(audit[:-1])["body_sha256"] == hashlib.sha256(body).hexdigest()


def test_a_sender_s_own_audit_is_kept_apart() -> None:
    """A field of that name, however it is spelled, cannot pass for Adjourn's."""
    for key in ('"audit"', '"\\u0061udit"'):
        body = b'{%b:{"tenant":"forged"},"event_id":"e","session":{"session_id":"s"}}' % key.encode()
        shaped = BUILTINS["audit_v1"].make(stored(body))
        assert shaped.count(b"audit") == 1
        assert json.loads(shaped)["audit"]["tenant"] == "acme"
        assert json.loads(shaped)["audit"]["sent"] == {"tenant": "forged"}


def test_duration_and_total_are_computed_where_they_can_be() -> None:
    """analytics_v2 counts what was not sent but follows from what was; what does not follow is null."""
    session = {
        "session_id": "s",
        "start_time": "2025-01-01T00:00:00+02:00",
        "end_time": "2025-01-01T00:00:01.500+02:00",
    }
    event = {"event_id": "e", "session": session, "usage": {"input_tokens": 3, "output_tokens": 4}}
    analytics = json.loads(BUILTINS["analytics_v2"].make(stored(event)))["analytics"]
    assert (analytics["duration_ms"], analytics["total_tokens"]) == (1500, 7)
    assert (analytics["date"], analytics["hour"]) == ("2024-12-31", 22)
    empty = json.loads(BUILTINS["analytics_v2"].make(MINIMAL))["analytics"]
    assert (empty["duration_ms"], empty["total_tokens"], empty["succeeded"], empty["cost_usd"]) == (None,) * 4


@pytest.mark.parametrize("name", BUILTINS)
def test_what_is_no_event_fails_alone(name: str) -> None:
    """A body that cannot be read is a failure of that event, never an exception of another kind."""
    if name == "audit_v1":
        return  # copies bodies without reading them
    with pytest.raises(ShapingFailed):
        BUILTINS[name].make(stored(b'{"event_id":3}'))


@pytest.mark.parametrize("name", ["billing_v1", "analytics_v2"])
def test_a_change_of_status_is_no_session(name: str) -> None:
    """What bills and counts sessions has nothing of it: whoever sums its output counts each session once."""
    assert BUILTINS[name].make(change_of_status(1)) is None
    shaping = shaping_of(filter="", transform=name)
    assert shaping is not None
    assert shaping.shape(change_of_status(1)) is None
    assert shaping.shape(stored()) is not None


def test_an_audit_has_changes_of_status_too() -> None:
    """Whole, with their place."""
    body = BUILTINS["audit_v1"].make(change_of_status(7))
    assert body is not None
    audited = decode_event(body)
    assert isinstance(audited, StatusChanged)
    assert (audited.from_status, audited.to_status, json.loads(body)["audit"]["offset"]) == ("idle", "active", 7)
