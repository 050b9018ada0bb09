from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http.serving import Serving, event, is_problem, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from adjourn.clock import ManualClock
from adjourn.errors import ConfigInvalid, RateLimited
from adjourn.http.rates import Buckets, Rates
from adjourn.security.keys import Key
from adjourn.settings import ServerSettings, Settings

S = 1_000_000_000
KEY = Key(id="key_1", tenant="default", name="", role="writer", created_ms=0)
OTHER = Key(id="key_2", tenant="default", name="", role="writer", created_ms=0)


# --- a bucket --------------------------------------------------------------------------------------------------------


def test_a_bucket_holds_its_burst_and_fills_at_its_rate() -> None:
    """Full at first; then a token each 1/rate, and never more than it holds."""
    buckets = Buckets(per_s=4, burst=3)
    now = 1_000 * S
    for _ in range(3):
        assert buckets.wait_ns("a", now) == 0
        buckets.take("a", now)
    assert buckets.wait_ns("a", now) == S // 4
    assert buckets.wait_ns("b", now) == 0, "each has its own"
    assert buckets.wait_ns("a", now + S // 4 - 1) == 1
    buckets.take("a", now + S // 4)
    assert buckets.wait_ns("a", now + S // 4) == S // 4
    later = now + 100 * S
    for _ in range(3):
        buckets.take("a", later)
    assert buckets.wait_ns("a", later) == S // 4


def test_without_a_burst_it_holds_what_a_second_brings() -> None:
    """And one at least, or nobody could ever ask."""
    assert [Buckets(per_s).burst for per_s in (0.1, 1, 1.9, 50)] == [1, 1, 1, 50]


@given(st.floats(0.001, 1e6), st.integers(1, 5), st.lists(st.integers(0, 3 * S), max_size=40))
def test_whoever_waits_as_told_finds_a_token(per_s: float, burst: int, pauses: list[int]) -> None:
    """Whatever came before; and over any time no more are taken than the burst and what the rate brings."""
    buckets = Buckets(per_s, burst)
    now, taken, began = 5 * S, 0, 5 * S
    for pause in pauses:
        now += pause
        wait = buckets.wait_ns("a", now)
        assert buckets.wait_ns("a", now + wait) == 0
        if not wait:
            buckets.take("a", now)
            taken += 1
        assert taken <= burst + (now - began) * per_s / S + 1e-3 * taken + 1


def test_what_is_given_back_was_never_taken() -> None:
    """A request that is refused for another reason costs nothing."""
    buckets = Buckets(per_s=1, burst=1)
    buckets.take("a", S)
    assert buckets.wait_ns("a", S)
    buckets.give_back("a")
    buckets.give_back("never seen")
    assert buckets.wait_ns("a", S) == 0


def test_memory_is_bounded() -> None:
    """Full buckets are forgotten as others come; of too many that are not, those that were used longest ago."""
    buckets = Buckets(per_s=1, burst=1, buckets_max=10)
    for number in range(1_000):
        buckets.take(number, 100 * S)
        assert len(buckets) <= 10
    assert buckets.wait_ns(999, 100 * S)
    assert not buckets.wait_ns(0, 100 * S)
    for number in range(10):
        buckets.take(f"later {number}", 500 * S)
    buckets.take("last", 1_000 * S)
    buckets.take("last but one", 1_000 * S)
    assert len(buckets) <= 10
    few = Buckets(per_s=1_000, burst=1)
    for number in range(10_000):
        few.take(number, number * S)
    assert len(few) == 1, "whoever has not asked for long costs no memory"


# --- keys and users --------------------------------------------------------------------------------------------------


def rates(**settings: Any) -> tuple[Rates, ManualClock]:
    clock = ManualClock()
    return Rates(ServerSettings(**settings), clock), clock


def admitted(limits: Rates, key: Key = KEY, user_id: str | None = None) -> int:
    """0, or after how many milliseconds to come back."""

    async def ask() -> None:
        await limits.admit(None, key)  # type: ignore[arg-type]  # nothing is looked up without a session
        limits.admit_user(key, user_id)

    try:
        asyncio.run(ask())
    except RateLimited as error:
        return error.retry_after_ms or -1
    return 0


def test_without_settings_there_is_no_limit() -> None:
    """Of nobody, and nothing is remembered."""
    limits, _ = rates()
    assert not any(admitted(limits, user_id="u") for _ in range(100))
    assert limits.refused == {"key": 0, "user": 0}


def test_a_key_is_limited_and_others_are_not() -> None:
    """After the time that it is told, to the millisecond, and not before."""
    limits, clock = rates(requests_per_key_per_s=3, requests_per_key_burst=2)
    assert [admitted(limits) for _ in range(3)] == [0, 0, 334]
    assert admitted(limits, OTHER) == 0
    clock.advance(0.333)
    assert admitted(limits) == 1
    clock.advance(0.001)
    assert admitted(limits) == 0
    assert limits.refused == {"key": 2, "user": 0}


def test_a_user_is_limited_and_takes_nothing_of_its_key() -> None:
    """One who asks ever so often is refused alone: the others of the key get all that it has."""
    limits, clock = rates(requests_per_key_per_s=1, requests_per_key_burst=5, requests_per_user_per_s=0.5)
    assert [admitted(limits, user_id="u") for _ in range(50)] == [0, *[2_000] * 49]
    assert [admitted(limits, user_id=name) for name in "vwxy"] == [0] * 4
    assert admitted(limits, user_id="z") == 1_000
    assert limits.refused == {"key": 1, "user": 49}
    clock.advance(2)
    assert admitted(limits, user_id="u") == 0


def test_a_user_of_another_tenant_is_another_user() -> None:
    """Of the same name."""
    limits, _ = rates(requests_per_user_per_s=1)
    there = Key(id="key_3", tenant="other", name="", role="writer", created_ms=0)
    assert [admitted(limits, user_id="u"), admitted(limits, there, "u"), admitted(limits, OTHER, "u")] == [0, 0, 1_000]


@pytest.mark.parametrize("by", ["key", "user"])
def test_a_burst_without_a_rate_is_refused(by: str) -> None:
    """It would have no effect; and a rate is above nothing."""
    burst: dict[str, Any] = {f"requests_per_{by}_burst": 5}
    rate: dict[str, Any] = {f"requests_per_{by}_per_s": 0}
    with pytest.raises(ConfigInvalid, match=f"has no effect without server.requests_per_{by}_per_s"):
        Settings(server=ServerSettings(**burst))
    with pytest.raises(ConfigInvalid, match="a number above 0"):
        Settings(server=ServerSettings(**rate))


# --- over HTTP -------------------------------------------------------------------------------------------------------

SLOW = {"requests_per_key_per_s": 0.01, "requests_per_key_burst": 3}


def until_refused(server: Serving, method: str, path: str, **kw: Any) -> list[int]:
    statuses = [server.request(method, path, **kw).status_code for _ in range(4)]
    assert statuses[3] == 429, statuses
    return statuses[:3]


def test_the_routes_of_sessions_are_limited_and_no_others(any_database: str, tmp_path: Path) -> None:
    """The fourth request of a key is a problem that says when to come back, on any of them; events, probes and the
    metrics, which count the refusal, go on; and so does another key."""
    with serving(any_database, tmp_path, server=SLOW) as server:
        assert until_refused(server, "GET", "/v1/sessions/none") == [404] * 3
        for method, path in (
            ("GET", "/v1/sessions"),
            ("POST", "/v1/sessions"),
            ("POST", "/v1/sessions/begin"),
            ("POST", "/v1/sessions/none/messages"),
            ("POST", "/v1/sessions/none/heartbeat"),
        ):
            answer = server.request(method, path)
            is_problem(answer, 429, "rate_limited")
            wait_ms = answer.json()["retry_after_ms"]
            assert 0 < wait_ms <= 100_000
            assert int(answer.headers["retry-after"]) * 1_000 >= wait_ms
        assert server.get("/healthz").status_code == server.get("/readyz").status_code == 200
        assert server.post(event("a")).status_code == 202
        assert server.get("/v1/events/evt_x").status_code == 404
        assert server.get("/v1/sessions/none", who="acme/writer").status_code in (403, 404)
        assert server.get("/v1/sessions/none", who="other/admin").status_code == 404
        assert 'adjourn_requests_limited_total{by="key"} 6.0' in server.get("/metrics").text
        assert 'adjourn_requests_limited_total{by="user"} 0.0' in server.get("/metrics").text


def test_whoever_waits_as_told_is_let_in(any_database: str, tmp_path: Path) -> None:
    """Over real HTTP and real time: the answer after Retry-After is no refusal."""
    with serving(any_database, tmp_path, server={"requests_per_key_per_s": 2, "requests_per_key_burst": 1}) as server:
        refused = answer = server.get("/v1/sessions/none")
        for _ in range(100):
            refused = server.get("/v1/sessions/none")
            if refused.status_code == 429:
                break
        assert refused.status_code == 429
        time.sleep(refused.json()["retry_after_ms"] / 1_000)
        answer = server.get("/v1/sessions/none")
        assert answer.status_code == 404


def test_a_user_is_limited_by_the_sessions_that_are_its_own(any_database: str, tmp_path: Path) -> None:
    """Making one counts, and so does whatever is asked of it; another user's, and nobody's, go on."""
    limits = {"requests_per_user_per_s": 0.01, "requests_per_user_burst": 3}

    def make(server: Serving, **fields: str) -> httpx.Response:
        return server.request("POST", "/v1/sessions", json={"pattern": "hybrid", **fields})

    with serving(any_database, tmp_path, server=limits) as server:
        mine = make(server, user_id="u")
        assert mine.status_code == 201, mine.text
        path = f"/v1/sessions/{mine.json()['id']}"
        assert [server.get(path).status_code for _ in range(3)] == [200, 200, 429]
        is_problem(make(server, user_id="u"), 429, "rate_limited")
        is_problem(server.request("POST", f"{path}/messages", json={"prompt": "p"}), 429, "rate_limited")
        nobodys = make(server)
        assert nobodys.status_code == make(server, user_id="v").status_code == 201
        for _ in range(5):
            assert server.get(f"/v1/sessions/{nobodys.json()['id']}").status_code == 200
        assert 'adjourn_requests_limited_total{by="user"} 3.0' in server.get("/metrics").text


def test_what_comes_over_a_websocket_counts_too(any_database: str, tmp_path: Path) -> None:
    """Its opening and each command: what is too often is refused there, and the socket stays open."""
    limits = {"requests_per_user_per_s": 0.01, "requests_per_user_burst": 3}
    with serving(any_database, tmp_path, server=limits) as server:
        made = server.request("POST", "/v1/sessions", json={"pattern": "hybrid", "user_id": "u"}).json()
        address = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/{made['id']}/ws"
        with connect(address, additional_headers=server.bearer(), open_timeout=30) as socket:
            said: list[dict[str, Any]] = []
            for ref in ("one", "two", "three"):
                socket.send(json.dumps({"type": "follow", "ref": ref}))
                said.append(json.loads(socket.recv(timeout=30)))
        assert [one["type"] for one in said] == ["accepted", "refused", "refused"]
        assert [one["problem"]["code"] for one in said[1:]] == ["rate_limited"] * 2
        assert said[1]["problem"]["retry_after_ms"] > 0
        with pytest.raises(InvalidStatus) as refused, connect(address, additional_headers=server.bearer()):
            pass
        assert refused.value.response.status_code == 429
        assert int(refused.value.response.headers["retry-after"]) > 0
