"""From settings to channels: each enabled destination has one, and what did not change keeps its own."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adjourn.channels import at_once, channel_of, channels_of, destination_of
from adjourn.delivery.letters import Wanted
from adjourn.delivery.transform import shaping_of
from adjourn.destinations.analytics import AnalyticsDestination
from adjourn.destinations.database import DatabaseDestination
from adjourn.destinations.logfile import LogfileDestination
from adjourn.destinations.upstream import UpstreamDestination
from adjourn.destinations.webhook import WebhookDestination
from adjourn.errors import ConfigInvalid
from adjourn.events import Record
from adjourn.node import Node
from adjourn.settings import DestinationSettings, RoutingSettings, ServerSettings, Settings
from adjourn.testing.account import stored
from tests.databases.rigs import KINDS
from tests.faults.rigs import mapping, raw, settings_of, url_of

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


def changed(node: Node, session_id: str, revision: int) -> Record:
    return node.ingest.status_record(
        "acme", session_id, from_status="active", to_status="idle", reason="why", revision=revision, at_ms=1
    )


async def emit(node: Node, session_id: str, *revisions: int) -> None:
    """Changes of status, as a hosted session's are written."""
    records = [changed(node, session_id, revision) for revision in revisions]
    await node.database.write(lambda tx: tx.append(records), key=session_id)


async def delivered(node: Node) -> dict[str, tuple[int, int]]:
    """By destination, how many were delivered and filtered; all is accounted for."""
    await node.delivery.drained()
    balances = await node.delivery.balances()
    assert [(one.difference, one.pending, one.dead_lettered) for one in balances] == [(0, 0, 0)] * len(balances)
    return {one.destination: (one.delivered, one.filtered) for one in balances}


def types_in(file: Path) -> list[str]:
    return sorted(str(json.loads(line).get("event_type")) for line in file.read_text().splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_each_destination_gets_the_events_that_it_asks_for(tmp_path: Path, kind: str) -> None:
    """One log of completions, an amendment and changes of status: every destination has its own part of it, all is
    accounted for, and no sum of costs or sessions counts a change."""
    out = url_of(kind, tmp_path) if kind == "postgresql" else f"sqlite:///{tmp_path}/out.db"
    table = {"type": "database", "connection_string": out}
    log = {"type": "logfile", "rotate_mb": 1}
    own = ["session.status_changed"]
    destinations = [
        {**table, "name": "plain"},
        {**table, "name": "all", "table": "everything", "events": ["*"]},
        {**log, "name": "own", "log_path": f"{tmp_path}/own", "events": own, "filter": "to == 'idle' && from != null"},
        {**log, "name": "bill", "log_path": f"{tmp_path}/bill", "events": ["*"], "transform": "billing_v1"},
        {**log, "name": "note", "log_path": f"{tmp_path}/note", "events": ["*"], "transform": "{'was': from}"},
    ]

    async def main() -> None:
        settings = settings_of(mapping(tmp_path, url_of(kind, tmp_path), routing={"destinations": destinations}))
        async with Node(settings) as node:
            usage = {"input_tokens": 1, "estimated_cost_usd": 1.5}
            await emit(node, "a", 1, 2)
            raws = [raw("a", event_id="e1", event_type="session.completed", usage=usage), raw("b", event_id="e2")]
            raws.append(raw("a", event_type="session.amended", amends="e1"))
            await node.ingest.take("acme", raws, source="test")
            await emit(node, "b", 1)
            assert await delivered(node) == {
                "plain": (3, 3), "all": (6, 0), "own": (3, 3), "bill": (3, 3), "note": (6, 0)
            }  # fmt: skip

    asyncio.run(main())
    for name in ("session_completions", "everything"):
        assert sorted(stored(out, table=name)) == ["a", "a", "b"]
        assert [cost for cost in stored(out, "cost_nanousd", name) if cost != "None"] == ["1500000000"]
    assert sorted(stored(out, table="everything_status")) == ["a", "a", "b"]
    assert types_in(tmp_path / "own") == own * 3
    assert types_in(tmp_path / "bill") == ["session.amended", "session.completed", "session.completed"]
    assert types_in(tmp_path / "note").count(own[0]) == 3
    assert sorted(str(json.loads(line)["was"]) for line in (tmp_path / "note").read_text().splitlines()) == [
        *["None"] * 3, *["active"] * 3
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_that_is_refused_is_a_dead_letter_and_can_be_redriven(tmp_path: Path, kind: str) -> None:
    """Like any event: refused by the table's rules it is put aside, and redriven it is there once. A destination that
    wants no such events any more filters what is redriven."""
    out = tmp_path / "out.db"
    table = {"type": "database", "connection_string": f"sqlite:///{out}", "events": ["*"]}
    routing = {"destinations": [table], "retry_attempts": 1, "retry_delay_ms": 1, "retry_delay_ms_max": 5}
    mapped = mapping(tmp_path, url_of(kind, tmp_path), routing=routing)

    def execute(sql: str) -> None:
        with closing(sqlite3.connect(out, timeout=20)) as connection, connection:
            connection.execute(sql)

    async def main() -> None:
        async with Node(settings_of(mapped)) as node:
            await emit(node, "a", 1)
            assert await delivered(node) == {"database": (1, 0)}
            execute(
                "CREATE TRIGGER no BEFORE INSERT ON session_completions_status WHEN NEW.session_id = 'bad' "
                "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
            await emit(node, "bad", 1, 2)
            await node.delivery.drained()
            letters = (await node.dead_letters.select(Wanted(), fits=None, limit=10)).letters
            assert {(one.session_id, one.code) for one in letters} == {("bad", "constraint_violated")}
            fits = shaping_of(filter="event_type == 'session.status_changed' && session.revision == 1", transform="")
            (first,) = (await node.dead_letters.select(Wanted(), fits=fits, limit=10)).letters
            assert first.event_id == changed(node, "bad", 1).event_id
            execute("DROP TRIGGER no")
            assert (await node.dead_letters.redrive_some(Wanted(event_id=first.event_id))).count == 1
            await node.delivery.drained()
            assert sorted(stored(f"sqlite:///{out}", "event_id", "session_completions_status")) == sorted(
                [changed(node, "a", 1).event_id, first.event_id]
            )
            only = msgspec.structs.replace(settings_of(mapped).routing.destinations[0], events=("session.completed",))
            fewer = msgspec.structs.replace(node.settings.routing, destinations=(only,))
            await node.reconfigure(msgspec.structs.replace(node.settings, routing=fewer))
            assert (await node.dead_letters.redrive_some(Wanted())).count == 1
            assert await delivered(node) == {"database": (2, 1)}

    asyncio.run(main())
    assert stored(f"sqlite:///{out}") == []
