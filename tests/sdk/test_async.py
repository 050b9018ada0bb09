"""Both clients against a real HTTP server on the loopback: what they send, when they try again, what they give back."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from decimal import Decimal
from typing import Any

import pytest

from adjourn import errors
from adjourn.errors import AdjournError, Unavailable
from adjourn.sdk import AsyncClient, Client, SendAnswer
from adjourn.sdk import _client as rules
from tests.sdk.scripted import DROP, HANG, answer, html, problem, scripted, sent
from tests.sdk.talking import EVENT, KEY, Talk, refused, send, talk_async

BUSY = problem(503, "unavailable", "the database is away; wait", retry_after_ms=40)


# --- sending ----------------------------------------------------------------------------------------------------------


def test_what_is_sent(talk: Talk) -> None:
    """A batch goes out as NDJSON with the key and the producer's numbers, and each event has its result, in order."""
    refusal = {"status": "invalid", "code": "event_invalid", "path": "usage", "message": "no", "quarantine_id": "qrn_1"}
    results = [{"status": "accepted", "event_id": "evt_a"}, refusal]
    body = {"accepted": 1, "duplicate": 0, "conflict": 0, "invalid": 1, "results": results, "added_later": True}
    with scripted(answer(202, body)) as server:
        got: SendAnswer = talk(send(b'{"a":1}', b'{"b":2}', producer="p-1", first_sequence=7), server.url)
    (asked,) = server.asked
    assert (asked.method, asked.target, asked.body) == ("POST", "/v1/events", b'{"a":1}\n{"b":2}\n')
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/x-ndjson"
    assert (asked.headers["adjourn-producer"], asked.headers["adjourn-sequence"]) == ("p-1", "7")
    assert "content-encoding" not in asked.headers
    assert (got.accepted, got.invalid, len(got.results)) == (1, 1, 2)
    assert (got.results[0].status, got.results[0].event_id, got.results[0].code) == ("accepted", "evt_a", "")
    assert (got.results[1].event_id, got.results[1].path, got.results[1].quarantine_id) == (None, "usage", "qrn_1")


@pytest.mark.parametrize("compress", [True, False])
def test_compression(talk: Talk, compress: bool) -> None:
    """A large body is compressed unless that is turned off; either way the same lines arrive."""
    events = [b'{"n":%d,"session":{"session_id":"sess_%d"}}' % (n, n) for n in range(200)]
    with scripted(sent(*["accepted"] * 200)) as server:
        assert talk(send(*events), server.url, compress=compress).accepted == 200
    (asked,) = server.asked
    assert asked.text.split(b"\n") == [*events, b""]
    assert (asked.headers.get("content-encoding") == "zstd") is compress
    assert (len(asked.body) < len(asked.text) / 2) is compress
    assert not {"adjourn-producer", "adjourn-sequence"} & set(asked.headers)


def test_nothing_to_send_asks_nobody(talk: Talk) -> None:
    """No events are answered at once, with no results."""
    with scripted(DROP) as server:
        assert talk(lambda client: client.send([]), server.url) == SendAnswer()
    assert server.asked == []


@pytest.mark.parametrize(
    ("events", "producer", "kind", "says"),
    [
        ([EVENT, b'{\n"a":1}'], {}, errors.EventInvalid, "event 1 contains a raw newline"),
        ([b" "], {}, errors.EventInvalid, "event 0 is empty"),
        ([EVENT], {"producer": "p"}, errors.BodyInvalid, "give first_sequence"),
        ([EVENT], {"producer": "a b", "first_sequence": 1}, errors.BodyInvalid, "without spaces"),
        ([EVENT], {"producer": "p" * 129, "first_sequence": 1}, errors.BodyInvalid, "1 to 128"),
        ([EVENT], {"first_sequence": 1}, errors.BodyInvalid, "give producer too"),
    ],
)
def test_what_would_shift_results_is_never_sent(
    talk: Talk, events: list[bytes], producer: dict[str, Any], kind: type[AdjournError], says: str
) -> None:
    """An event that is not one line, and numbers without their producer, are refused before anything is sent."""
    with scripted(DROP) as server:
        error = refused(talk, send(*events, **producer), server.url)
    assert isinstance(error, kind)
    assert says in error.message
    assert server.asked == []


@pytest.mark.parametrize("statuses", [("accepted",), ("accepted",) * 3])
def test_results_must_match_the_events(talk: Talk, statuses: tuple[str, ...]) -> None:
    """An answer with fewer or more results than events is refused whole: nobody may take them for delivered."""
    with scripted(sent(*statuses)) as server:
        error = refused(talk, send(EVENT, EVENT), server.url)
    assert f"{len(statuses)} results for 2 events" in error.message


# --- trying again -----------------------------------------------------------------------------------------------------


def test_busy_then_taken(talk: Talk) -> None:
    """A server that is away says how long; the same body is sent again after that, and its answer is the caller's."""
    with scripted(BUSY, sent("duplicate")) as server:
        assert talk(send(producer="p", first_sequence=3), server.url).duplicate == 1
    first, second = server.asked
    assert (first.body, first.headers) == (second.body, second.headers)
    assert second.at - first.at >= 0.04


def test_retry_after_of_the_header() -> None:
    """`Retry-After` is honoured where the body says nothing."""
    with scripted(html(503, "Away", "Retry-After: 1"), sent("accepted")) as server:
        assert talk_async(send(), server.url).accepted == 1
    assert server.asked[1].at - server.asked[0].at >= 1


@pytest.mark.parametrize("status", sorted(rules.RETRIED_STATUSES))
def test_what_passes_is_tried_again(talk: Talk, status: int) -> None:
    """429, 502, 503, 504 and 507 are tried again, from Adjourn as from a proxy."""
    with scripted(html(status, "Later"), sent("accepted")) as server:
        assert talk(send(), server.url).accepted == 1
    assert len(server.asked) == 2


def test_a_dropped_connection_is_tried_again(talk: Talk) -> None:
    """A connection that breaks before the answer, or in the middle of it, loses nothing: the request is sent again."""
    middle = answer(202, {"accepted": 1}, "cut-off: yes")[:-5]
    with scripted(DROP, middle, sent("duplicate")) as server:
        assert talk(send(), server.url).duplicate == 1
    assert [asked.body for asked in server.asked] == [EVENT + b"\n"] * 3


def test_a_silent_server_is_tried_again(talk: Talk) -> None:
    """A server that does not answer in time is asked again, and after the last try the error says the time."""
    with scripted(HANG, sent("accepted")) as server:
        assert talk(send(), server.url, timeout_ms=200).accepted == 1
    with scripted(HANG) as server:
        error = refused(talk, send(), server.url, timeout_ms=200, retries=1)
    assert isinstance(error, Unavailable)
    assert "did not answer within 200 ms" in error.message
    assert error.message.endswith("(tried 2 times)")


def test_retries_are_bounded(talk: Talk) -> None:
    """After the last try the server's own words are raised, with what it asked for; 0 means a single try."""
    with scripted(BUSY) as server:
        error = refused(talk, send(), server.url, retries=2)
        assert len(server.asked) == 3
        assert (error.code, error.message) == ("unavailable", "the database is away; wait (tried 3 times)")
        assert error.retry_after_ms == 40
        assert refused(talk, send(), server.url, retries=0).message == "the database is away; wait"
        assert len(server.asked) == 4


def test_retries_without_end(talk: Talk) -> None:
    """None tries until it is answered."""
    now = problem(503, "unavailable", "away", retry_after_ms=0)
    with scripted(now, now, DROP, sent("accepted")) as server:
        assert talk(send(), server.url, retries=None).accepted == 1
    assert len(server.asked) == 4


def test_a_proxy_of_the_environment_is_not_asked_for_the_loopback(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine is reached directly, also where the environment names a proxy for everything."""
    with scripted(html(403, "proxy")) as proxy, scripted(sent("accepted")) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert talk(send(), server.url).accepted == 1
        error = refused(talk, send(), "http://adjourn.example")
    assert isinstance(error, errors.Forbidden)
    assert [asked.target for asked in proxy.asked] == ["http://adjourn.example/v1/events"]


def test_connections_are_kept() -> None:
    """A client goes on with the connection that it has."""
    with scripted(sent("accepted")) as server, Client(server.url, KEY) as client:
        assert [client.send([EVENT]).accepted for _ in range(20)] == [1] * 20
        assert server.connections == 1


# --- the other routes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event_id", "target"),
    [("evt_1", "evt_1"), ("a/b?c#d", "a%2Fb%3Fc%23d"), ("..", "%2E%2E"), ("é ", "%C3%A9%20")],
)
def test_one_event(talk: Talk, event_id: str, target: str) -> None:
    """An event is asked for by its id, whatever is in it, and comes back exact."""
    seen = {"tenant": "t", "partition": 0, "offset": 4, "received_at": "2025-01-01T00:00:00.000Z", "price_ref": "sent"}
    body = {"event": json.loads(EVENT), "cost_usd": "0.000000001", **seen}
    with scripted(answer(200, body)) as server:
        event = talk(lambda client: client.event(event_id), server.url)
    assert server.asked[0].target == f"/v1/events/{target}"
    assert (event.cost_usd, event.offset, event.price_ref) == (Decimal("0.000000001"), 4, "sent")
    assert event.completion().session.session_id == "sess_1"


def test_metrics(talk: Talk) -> None:
    """The counts are read as a type."""
    counts = {"events_captured": 2, "events_routed_success": 3, "events_routed_failure": 1, "buffer_utilization": 0}
    times = {"average_latency_ms": 1.5, "p95_latency_ms": 2, "p99_latency_ms": 3}
    destinations = {"destination_stats": {"db": {"sent": 4, "success": 3, "failure": 1}}}
    with scripted(BUSY, answer(200, {**counts, **times, **destinations})) as server:
        metrics = talk(lambda client: client.metrics(), server.url)
    assert (metrics.events_captured, metrics.average_latency_ms) == (2, 1.5)
    assert metrics.destination_stats["db"].success == 3


@pytest.mark.parametrize(
    ("reply", "ready"),
    [
        (answer(200, {"status": "ok"}), True),
        (answer(503, {"status": "draining", "detail": "stopping"}), False),
        (html(503, "no backend"), False),
        (DROP, False),
    ],
)
def test_ready(talk: Talk, reply: bytes, ready: bool) -> None:
    """Ready is yes or no, after one try."""
    with scripted(reply) as server:
        assert talk(lambda client: client.ready(), server.url) is ready
    assert len(server.asked) == 1


@pytest.mark.parametrize("reply", [html(200, "Sign in"), html(404, "Not here"), answer(301, b"", "Location: /x")])
def test_ready_says_when_it_is_not_adjourn(talk: Talk, reply: bytes) -> None:
    """Where something else answers, waiting would not help: it is an error."""
    with scripted(reply) as server:
        refused(talk, lambda client: client.ready(), server.url)


def test_any_other_route(talk: Talk) -> None:
    """A route without a method of its own is asked with query and JSON, and gives JSON values, or None for no body."""
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    with scripted(answer(200, {"entries": []}), answer(201, {"id": 1}), empty) as server:
        assert talk(lambda c: c.request("get", "v1/quarantine", query={"limit": 5}), server.url) == {"entries": []}
        assert talk(lambda c: c.request("POST", "/v1/keys", json={"role": "writer"}), server.url) == {"id": 1}
        assert talk(lambda c: c.request("DELETE", "/v1/keys/key_1"), server.url) is None
    listed, made, deleted = server.asked
    assert (listed.method, listed.target, listed.body) == ("GET", "/v1/quarantine?limit=5", b"")
    assert (made.headers["content-type"], json.loads(made.body)) == ("application/json", {"role": "writer"})
    assert (deleted.method, deleted.body) == ("DELETE", b"")


def test_only_get_is_repeated(talk: Talk) -> None:
    """A key is not made twice because the first answer got lost; a list is read again."""
    with scripted(DROP, answer(201, {})) as server:
        refused(talk, lambda c: c.request("POST", "/v1/keys", json={}), server.url)
        assert len(server.asked) == 1
    with scripted(DROP, answer(200, [])) as server:
        assert talk(lambda c: c.request("GET", "/v1/keys"), server.url) == []


# --- many at once ----------------------------------------------------------------------------------------------------


def test_one_client_for_many_threads() -> None:
    """Threads that share a client each get the answer to their own request."""
    events = [EVENT + b" " * 2000] * 3
    with scripted(sent(*["accepted"] * 3)) as server, Client(server.url, KEY) as client:
        got: list[SendAnswer] = []
        threads = [threading.Thread(target=lambda: got.append(client.send(events))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [each.accepted for each in got] == [3] * 16
        assert all(asked.text == b"\n".join(events) + b"\n" for asked in server.asked)


def test_cancelling_leaves_a_usable_client() -> None:
    """A cancelled send ends at once, and the client goes on."""

    async def main(url: str) -> int:
        async with AsyncClient(url, KEY) as client:
            task = asyncio.create_task(client.send([EVENT]))
            await asyncio.sleep(0.1)
            task.cancel()
            started = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < 5
            return (await client.send([EVENT])).accepted

    with scripted(HANG, sent("accepted")) as server:
        assert asyncio.run(main(server.url)) == 1


def test_closing_twice_is_closing_once() -> None:
    """close() is idempotent, on both clients."""
    client = Client("http://127.0.0.1:9", KEY)
    client.close()
    client.close()

    async def main() -> None:
        async with AsyncClient("http://127.0.0.1:9", KEY) as client:
            await client.close()

    asyncio.run(main())
