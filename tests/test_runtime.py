"""`Runtime`, embedded and remote: what it promises to the program that captures."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import ChainMap, UserDict, defaultdict
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import msgspec
import pytest

from adjourn.completion import quarantine
from adjourn.completion.spool import Spool
from adjourn.errors import ConfigInvalid, EventInvalid, SpoolClosed, Unavailable
from adjourn.events import Completion, SessionPart, decode_identity
from adjourn.runtime import Runtime
from adjourn.testing.account import bodies, compare, logged, written
from tests.faults.rigs import assert_exact, audited, event, mapping, raw, settings_of
from tests.http.serving import Serving, serving


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- embedded


def test_capture_from_many_threads_and_event_loops_at_once(tmp_path: Path) -> None:
    """Every event of four threads and four event loops is durable, as its receipt says in its own loop, once."""
    captured: list[str] = []

    def in_thread(number: int) -> None:
        for n in range(100):
            captured.append(f"t{number}-{n}")
            receipt = runtime.capture(event(f"t{number}-{n}"))
        assert receipt.result(20).status == "accepted"

    def in_loop(number: int) -> None:
        async def main() -> None:
            receipts = [runtime.capture(event(f"l{number}-{n}")) for n in range(100)]
            captured.extend(f"l{number}-{n}" for n in range(100))
            settled = await asyncio.gather(*(receipt.durable() for receipt in receipts))
            assert {each.status for each in settled} == {"accepted"}

        asyncio.run(main())

    with Runtime(settings_of(mapping(tmp_path))) as runtime:
        threads = [threading.Thread(target=f, args=(n,)) for n in range(4) for f in (in_thread, in_loop)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        runtime.drain()
        accounts = runtime.call(lambda node: audited(node, captured, f"sqlite:///{tmp_path}/out.db"))
    assert_exact(accounts)
    assert accounts[0].found == 800


def test_a_receipt_says_what_became_of_its_event(tmp_path: Path) -> None:
    """Accepted, duplicate, conflict, invalid: each receipt tells its own, with the reason, early or late."""
    with Runtime(settings_of(mapping(tmp_path))) as runtime:
        first = runtime.capture(event("s", event_id="evt_1"))
        same = runtime.capture(event("s", event_id="evt_1"))
        other = runtime.capture(event("s", event_id="evt_1", usage={"input_tokens": 9}))
        wrong = runtime.capture(event("s", event_id="evt_2", usage={"input_tokens": -9}))
        typed = runtime.capture(Completion(session=SessionPart(session_id="typed")))
        statuses = [receipt.result(20).status for receipt in (first, same, other, wrong, typed)]
        assert statuses == ["accepted", "duplicate", "conflict", "invalid", "accepted"]
        assert "input_tokens" in wrong.result(1).message or wrong.result(1).message


def test_a_receipt_knows_the_id_of_its_event_before_and_after_it_is_in_the_log(tmp_path: Path) -> None:
    """At once, of an event with or without an id of its own; what `durable` gives has it too, asked early or late."""
    with Runtime(settings_of(mapping(tmp_path)), tenant="acme") as runtime:
        receipts = [
            runtime.capture(event("named", event_id="evt_1")),
            runtime.capture(event("nameless")),
            runtime.capture(event("nameless", event_type="session.amended", amends="evt_1")),
            runtime.capture(Completion(session=SessionPart(session_id="typed", attempt=2))),
        ]
        known = [receipt.event_id for receipt in receipts]
        early = [receipt.result(20) for receipt in receipts]
        runtime.drain()
        late = [receipt.result(0) for receipt in receipts]
        in_log = [decode_identity(body).event_id for body in runtime.call(bodies)]
    assert known == [settled.event_id for settled in early] == [settled.event_id for settled in late] == in_log
    assert (known[0], len(set(known))) == ("evt_1", 4)


def test_any_mapping_is_an_event(tmp_path: Path) -> None:
    """Not dicts alone: read-only views, chains and mappings of one's own, also inside."""
    views = MappingProxyType({"session": ChainMap({"session_id": "view"}, {}), "user": UserDict(user_id="u")})
    with Runtime(settings_of(mapping(tmp_path))) as runtime:
        assert runtime.capture(views).result(20).status == "accepted"
        assert runtime.capture(defaultdict(dict, event("default"))).result(20).status == "accepted"
        runtime.drain()
        assert runtime.call(logged) == ["view", "default"]
        assert b'"user":{"user_id":"u"}' in runtime.call(bodies)[0]


def test_what_no_event_can_be_is_refused_at_once_or_kept_and_never_breaks_what_follows(tmp_path: Path) -> None:
    """Half surrogates, cycles and raw newlines raise in the caller; NaN, depth and absurd numbers are told by their
    receipts and kept in quarantine; what is captured behind them arrives."""
    cycle: dict[str, object] = {"session": {"session_id": "cycle"}}
    cycle["self"] = cycle
    refused: list[dict[str, object]] = [
        cycle,
        event("s", note="half \ud83d"),
        event("s", note=msgspec.Raw(b"[1,\n2]")),
    ]
    deep: object = 0
    for _ in range(100):
        deep = [deep]
    invalid: list[dict[str, object]] = [
        event("s", usage={"estimated_cost_usd": Decimal("NaN")}),
        event("s", usage={"input_tokens": 10**30}),
        event("s", usage={"input_tokens": 1.5}),
        event("s", deep=deep),
        event("s", timestamp=datetime(2026, 1, 1)),
        event(""),
        {},
    ]
    with Runtime(settings_of(mapping(tmp_path))) as runtime:
        for one in refused:
            with pytest.raises(EventInvalid):
                runtime.capture(one)
        receipts = [runtime.capture(one) for one in invalid]
        odd = runtime.capture(
            event("odd", timestamp=datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=14))), n=2**70)
        )
        assert [receipt.result(20).status for receipt in receipts] == ["invalid"] * len(invalid)
        assert odd.result(20).status == "accepted"
        assert runtime.call(logged) == ["odd"]
        assert runtime.call(lambda node: node.database.read(quarantine.held)) == len(invalid)


def test_what_is_no_event_is_refused_at_once(tmp_path: Path) -> None:
    """What cannot be written as a JSON object raises EventInvalid in the caller, and nothing is spooled."""
    with Runtime(settings_of(mapping(tmp_path))) as runtime:
        for wrong in ({"session": object()}, [1], "text"):
            with pytest.raises(EventInvalid):
                runtime.capture(wrong)  # type: ignore[arg-type]  # the point of the test
        assert runtime.spool_stats().captured == 0


def test_after_stop_capture_refuses_and_open_receipts_hear_of_it(tmp_path: Path) -> None:
    """Stop is idempotent; then capture raises SpoolClosed, and a receipt that nobody can settle raises Unavailable."""
    settings = settings_of(mapping(tmp_path, "postgresql://postgres@127.0.0.1:1/none"))
    runtime = Runtime(settings)
    receipt = runtime.capture(event("s"))
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            receipt.result(20)
        except Unavailable as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    runtime.stop(0.2)
    runtime.stop()
    thread.join(10)
    assert "still in the spool" in str(waiting[0])
    with pytest.raises(Unavailable):
        receipt.result(1)
    with pytest.raises(SpoolClosed):
        runtime.capture(event("s"))
    with pytest.raises(Unavailable, match="stopped"):
        runtime.drain()
    assert list((tmp_path / "spool").glob("*.jsonl"))


def test_a_dropped_event_says_so(tmp_path: Path) -> None:
    """When a full spool drops its oldest, their receipts settle as dropped once later events are through."""
    mapped = mapping(tmp_path, capture={"spool_mb_max": 1, "spool_full": "drop_oldest", "flush_interval_ms": 50})
    with Runtime(settings_of(mapped)) as runtime:
        runtime.start()
        release = threading.Event()

        async def hold(node: object) -> None:
            # The runtime's loop stands still, as under a program that starves it.
            release.wait(20)

        holder = threading.Thread(target=lambda: runtime.call(hold))
        holder.start()
        time.sleep(0.05)
        receipts = [runtime.capture(event(f"s{n}", padding="x" * 1000)) for n in range(1500)]
        dropped = runtime.spool_stats().dropped
        release.set()
        holder.join()
        runtime.drain()
        statuses = [receipt.result(20).status for receipt in receipts]
    assert dropped > 0
    assert statuses.count("dropped") == dropped
    assert statuses.count("accepted") == 1500 - dropped


def test_drain_waits_for_the_first_capture_also_right_after_an_orphan_was_adopted(tmp_path: Path) -> None:
    """Adopting what a dead process left delays nothing: the first event of one's own is in the log when drain returns,
    and within moments without it."""
    orphan = Spool(tmp_path / "spool")
    orphan.append(raw("orphan"))
    orphan.close()
    with Runtime(settings_of(mapping(tmp_path, capture={"flush_interval_ms": 5000}))) as runtime:
        runtime.start()
        runtime.drain()
        runtime.capture(event("first"))
        runtime.drain()
        assert sorted(runtime.call(logged)) == ["first", "orphan"]
    orphan = Spool(tmp_path / "spool")
    orphan.append(raw("orphan 2"))
    orphan.close()
    with Runtime(settings_of(mapping(tmp_path, capture={"flush_interval_ms": 5000}))) as runtime:
        runtime.start()
        runtime.drain()
        began = time.monotonic()
        runtime.capture(event("second")).result(20)
        assert time.monotonic() - began < 0.6


def test_a_database_that_is_away_is_waited_for_and_every_question_says_so(tmp_path: Path) -> None:
    """start, drain and call raise Unavailable as long as the database is away, however often they are asked; capture
    goes on, and when the database is there all arrives."""
    blocked = tmp_path / "not yet"
    blocked.write_text("a file where the database's directory should be")
    mapped = mapping(tmp_path, f"sqlite:///{blocked}/adjourn.db")
    with Runtime(settings_of(mapped)) as runtime:
        receipt = runtime.capture(event("s"))
        for _ in range(4):
            for ask in (runtime.start, runtime.drain, lambda: runtime.call(logged)):
                with pytest.raises(Unavailable):
                    ask()
            time.sleep(0.35)
        blocked.unlink()
        assert receipt.result(20).status == "accepted"
        runtime.start()
        assert runtime.call(logged) == ["s"]


def test_a_wrong_setting_is_told_at_start_and_costs_no_event(tmp_path: Path) -> None:
    """A destination that cannot be delivered to is ConfigInvalid at start; what was captured waits in the spool."""
    destination = {"type": "logfile", "log_path": "out", "transform": "billing_v99"}
    with Runtime(settings_of(mapping(tmp_path, routing={"destinations": [destination]}))) as runtime:
        runtime.capture(event("kept"))
        with pytest.raises(ConfigInvalid, match="billing_v99"):
            runtime.start()
    with Runtime(settings_of(mapping(tmp_path))) as runtime:
        runtime.start()
        runtime.drain()
        assert runtime.call(logged) == ["kept"]


# --- remote


def remote(tmp_path: Path, server_url: str, key: str) -> Runtime:
    mapped = mapping(tmp_path / "client", capture={"buffer_size": 20, "flush_interval_ms": 100})
    return Runtime(settings_of(mapped), url=server_url, key=key)


def in_log(server: Serving, out: Path) -> list[str]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        (found,) = server.get("/v1/destinations").json()
        if found["pending"] == 0:
            break
        time.sleep(0.05)
    return written(out)


def test_a_remote_runtime_delivers_once_through_restarts_of_its_server(tmp_path: Path) -> None:
    """The server is killed three times in mid-flow; every event that was captured is in its log exactly once."""
    port, out = free_port(), tmp_path / "out.db"
    keys: dict[str, str] | None = None
    captured: list[str] = []
    stop = threading.Event()
    destination = {"type": "database", "connection_string": f"sqlite:///{out}"}
    sections = {"server": {"port": port}, "routing": {"destinations": [destination]}}
    runtime: Runtime | None = None
    thread: threading.Thread | None = None
    for life in range(4):
        with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, keys=keys, **sections) as server:
            keys = server.keys
            if runtime is None:
                runtime = remote(tmp_path, server.url, server.keys["acme/writer"])
                thread = threading.Thread(target=_load, args=(runtime, captured, stop))
                thread.start()
            time.sleep(0.4)
            if life == 3:
                stop.set()
                assert thread is not None
                thread.join()
                runtime.drain()
                runtime.stop()
            else:
                server.kill()
    sections["validation"] = {"require_authentication": False}

    async def look() -> None:
        from adjourn.node import Node

        mapped = mapping(tmp_path, f"sqlite:///{tmp_path}/a.db", **sections)
        async with Node(settings_of(mapped)) as node:
            accounts = await audited(node, captured, f"sqlite:///{out}")
            assert_exact(accounts)
            assert accounts[0].found == len(captured)

    asyncio.run(look())
    assert len(captured) > 200


def _load(runtime: Runtime, captured: list[str], stop: threading.Event) -> None:
    while not stop.is_set():
        session_id = f"s{len(captured)}"
        runtime.capture(event(session_id))
        captured.append(session_id)
        time.sleep(0.001)


def test_a_wrong_key_is_said_keeps_the_events_and_the_right_one_delivers_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a key that the server does not know the events stay in the spool and the log says why; a later runtime with
    the right key delivers them once."""
    out = tmp_path / "out.jsonl"
    routing = {"destinations": [{"type": "logfile", "log_path": str(out)}]}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, routing=routing) as server:
        with caplog.at_level(logging.WARNING, "adjourn"):
            with remote(tmp_path, server.url, "adj_" + "0" * 32) as runtime:
                receipt = runtime.capture(event("s1"))
                with pytest.raises(TimeoutError):
                    receipt.result(0.5)
                runtime.stop(0.1)
        assert any("pump_waits" in record.getMessage() and "key" in record.getMessage() for record in caplog.records)
        with remote(tmp_path, server.url, server.keys["acme/writer"]) as runtime:
            runtime.capture(event("s2"))
            runtime.drain()
        account = compare(["s1", "s2"], in_log(server, out))
    assert account.exact
    assert account.found == 2


def test_an_event_larger_than_the_server_takes_does_not_stop_those_behind_it(tmp_path: Path) -> None:
    """It is refused for good: its receipt says so, it is kept beside the spool, and the next events arrive."""
    out = tmp_path / "out.jsonl"
    routing = {"destinations": [{"type": "logfile", "log_path": str(out)}]}
    sections = {"routing": routing, "server": {"body_mb_max": 1}}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, **sections) as server:
        with remote(tmp_path, server.url, server.keys["acme/writer"]) as runtime:
            before = runtime.capture(event("before"))
            large = runtime.capture(event("large", padding="x" * 1_500_000))
            after = runtime.capture(event("after"))
            assert [receipt.result(20).status for receipt in (before, large, after)] == [
                "accepted",
                "invalid",
                "accepted",
            ]
            assert "body" in large.result(1).message
        assert sorted(in_log(server, out)) == ["after", "before"]
    assert len((tmp_path / "client" / "spool" / "torn.txt").read_bytes()) > 1_500_000


def test_a_key_without_a_url_is_a_mistake(tmp_path: Path) -> None:
    """A key that would never be used is refused, and a remote runtime has no node to ask."""
    with pytest.raises(ConfigInvalid, match="url"):
        Runtime(settings_of(mapping(tmp_path)), key="adj_1")
    with Runtime(settings_of(mapping(tmp_path)), url="http://127.0.0.1:1") as runtime:
        with pytest.raises(ConfigInvalid, match="server"):
            _ = runtime.node
