"""From settings to channels: each enabled destination has one, and what did not change keeps its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adjourn.channels import at_once, channel_of, channels_of, destination_of
from adjourn.destinations.analytics import AnalyticsDestination
from adjourn.destinations.database import DatabaseDestination
from adjourn.destinations.logfile import LogfileDestination
from adjourn.destinations.upstream import UpstreamDestination
from adjourn.destinations.webhook import WebhookDestination
from adjourn.errors import ConfigInvalid
from adjourn.settings import DestinationSettings, RoutingSettings, ServerSettings, Settings

URL = "https://receiver.example/in"
OF_TYPE: dict[str, tuple[type[object], dict[str, Any]]] = {
    "database": (DatabaseDestination, {"connection_string": "sqlite:///out.db"}),
    "logfile": (LogfileDestination, {"log_path": "out.jsonl"}),
    "webhook": (WebhookDestination, {"url": URL}),
    "analytics": (AnalyticsDestination, {"url": URL}),
    "upstream": (UpstreamDestination, {"url": URL}),
}


def settings(*destinations: DestinationSettings, public_url: str = "", **routing: Any) -> Settings:
    return Settings(
        routing=RoutingSettings(destinations=destinations, **routing), server=ServerSettings(public_url=public_url)
    )


def of_type(kind: Any, **more: Any) -> DestinationSettings:
    return DestinationSettings(type=kind, **(OF_TYPE[kind][1] | more))


ALL = [of_type(kind) for kind in OF_TYPE]


@pytest.mark.parametrize("kind", OF_TYPE)
def test_a_type_is_delivered_by_its_own_destination(kind: str) -> None:
    """Under its name, and with nothing opened yet."""
    made = channel_of(settings(), of_type(kind, name="mine"))
    assert (made.name, made.type) == ("mine", kind)
    assert type(made.destination) is OF_TYPE[kind][0]


def test_each_destination_that_is_enabled_has_a_channel() -> None:
    """In the order of the settings; one that is not is not delivered to."""
    off = of_type("logfile", name="off", log_path="off.jsonl", enabled=False)
    assert [channel.name for channel in channels_of(settings(*ALL[:2], off, *ALL[2:]), {}, str)] == list(OF_TYPE)


def test_what_a_destination_says_goes_before_what_all_have_in_common() -> None:
    """Of attempts and delays; sampling is its own."""
    common = settings(retry_attempts=7, retry_delay_ms=70, retry_delay_ms_max=700)
    plain, own = (
        channel_of(common, of_type("logfile", **more))
        for more in ({}, {"retry_attempts": 2, "retry_delay_ms": 20, "sampling_rate": 0.5})
    )
    assert (plain.attempts, plain.delay_ms, plain.delay_ms_max, plain.sampling_rate) == (7, 70, 700, 1.0)
    assert (own.attempts, own.delay_ms, own.delay_ms_max, own.sampling_rate) == (2, 20, 700, 0.5)


@pytest.mark.parametrize(
    ("destination", "events"),
    [
        (of_type("database"), 2000),
        (of_type("logfile", batch_size=10), 10),
        (of_type("upstream"), 2000),
        (of_type("analytics", concurrency=3, batch_size=50), 150),
        (of_type("webhook", concurrency=3), 12),
        (of_type("webhook", concurrency=3, batch_size=50), 600),
    ],
)
def test_requests_that_go_side_by_side_are_handed_events_together(
    destination: DestinationSettings, events: int
) -> None:
    """One batch where a destination takes one after the other; as many as keep all requests busy where not."""
    assert at_once(RoutingSettings(), destination) == events
    assert channel_of(settings(), destination).batch_size == events


def test_a_reload_leaves_what_did_not_change_alone() -> None:
    """It keeps its channel, and so its connections; what was changed, added or enabled is made anew."""
    old = settings(*ALL, of_type("logfile", name="later", log_path="b", enabled=False))
    before = channels_of(old, {}, str)
    changed = msgspec.structs.replace(ALL[2], headers={"x-team": "a"})
    new = settings(
        ALL[4], changed, ALL[0], of_type("logfile", name="later", log_path="b"), of_type("webhook", name="n")
    )
    after = {channel.name: channel for channel in channels_of(new, {}, str, (old, before))}
    assert list(after) == ["upstream", "webhook", "database", "later", "n"]
    held = {channel.name: channel for channel in before}
    assert after["upstream"] is held["upstream"]
    assert after["database"] is held["database"]
    assert after["webhook"] is not held["webhook"]


@pytest.mark.parametrize("common", [{"retry_attempts": 9}, {"public_url": "https://adjourn.example"}])
def test_what_all_have_in_common_changes_all(common: Mapping[str, Any]) -> None:
    """Each channel was made with it."""
    old = settings(*ALL)
    before = channels_of(old, {}, str)
    after = channels_of(settings(*ALL, **common), {}, str, (old, before))
    assert not {id(channel) for channel in before} & {id(channel) for channel in after}


def test_a_filter_that_cannot_be_read_names_its_destination() -> None:
    """Among several, whoever configures them must know which."""
    with pytest.raises(ConfigInvalid, match="destination 'mine'") as refused:
        channel_of(settings(), of_type("logfile", name="mine", filter="event.usage ==="))
    assert refused.value.path == "routing.destinations"


def test_a_callable_is_found_by_its_name() -> None:
    """Those that the program gave, and no others."""

    def shape(event: dict[str, object]) -> dict[str, object]:
        return event

    one = of_type("logfile", transform="shape")
    assert channel_of(settings(), one, {"shape": shape}).shapes is not None
    with pytest.raises(ConfigInvalid, match="shape"):
        channel_of(settings(), one)


def test_destinations_without_a_network_cost_no_network_library(tmp_path: Path) -> None:
    """A server that writes a table and a file loads no HTTP client."""
    program = """
import sys
from adjourn.channels import channels_of
from adjourn.settings import DestinationSettings as D, RoutingSettings, Settings
table, file = D(type="database", connection_string="sqlite:///a.db"), D(type="logfile", log_path="a.jsonl")
assert len(channels_of(Settings(routing=RoutingSettings(destinations=(table, file))), {}, str)) == 2
sys.exit("aiohttp is loaded" if "aiohttp" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_upstream_is_told_who_we_are_when_it_sends() -> None:
    """What the database is known by is asked late: it is not open yet when channels are made."""
    asked: list[str] = []

    def installation() -> str:
        asked.append("now")
        return "ins_1"

    destination_of(settings(), of_type("upstream"), installation)
    assert asked == []
