"""CloudEvents 1.0, in the three ways in which HTTP carries them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.completion.validate import Problem
from adjourn.errors import BodyInvalid
from adjourn.http import bodies, cloudevents

DATA = {"session": {"session_id": "s1"}, "cost": 1}
CE = {"specversion": "1.0", "id": "7", "source": "/bots/a", "type": "session.completed", "data": DATA}
HEADERS = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/bots/a", "ce-type": "session.completed"}


def encoded(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in {**CE, **changes}.items() if v is not ...}).encode()


def test_the_three_modes_give_the_same_event() -> None:
    """Structured, batch and binary carry one event, identified by source and id."""
    wanted = {**DATA, "event_id": "/bots/a#7"}
    single = bodies.split(encoded(), "application/cloudevents+json; charset=utf-8", {}).raws
    batch = bodies.split(b"[" + encoded() + b"]", "application/cloudevents-batch+json", {}).raws
    data = json.dumps(DATA).encode()
    for kind in ("application/json", "", "application/vnd.own+json", "text/plain"):
        assert json.loads(bodies.split(data, kind, HEADERS).raws[0]) == wanted
    assert [json.loads(raw) for raw in single + batch] == [wanted, wanted]
    packed = encoded(data=..., data_base64=base64.b64encode(data).decode())
    assert json.loads(bodies.split(packed, "application/cloudevents+json", {}).raws[0]) == wanted


def test_an_event_keeps_its_own_id() -> None:
    """The envelope's id is only for data that names none."""
    own = json.dumps({**DATA, "event_id": "mine"}).encode()
    assert cloudevents.from_binary(own, HEADERS) == own
    none = json.dumps({**DATA, "event_id": None}).encode()
    assert json.loads(_event(cloudevents.from_binary(none, HEADERS)))["event_id"] == "/bots/a#7"


def test_an_amendment_is_one_by_its_envelope_too() -> None:
    """`type: session.amended` is not lost where the data does not repeat it; what the data says wins."""
    amendment = {**DATA, "event_id": "mine", "amends": "evt_1"}
    structured = cloudevents.from_structured(encoded(type="session.amended", data=amendment), 0)
    binary = cloudevents.from_binary(json.dumps(amendment).encode(), {**HEADERS, "ce-type": "session.amended"})
    wanted = {**amendment, "event_type": "session.amended"}
    assert [json.loads(_event(found)) for found in (structured, binary)] == [wanted, wanted]
    completed = {**DATA, "event_id": "mine", "event_type": "session.completed"}
    found = cloudevents.from_structured(encoded(type="session.amended", data=completed), 0)
    assert json.loads(_event(found)) == completed
    named = cloudevents.from_structured(encoded(type="com.example.ended", data=completed), 0)
    assert json.loads(_event(named)) == completed


def test_what_no_sender_may_send_is_not_taken_for_a_completion() -> None:
    """`type: session.status_changed` on the envelope alone is the type of the event, which is refused for it."""
    structured = cloudevents.from_structured(encoded(type="session.status_changed"), 0)
    binary = cloudevents.from_binary(json.dumps(DATA).encode(), {**HEADERS, "ce-type": "session.status_changed"})
    for found in (structured, binary):
        assert json.loads(_event(found))["event_type"] == "session.status_changed"


def test_long_ids_stay_different() -> None:
    """Two sources that differ only behind the longest id that is taken are still two events."""
    ids = {
        json.loads(_event(cloudevents.from_structured(encoded(source="x" * 300, id=end), 0)))["event_id"]
        for end in ("1", "2")
    }
    assert len(ids) == 2
    assert max(map(len, ids)) <= cloudevents.EVENT_ID_MAX


def test_headers_are_percent_decoded() -> None:
    """What a header cannot hold is the same event as in structured mode."""
    headers = {**HEADERS, "ce-source": "/b%C3%B6t", "ce-id": "a%20b"}
    assert json.loads(_event(cloudevents.from_binary(b"{}", headers)))["event_id"] == "/böt#a b"


@pytest.mark.parametrize(
    ("item", "path", "code"),
    [
        (encoded(id=...), "id", "field_missing"),
        (encoded(id=7), "id", "type_invalid"),
        (encoded(id=""), "id", "value_invalid"),
        (encoded(source=""), "source", "value_invalid"),
        (encoded(specversion="0.3"), "specversion", "value_invalid"),
        (encoded(data=...), "data", "field_missing"),
        (encoded(data=..., data_base64="!!"), "data_base64", "value_invalid"),
        (json.dumps(DATA).encode(), "specversion", "field_missing"),
        (b"17", "", "type_invalid"),
        (b"{", "", "json_malformed"),
    ],
)
def test_what_is_no_cloud_event_is_refused_alone(item: bytes, path: str, code: str) -> None:
    """A bad item of a batch has its place, path and remedy, is kept whole, and sinks nobody else."""
    problem = cloudevents.from_structured(item, 0)
    assert isinstance(problem, Problem)
    assert (problem.path, problem.raw) == (path, item)
    assert problem.code in (code, "type_invalid")
    assert problem.remedy
    if code != "json_malformed":
        found = bodies.split(
            b"[" + b",".join([encoded(), item, encoded(id="8")]) + b"]", "application/cloudevents-batch+json", {}
        )
        assert len(found.raws) == 2
        assert [refused.index for refused in found.refused] == [1]


@pytest.mark.parametrize("name", ["ce-id", "ce-source", "ce-type"])
def test_a_binary_event_needs_its_headers(name: str) -> None:
    """The refusal names the header that is missing."""
    with pytest.raises(BodyInvalid, match=name) as refused:
        cloudevents.from_binary(b"{}", {k: v for k, v in HEADERS.items() if k != name})
    assert refused.value.path == name
    with pytest.raises(BodyInvalid, match=r"0\.3"):
        cloudevents.from_binary(b"{}", {**HEADERS, "ce-specversion": "0.3"})
    with pytest.raises(BodyInvalid, match="empty"):
        cloudevents.from_binary(b"", HEADERS)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_an_event_or_a_problem(item: bytes) -> None:
    """Nothing is raised on what an envelope contains."""
    assert isinstance(cloudevents.from_structured(item, 3), bytes | Problem)
    assert isinstance(cloudevents.from_binary(item or b" ", HEADERS), bytes)


def _event(found: bytes | Problem) -> bytes:
    assert isinstance(found, bytes)
    return found
