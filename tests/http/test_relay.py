"""The door of other Adjourns, on a running server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import zstandard
from tests.http.serving import Serving, event, is_problem

from adjourn.testing.exercise_destination import change_of_status

LINES = "application/x-ndjson"


def relay(
    server: Serving,
    lines: Sequence[Sequence[Any]],
    *,
    who: str = "acme/relay",
    producer: str = "edge/up/0",
    **more: Any,
) -> httpx.Response:
    """Each line's event is bytes."""
    body = b"\n".join(json.dumps(line[:-1])[:-1].encode() + b"," + line[-1] + b"]" for line in lines)
    headers = {"content-type": LINES, "content-encoding": "zstd", "adjourn-producer": producer}
    return server.request(
        "POST", "/v1/relay", who=who, headers=headers, content=zstandard.ZstdCompressor().compress(body)
    )


def test_each_tenant_s_events_are_its_own(any_server: Serving) -> None:
    """One request of events of several tenants: each is found by its own tenant alone, with the price that it came
    with; sent again, it is known."""
    lines = [
        (1, "acme", 1_500, "sent", event("relayed")),
        (2, "other", None, "", event("relayed")),
        (3, "third", 0, "sent", event("relayed_3")),
    ]
    assert relay(any_server, lines).json() == {"accepted": 3, "duplicate": 0, "refused": []}
    assert relay(any_server, lines).json() == {"accepted": 0, "duplicate": 3, "refused": []}
    assert any_server.get("/v1/events/relayed").json()["cost_usd"] == "0.0000015"
    assert any_server.get("/v1/events/relayed", who="other/admin").json()["cost_usd"] is None
    assert is_problem(any_server.get("/v1/events/relayed_3"), 404, "not_found")


def test_only_a_relay_s_key_writes_for_other_tenants(server: Serving) -> None:
    """A writer relays for its own tenant; for another, nothing of the request is taken. A reader relays nothing, a
    relay's key does nothing else, and no tenant's admin can make one."""
    mine, theirs = (1, "acme", None, "", event("mine")), (2, "other", None, "", event("theirs"))
    for who in ("acme/writer", "acme/admin", "acme/operator"):
        assert is_problem(relay(server, [mine, theirs], who=who), 403, "forbidden")
    assert server.get("/v1/events/mine").status_code == 404
    assert relay(server, [mine], who="acme/writer").json()["accepted"] == 1
    assert is_problem(relay(server, [mine], who="acme/reader"), 403, "forbidden")
    assert is_problem(server.post(event(), who="acme/relay"), 403, "forbidden")
    assert is_problem(server.request("POST", "/v1/keys", json={"role": "relay"}), 403, "forbidden")


def test_what_is_refused_is_named_by_its_place(server: Serving) -> None:
    """The answer tells of each event that was not taken, and the others are."""
    lines = [
        (1, "acme", None, "", event("ok_1")),
        (2, "other", None, "", b'{"session":{}}'),
        (5, "acme", None, "", event("ok_5")),
        (6, "acme", None, "", b'{"event_id":"ok_1","session":{"session_id":"another"}}'),
    ]
    answer = relay(server, lines, producer="refusing").json()
    assert answer["accepted"] == 2
    assert [(one["index"], one["result"]["code"]) for one in answer["refused"]] == [
        (1, "field_missing"),
        (3, "event_conflict"),
    ]
    assert all(one["result"]["quarantine_id"] for one in answer["refused"])


def test_a_body_that_is_no_relay_is_refused_whole(server: Serving) -> None:
    """Lines of another form, numbers that do not rise, no producer, no tenant's name: 400, and nothing is taken. A body
    without events only tells whether the key is good."""
    good = (1, "acme", None, "", event("whole"))
    for lines in (
        [good, (1, "acme", None, "", event())],
        [(0, "acme", None, "", event())],
        [good, (2, "no tenant", None, "", event())],
        [good, (2, "acme", "1", "", event())],
        [good, (2, "acme", 2**63, "", event())],
        [good, (2, "acme", None, event())],
        [good, (2, "acme", None, "", b"{")],
    ):
        assert is_problem(relay(server, lines), 400, "body_invalid"), lines
    assert is_problem(relay(server, [good], producer=""), 400, "body_invalid")
    assert is_problem(relay(server, [good], producer="p" * 129), 400, "body_invalid")
    assert server.get("/v1/events/whole").status_code == 404
    assert relay(server, []).json() == {"accepted": 0, "duplicate": 0, "refused": []}
    refused = server.request("POST", "/v1/relay", content=b"[]", headers={"content-type": "application/json"})
    assert is_problem(refused, 415, "media_type_unsupported")
    assert server.get("/v1/relay").status_code == 405


def test_changes_of_status_come_from_another_adjourn_alone(any_server: Serving) -> None:
    """Relayed, one is in the log, without a price, and is looked up like any event. Whoever sends it as an event, alone
    or among others, plain or as a CloudEvent, is told why not and what to do; the others are taken."""
    own = change_of_status(7, session_id="hosted").body
    assert relay(any_server, [(1, "acme", None, "", own)], producer="own/up/0").json()["accepted"] == 1
    found = any_server.get("/v1/events/evt_7").json()
    assert found["event"] == json.loads(own)
    assert (found["cost_usd"], found["price_ref"]) == (None, "")
    told = any_server.post(b"\n".join([own, event("beside_it")])).json()
    assert (told["accepted"], told["invalid"]) == (1, 1)
    cloud = {"specversion": "1.0", "id": "1", "source": "/a", "type": "session.status_changed"}
    data = {"session": {"session_id": "hosted"}}
    sent = json.dumps({**cloud, "data": data}).encode()
    for answer in (
        told,
        any_server.post(own, "application/json").json(),
        any_server.post(own, "application/json", who="acme/writer").json(),
        any_server.post(sent, "application/cloudevents+json").json(),
    ):
        refused = answer["results"][0]
        assert (refused["status"], refused["code"], refused["path"]) == ("invalid", "event_type_reserved", "event_type")
        assert "Adjourn itself writes" in refused["message"]
        assert "send session.completed" in refused["remedy"]
