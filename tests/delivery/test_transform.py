"""Shaping: filter, transform and what is carried along."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.delivery.events import EVENT, MINIMAL, changed, stored

from adjourn.delivery.transform import BODY_BYTES_MAX, Shaping, TransformCallable, shaping_of
from adjourn.delivery.transform_builtin import BUILTINS
from adjourn.destinations.database_rows import row
from adjourn.destinations.logfile import line
from adjourn.errors import ConfigInvalid, ShapingFailed
from adjourn.events import StoredEvent, decode_identity
from adjourn.runtime import Runtime
from adjourn.testing.account import stored as stored_values


def shaping(transform: str = "", *, filter: str = "", **callables: TransformCallable) -> Shaping:
    made = shaping_of(filter=filter, transform=transform, callables=callables)
    assert made is not None
    return made


def body(made: Shaping, event: StoredEvent | None = None) -> dict[str, Any]:
    shaped = made.shape(event or stored())
    assert shaped is not None
    return json.loads(shaped.body)


def test_nothing_to_do_is_nothing() -> None:
    """Without filter and transform there is no shaping, and nothing to pay for."""
    assert shaping_of(filter="", transform=" ") is None


def test_a_filter_alone_leaves_the_bytes_alone() -> None:
    """What passes a filter is the very event; what does not is None."""
    event = stored()
    assert shaping(filter="usage.total_tokens > 1").shape(event) is event
    assert shaping(filter="usage.total_tokens > 9999").shape(event) is None


def test_a_filter_decides_before_a_transform_runs() -> None:
    """An event that is filtered out cannot fail in the transform."""
    made = shaping("{'a': metadata.custom_tags.none}", filter="usage.model == 'other'")
    assert made.shape(stored()) is None


def test_identity_is_carried_along() -> None:
    """Whatever a transform leaves out, receivers can tell events apart, and an amendment from a completion."""
    assert body(shaping("{'a': 1}")) == {
        "a": 1,
        "event_id": "evt_1a2b3c4d5e6f",
        "event_type": "session.completed",
        "session": {"session_id": "sess_abc123"},
    }
    amendment = stored(
        {"event_type": "session.amended", "event_id": "e2", "amends": "e1", "session": {"session_id": "s"}}
    )
    shaped = body(shaping("{'session': {'kind': 'x'}}"), amendment)
    assert (shaped["event_type"], shaped["amends"]) == ("session.amended", "e1")
    assert shaped["session"] == {"kind": "x", "session_id": "s"}


@pytest.mark.parametrize(
    "source",
    ["{'event_id': 'x'}", "{'session': {'session_id': 'x'}}", "{'session': 's'}", "{'event_type': 'session.amended'}"],
)
def test_identity_cannot_be_changed(source: str) -> None:
    """A transform that would make one event look like another fails on it."""
    with pytest.raises(ShapingFailed, match="session|event_"):
        shaping(source).shape(stored())


def test_money_never_goes_through_floats() -> None:
    """A floating-point amount fails, in depth too; decimal text with every digit of what was sent passes."""
    sent = stored(json.dumps(EVENT).replace("0.0428", "0.04280000000000000001").encode())
    assert body(shaping("{'cost_usd': usage.estimated_cost_usd}"), sent)["cost_usd"] == "0.04280000000000000001"
    for source in ("{'a': [{'cost_usd': 0.1}]}", "{'total_usd': double(adjourn.cost_usd) * 2.0}"):
        with pytest.raises(ShapingFailed, match="floating-point"):
            shaping(source).shape(stored())
    with pytest.raises(ShapingFailed, match="JSON cannot hold"):
        shaping("{'a': 1.0 / 0.0}").shape(stored())
    tiny = stored(b'{"event_id":"e","session":{"session_id":"s"},"usage":{"estimated_cost_usd":1e-999999}}')
    assert body(shaping("{'cost_usd': usage.estimated_cost_usd}"), tiny)["cost_usd"] == "1E-999999"


def test_the_same_event_gives_the_same_bytes() -> None:
    """A batch that is sent again is the same one, in this process and in another: fields are sorted."""
    source = "{" + ", ".join(f"'k{n}': {{'b': {n}, 'a': 1}}" for n in range(40)) + "}"
    first, second = shaping(source).shape(stored()), shaping(source).shape(stored())
    assert first is not None
    assert second is not None
    assert first.body == second.body
    assert list(json.loads(first.body)) == sorted(json.loads(first.body))


def test_the_rest_of_the_event_stays() -> None:
    """Tenant, place, time and cost of a transformed event are the event's own."""
    event = stored()
    shaped = shaping("billing_v1").shape(event)
    assert shaped is not None
    assert msgspec.structs.replace(shaped, body=event.body) == event


def test_a_name_that_is_not_known_is_refused() -> None:
    """A slip in a name is met with the one that was meant; a program may not take a built-in's name."""
    with pytest.raises(ConfigInvalid, match="did you mean 'billing_v1'"):
        shaping("billing_v2")
    with pytest.raises(ConfigInvalid, match="known are billing_v1, analytics_v2, audit_v1, mine"):
        shaping("zzz", mine=dict)
    with pytest.raises(ConfigInvalid, match="give your own another name"):
        shaping("mine", mine=dict, billing_v1=dict)


def test_a_programs_own_transform() -> None:
    """It gets the event as it was sent and Adjourn's facts; None filters; decimals stay exact."""
    seen: list[dict[str, object]] = []

    def mine(event: dict[str, object]) -> Mapping[str, object] | None:
        seen.append(event)
        return {"cost_usd": Decimal("0.10"), "session": {"n": 1}}

    assert body(shaping("mine", mine=mine))["cost_usd"] == "0.10"
    assert seen[0] == {
        **EVENT,
        "usage": EVENT["usage"] | {"estimated_cost_usd": "0.0428"},
        "adjourn": seen[0]["adjourn"],
    }
    assert shaping("no", no=lambda event: None).shape(stored()) is None


def _raises(event: dict[str, object]) -> dict[str, object]:
    raise KeyError("tier")


def _circle(event: dict[str, object]) -> dict[str, object]:
    circle: dict[str, object] = {}
    circle["circle"] = circle
    return circle


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (_raises, "raised KeyError"),
        (_circle, "cannot be written|raised"),
        (lambda event: {"a": object()}, "cannot be written"),
        (lambda event: ["a"], "gave a list"),
        (lambda event: {"a": "x" * BODY_BYTES_MAX}, "is the most"),
    ],
)
def test_a_program_s_transform_that_goes_wrong_fails_its_event_alone(call: Any, words: str) -> None:
    """Whatever it raises or returns, the event fails with a reason, and nothing else happens."""
    with pytest.raises(ShapingFailed, match=words):
        shaping("mine", mine=call).shape(stored())


def test_a_program_s_transform_cannot_spoil_the_event() -> None:
    """What it does to the mapping that it is given reaches no one else."""

    def spoil(event: dict[str, object]) -> dict[str, object]:
        event.clear()
        return {}

    made = shaping("spoil", spoil=spoil)
    assert body(made)["event_id"] == decode_identity(stored().body).event_id


@pytest.mark.parametrize("transform", [*BUILTINS, "{'a': 1}"])
@pytest.mark.parametrize("event", [stored(), MINIMAL, changed(user=None, usage=None)], ids=["whole", "minimal", "some"])
def test_every_destination_can_take_what_comes_out(transform: str, event: StoredEvent) -> None:
    """A transformed event is one line of a log file and one row of a database, under its own id."""
    shaped = shaping(transform).shape(event)
    assert shaped is not None
    assert b"\n" not in line(shaped)[:-1]
    assert row(shaped)[1:3] == row(event)[1:3]


def test_a_runtime_delivers_what_a_program_s_transform_makes(tmp_path: Path) -> None:
    """Filter and registered function hold for a destination of an embedded runtime, and the account is exact."""
    from tests.faults.rigs import settings_of

    settings = settings_of(
        {
            "data_dir": str(tmp_path),
            "routing": {
                "destinations": [
                    {
                        "type": "database",
                        "connection_string": f"sqlite:///{tmp_path}/out.db",
                        "filter": "metadata.custom_tags.keep == true",
                        "transform": "mine",
                    }
                ]
            },
        }
    )
    with Runtime(settings, transforms={"mine": lambda event: {"note": f"of {event['event_id']}"}}) as runtime:
        for number in range(6):
            tags = {"custom_tags": {"keep": number % 2 == 0}}
            runtime.capture({"event_id": f"e{number}", "session": {"session_id": f"s{number}"}, "metadata": tags})
        runtime.drain()
        (balance,) = runtime.call(lambda node: node.delivery.balances())
    rows = stored_values(f"sqlite:///{tmp_path}/out.db", "payload", "session_completions")
    assert sorted(json.loads(value)["note"] for value in rows) == ["of e0", "of e2", "of e4"]
    assert (balance.delivered, balance.difference) == (3, 0)
