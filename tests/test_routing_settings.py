"""The rules between the settings of destinations over HTTP that have a key."""

from __future__ import annotations

from typing import Any

import pytest

from adjourn.errors import ConfigInvalid
from tests.faults.rigs import settings_of

URL = "https://there.example"


def refused(**destination: Any) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        settings_of({"routing": {"destinations": [{"url": URL, **destination}]}})
    return caught.value.message


def test_a_key_that_cannot_work_is_refused_and_not_shown() -> None:
    """A key with a space, one that has no effect, a missing one, and one beside another are refused with the remedy."""
    message = refused(type="upstream", key="hidden key")
    assert "give it as it is" in message
    assert "hidden" not in message
    assert "give the project's API key" in refused(type="analytics", format="posthog")
    assert "in headers" in refused(type="analytics", format="otlp", key="k")
    both = {"key": "k", "headers": {"authorization": "Bearer x"}}
    assert "remove one of them" in refused(type="analytics", **both)
    assert "remove one of them" in refused(type="upstream", **both)
    assert "make the type 'analytics'" in refused(type="webhook", key="k")
    assert "Adjourn itself sets" in refused(type="upstream", headers={"Adjourn-Producer": "p"})


def test_an_upstream_has_no_settings_that_have_no_effect() -> None:
    """It sends one request after the other, always packed, and always whole: settings of that are refused."""
    for setting in ({"concurrency": 2}, {"compression": "gzip"}, {"payload_bytes_max": 1}, {"format": "otlp"}):
        assert "has no effect on a destination of type 'upstream'" in refused(type="upstream", **setting)


def test_what_makes_sense_is_taken() -> None:
    """Each form with what it needs; a key beside headers where they do not meet."""
    destinations = [
        {"name": "a", "type": "analytics", "url": URL, "headers": {"Authorization": "Bearer x"}},
        {"name": "b", "type": "analytics", "url": URL, "format": "posthog", "key": "phc_1", "headers": {"X-Team": "a"}},
        {"name": "c", "type": "analytics", "url": URL, "format": "otlp", "headers": {"Authorization": "Bearer x"}},
        {"name": "d", "type": "upstream", "url": URL, "key": "adj_1"},
        {"name": "e", "type": "upstream", "url": URL},
    ]
    routing = settings_of({"routing": {"destinations": destinations}}).routing
    assert [routing.batch_size_of(one) for one in routing.destinations] == [250, 250, 250, 2000, 2000]
    assert [routing.timeout_ms_of(one) for one in routing.destinations] == [15_000] * 3 + [60_000] * 2


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (["session.completd"], "events[0] is 'session.completd', which is no type of event; did you mean"),
        (["*", "session.status_change"], "events[1] is 'session.status_change'"),
        (["heartbeat"], "give some of 'session.completed', 'session.amended', 'session.status_changed', '*'"),
        ([], "events is empty, so that nothing would go there; name what is to go there, or set enabled: false"),
    ],
)
def test_types_of_events_that_there_are_not_are_refused(events: list[str], words: str) -> None:
    """With the place in the list, and the one that was meant."""
    assert words in refused(type="upstream", events=events)


def test_a_destination_gets_completions_and_amendments_unless_it_says_more() -> None:
    """What a change of status is to it, whoever configures it must have said."""
    given = [
        {"type": "upstream", "url": URL, "name": "a"},
        {"type": "upstream", "url": URL, "name": "b", "events": ["*"]},
    ]
    routing = settings_of({"routing": {"destinations": given}}).routing
    assert [one.events for one in routing.destinations] == [("session.completed", "session.amended"), ("*",)]
