"""Dead letters, pauses, probes and reloading as users meet them: a server from a settings file, curl-like calls."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cli.serving import Serving, serving

SETTINGS: dict[str, Any] = {
    "validation": {"require_authentication": False},
    "routing": {
        "retry_attempts": 2,
        "retry_delay_ms": 1,
        "destinations": [
            {"name": "warehouse", "type": "database", "connection_string": "sqlite:///out.db"},
            {"name": "file", "type": "logfile", "log_path": "sessions.jsonl"},
        ],
    },
}


class Rig:
    def __init__(self, directory: Path, server: Serving) -> None:
        self.directory = directory
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=30, trust_env=False)

    def call(self, method: str, path: str, body: object = None, status: int = 200) -> Any:
        answer = self.client.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def send(self, *event_ids: str) -> None:
        events = [{"event_id": one, "session": {"session_id": f"s_{one}"}} for one in event_ids]
        assert self.call("POST", "/v1/events", events, 202)["accepted"] == len(event_ids)

    def deal(self, verb: str, described: dict[str, Any]) -> int:
        """With all that fit: a call may leave some to the next."""
        count, cursor = 0, ""
        while cursor is not None:
            dealt = self.call("POST", f"/v1/dead-letters/{verb}", {**described, "cursor": cursor})
            count, cursor = count + dealt["count"], dealt["next_cursor"]
        return count

    def balance(self, name: str) -> dict[str, Any]:
        return next(one for one in self.call("GET", "/v1/destinations") if one["name"] == name)

    def place(self, event_id: str, destination: str) -> dict[str, Any]:
        found = self.call("GET", f"/v1/events/{event_id}")
        return next(one for one in found["deliveries"] if one["destination"] == destination)

    def lines(self, file: str = "sessions.jsonl") -> list[str]:
        path = self.directory / file
        return [json.loads(line)["event_id"] for line in path.read_bytes().splitlines()] if path.exists() else []


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def forbid(directory: Path, *event_ids: str) -> None:
    """The warehouse's own table refuses these from now on."""
    with sqlite3.connect(directory / "out.db", timeout=20) as connection:
        connection.execute("DROP TRIGGER IF EXISTS forbidden")
        names = ", ".join(f"'{one}'" for one in event_ids)
        connection.execute(
            f"CREATE TRIGGER forbidden BEFORE INSERT ON session_completions WHEN NEW.event_id IN ({names}) "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    connection.close()


@pytest.fixture
def rig(tmp_path: Path) -> Generator[Rig]:
    (tmp_path / "adjourn.yaml").write_text(json.dumps(SETTINGS))
    with serving(tmp_path) as server:
        yield Rig(tmp_path, server)


def test_a_refused_event_is_found_and_redriven(rig: Rig) -> None:
    """What one destination refuses is a dead letter there, with its reason, and delivered everywhere else; once the
    cause is gone it is given back, and every look at the account balances."""
    until(lambda: (rig.directory / "out.db").exists() and rig.balance("warehouse")["waiting"] == "")
    rig.send("first")
    until(lambda: rig.place("first", "warehouse")["place"] == "delivered")
    forbid(rig.directory, "bad", "worse")
    rig.send("good", "bad", "worse")
    until(lambda: rig.balance("warehouse")["dead_lettered"] == 2)
    until(lambda: rig.place("bad", "file")["place"] == "delivered")
    place = rig.place("bad", "warehouse")
    assert (place["place"], place["attempts"], place["code"]) == ("dead_lettered", 2, "constraint_violated")
    assert rig.place("good", "warehouse")["place"] == "delivered"

    page = rig.call("GET", "/v1/dead-letters?destination=warehouse&code=constraint_violated&limit=1")
    (first,) = page["entries"]
    assert "not this one" in first["reason"]
    (second,) = rig.call("GET", f"/v1/dead-letters?limit=1&cursor={page['next_cursor']}")["entries"]
    rig.call("GET", "/v1/dead-letters?cursor=nonsense", status=400)
    assert {first["event"]["event_id"], second["event"]["event_id"]} == {"bad", "worse"}
    picked = rig.call("GET", "/v1/dead-letters?filter=session.session_id%20%3D%3D%20%22s_bad%22")["entries"]
    assert [one["event_id"] for one in picked] == ["bad"]
    assert rig.call("GET", "/v1/dead-letters?destination=file")["entries"] == []
    bad = picked[0]["id"]
    assert rig.call("GET", f"/v1/dead-letters/{bad}") == picked[0]

    forbid(rig.directory, "worse")
    rig.call("POST", f"/v1/dead-letters/{bad}/redrive")
    until(lambda: rig.place("bad", "warehouse")["place"] == "delivered")
    worse = rig.call("GET", "/v1/dead-letters")["entries"][0]["id"]
    rig.call("DELETE", f"/v1/dead-letters/{worse}", status=204)
    assert rig.place("worse", "warehouse")["place"] == "discarded"
    rig.call("DELETE", f"/v1/dead-letters/{worse}", status=404)
    balance = rig.balance("warehouse")
    assert (balance["delivered"], balance["discarded"], balance["pending"], balance["difference"]) == (3, 1, 0, 0)


def test_many_dead_letters_are_dealt_with_at_once(rig: Rig) -> None:
    """All that fit a description are given back or discarded, and each call says how many they were."""
    until(lambda: (rig.directory / "out.db").exists() and rig.balance("warehouse")["waiting"] == "")
    rig.send("first")
    until(lambda: rig.place("first", "warehouse")["place"] == "delivered")
    names = [f"e{number}" for number in range(300)]
    forbid(rig.directory, *names)
    rig.send(*names)
    until(lambda: rig.balance("warehouse")["dead_lettered"] == 300)
    assert rig.deal("discard", {"code": "other"}) == 0
    assert rig.deal("discard", {"filter": 'session.session_id == "s_e7"'}) == 1
    forbid(rig.directory, "nothing")
    assert rig.deal("redrive", {"destination": "warehouse"}) == 299
    until(lambda: rig.balance("warehouse")["delivered"] == 300)
    balance = rig.balance("warehouse")
    assert (balance["discarded"], balance["dead_lettered"], balance["difference"]) == (1, 0, 0)


def test_a_paused_destination_keeps_its_backlog(rig: Rig) -> None:
    """Paused, it gets nothing while the others go on, says why, and stays so over a restart; resumed, it gets all."""
    until(lambda: rig.balance("file")["waiting"] == "")
    assert rig.call("POST", "/v1/destinations/file/pause", {"reason": "moving house"})["status"] == "paused"
    rig.send("a", "b")
    until(lambda: rig.balance("warehouse")["delivered"] == 2)
    assert rig.balance("file")["waiting"] == "paused: moving house"
    assert rig.place("a", "file")["place"] == "pending"
    assert rig.server.stop()[0] == 0
    with serving(rig.directory) as again:
        later = Rig(rig.directory, again)
        until(lambda: later.balance("file")["waiting"] == "paused: moving house")
        assert later.balance("file")["pending"] == 2
        later.call("POST", "/v1/destinations/file/resume")
        until(lambda: later.lines() == ["a", "b"])
        later.call("POST", "/v1/destinations/nothing/pause", {}, status=404)


def test_a_nul_in_a_body_is_refused(rig: Rig) -> None:
    """PostgreSQL can hold none: over either database the answer is 400, which names the field, and not 500."""
    for verb in ("redrive", "discard"):
        for field in ("destination", "code", "event_id", "cursor"):
            refused = rig.call("POST", f"/v1/dead-letters/{verb}", {field: "1:\0:0:1~1:\0:0:1"}, 400)
            assert (refused["code"], field in refused["detail"]) == ("body_invalid", True)
    refused = rig.call("POST", "/v1/destinations/file/pause", {"reason": "\0"}, 400)
    assert refused["code"] == "body_invalid"


def test_a_destination_is_tried_on_demand(rig: Rig) -> None:
    """A probe reaches it and leaves no event there; where it cannot, the answer says why."""
    until(lambda: rig.balance("file")["waiting"] == "")
    assert rig.call("POST", "/v1/destinations/file/test")["status"] == "ok"
    assert rig.lines() == []
    (rig.directory / "out.db").unlink()
    (rig.directory / "out.db").mkdir()
    problem = rig.call("POST", "/v1/destinations/warehouse/test", status=503)
    assert "warehouse" in problem["detail"]
    rig.call("POST", "/v1/destinations/nothing/test", status=404)


@pytest.mark.parametrize("how", ["signal", "call"])
def test_settings_are_reloaded_whole_or_not_at_all(rig: Rig, how: str) -> None:
    """A destination is added, another is taken out, the third goes on undisturbed; settings that are wrong, or need a
    restart, change nothing and say so."""
    until(lambda: rig.balance("file")["waiting"] == "")
    changed = json.loads(json.dumps(SETTINGS))
    changed["routing"]["destinations"][0] = {"name": "second", "type": "logfile", "log_path": "second.jsonl"}

    def reload(settings: object, status: int = 200) -> Any:
        (rig.directory / "adjourn.yaml").write_text(settings if isinstance(settings, str) else json.dumps(settings))
        if how == "call":
            return rig.call("POST", "/v1/reload", status=status)
        rig.server.process.send_signal(signal.SIGHUP)
        wanted = "settings_reloaded" if status == 200 else "reload_refused"
        return rig.server.read_until(wanted)

    reload("routing: {destinations: [{type: nonsense}]}", 400)
    reload({**changed, "server": {"body_mb_max": 3}}, 400)
    rig.send("before")
    until(lambda: rig.lines() == ["before"] and rig.balance("warehouse")["delivered"] == 1)
    said = reload(changed)
    if how == "call":
        assert said == {"started": ["second"], "kept": ["file"], "stopped": ["warehouse"]}
    rig.send("after")
    until(lambda: rig.lines() == ["before", "after"] and rig.lines("second.jsonl") == ["before", "after"])
    balance = rig.balance("warehouse")
    assert (balance["delivered"], balance["pending"], balance["waiting"]) == (1, 1, "not running")


def test_every_node_says_the_same_of_a_destination(rig: Rig) -> None:
    """Whichever of two servers delivers: both say what it waits for, and both when it is well again; of one that is
    disabled, both say that it is not running."""
    until(lambda: rig.balance("file")["waiting"] == "")
    changed = json.loads(json.dumps(SETTINGS))
    changed["routing"]["destinations"][0]["enabled"] = False
    changed["routing"]["retry_delay_ms_max"] = 200
    changed["routing"]["destinations"][1]["log_path"] = "sub/sessions.jsonl"
    (rig.directory / "sub").write_text("in the way")
    (rig.directory / "adjourn.yaml").write_text(json.dumps(changed))
    rig.call("POST", "/v1/reload")
    with serving(rig.directory) as server:
        other = Rig(rig.directory, server)
        for each in (rig, other):
            until(lambda each=each: "a part of log_path is a file" in each.balance("file")["waiting"])
            until(lambda each=each: each.balance("warehouse")["waiting"] == "not running")
        assert rig.balance("file") == other.balance("file")
        (rig.directory / "sub").unlink()
        other.send("one")
        for each in (rig, other):
            until(lambda each=each: each.balance("file")["waiting"] == "")
