"""The analytics destination in its three forms: the conformance suite, and what receivers see and answer."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from adjourn.destination import Batch
from adjourn.destinations import analytics
from adjourn.destinations.analytics import AnalyticsDestination
from adjourn.errors import DestinationOutage
from adjourn.events import StoredEvent
from adjourn.testing.exercise_destination import (
    RECEIVED_MS,
    Arrived,
    Sample,
    change_of_status,
    exercise_destination,
)
from tests.destinations.receiver import LOOPBACK, Receiver, Request
from tests.destinations.rigs import batch

FORMATS = ("segment", "posthog", "otlp")
ALL = pytest.mark.parametrize("format", FORMATS)


def destination_to(url: str, format: str, **settings: Any) -> AnalyticsDestination:
    given = {"headers": {}, "key": "" if format == "otlp" else "wk_0123", **LOOPBACK, **settings}
    return AnalyticsDestination(name="tool", url=url, format=format, **given)  # type: ignore[arg-type]  from a parameter


def messages(request: Request) -> list[dict[str, Any]]:
    """The events of a body, as they are in it. Numbers with a point are Decimal."""
    content = json.loads(request.body, parse_float=Decimal)
    if "batch" in content:
        return content["batch"]
    return [record for r in content["resourceLogs"] for s in r["scopeLogs"] for record in s["logRecords"]]


def arrived(message: dict[str, Any]) -> tuple[tuple[int, int], Arrived]:
    """(place in the log, the event)"""
    if "body" in message:
        event = json.loads(message["body"]["stringValue"])
        attributes = attributes_of(message)
        event |= {**event["session"], **event.get("user", {}), **event.get("outcome", {})}
        event["cost_nanousd"] = attributes.get("adjourn.cost_nanousd")
    else:
        event = message["properties"]
        assert message["event"] == event["event_type"].replace(".", " ").replace("_", " ").title()
        if "cost_nanousd" in event:
            assert event["cost_usd"] * 10**9 == event["cost_nanousd"]
    facts = event["adjourn"]
    return (facts["partition"], facts["offset"]), Arrived(
        tenant=facts["tenant"],
        session_id=event["session_id"],
        event_id=event["event_id"],
        event_type=event["event_type"],
        user_id=event.get("user_id"),
        final_message=event.get("final_message"),
        cost_nanousd=event.get("cost_nanousd"),
    )


def attributes_of(record: dict[str, Any]) -> dict[str, Any]:
    values = {a["key"]: a["value"] for a in record["attributes"]}
    return {key: v["stringValue"] if "stringValue" in v else int(v["intValue"]) for key, v in values.items()}


class AnalyticsRig:
    """The suite's rig; the receiver refuses the session of `poison`."""

    repeats = True
    poison: StoredEvent | None = Sample(7, session_id="sess_poison").stored()

    def __init__(self, receiver: Receiver, format: str, **settings: Any) -> None:
        self.receiver = receiver
        self.receiver.taken.clear()
        self.destination = destination_to(receiver.url, format, payload_bytes_max=10**9, **settings)

    async def arrived(self) -> Sequence[Arrived]:
        found = [arrived(message) for request in self.receiver.taken for message in messages(request)]
        return [event for _, event in sorted(found, key=lambda pair: pair[0])]

    async def close(self) -> None: ...


def no_poison(request: Request) -> int:
    return 400 if b"sess_poison" in request.body else 200


@pytest.mark.parametrize("settings", [{}, {"batch_size": 7, "compression": "gzip", "concurrency": 2}], ids=str)
@ALL
def test_it_passes_the_suite_of_destinations(
    monkeypatch: pytest.MonkeyPatch, format: str, settings: dict[str, Any]
) -> None:
    """In each form, packed or not, in large bodies or small ones, the contract holds."""
    monkeypatch.setattr(analytics, "MESSAGE_BYTES_MAX", {})  # the suite sends a message of a megabyte

    async def main() -> None:
        async with Receiver(no_poison, secret="") as receiver:
            await exercise_destination(lambda: AnalyticsRig(receiver, format, **settings))

    asyncio.run(main())


def sent(format: str, *samples: Sample | StoredEvent, **settings: Any) -> Request:
    """The one body that they make."""

    async def main() -> Request:
        async with Receiver(secret="") as receiver:
            destination = destination_to(receiver.url, format, **settings)
            events = [one.stored() if isinstance(one, Sample) else one for one in samples]
            assert await destination.send(Batch("batch", events)) == []
            await destination.close()
            (request,) = receiver.taken
            return request

    return asyncio.run(main())


def event(cost_nanousd: int | None = None, price_ref: str = "", **body: Any) -> StoredEvent:
    whole = {"event_type": "session.completed", "event_id": "evt_1", "session": {"session_id": "sess_1"}, **body}
    return StoredEvent(0, 1, "org_a", json.dumps(whole).encode(), RECEIVED_MS, cost_nanousd, price_ref)


def test_segment_s_form() -> None:
    """A track call as Segment's specification says: the write key as user, an id that repeats, whose it is, when it
    was, and the event's fields as plain properties."""
    request = sent("segment", Sample(3), event(session={"session_id": "sess_9"}))
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(b"wk_0123:").decode()
    first, second = messages(request)
    assert (first["type"], first["event"], first["userId"]) == ("track", "Session Completed", "usr_1")
    assert first["messageId"].startswith("evt_3-")
    assert len(first["messageId"]) <= 100
    assert first["timestamp"] == "2025-12-21T10:30:45.123Z"
    properties = first["properties"]
    assert (properties["session_id"], properties["model"], properties["total_tokens"]) == ("sess_1", "gpt-4o", 10)
    assert properties["x_unknown"] == {"kept": [1, Decimal("2.5"), None]}
    assert b'"cost_usd":0.042800000,"cost_nanousd":42800000' in request.body
    assert second["anonymousId"] == "sess_9"
    assert "userId" not in second
    assert "cost_usd" not in second["properties"]
    again = sent("segment", Sample(3))
    assert messages(again)[0] == first


def test_posthog_s_form() -> None:
    """The key is in the body, the id is a UUID that repeats, and a session without a user makes no person."""
    request = sent("posthog", Sample(3), event())
    assert "Authorization" not in request.headers
    assert request.json["api_key"] == "wk_0123"
    first, second = messages(request)
    assert (first["event"], first["distinct_id"]) == ("Session Completed", "usr_1")
    assert uuid.UUID(first["uuid"]).version == 5
    assert messages(sent("posthog", Sample(3)))[0]["uuid"] == first["uuid"]
    assert "$process_person_profile" not in first["properties"]
    assert (second["distinct_id"], second["properties"]["$process_person_profile"]) == ("sess_1", False)


def test_otlp_s_form() -> None:
    """A log record with the names that OpenTelemetry has for GenAI, 64-bit numbers as text, the body to the byte."""
    failed = event(
        1_500,
        "genai-prices/0.2.3:openai/gpt-4o",
        timestamp="2025-12-21T10:30:45.123Z",
        user={"user_id": "usr_1"},
        usage={"model": "gpt-4o", "input_tokens": 2**53, "output_tokens": 1, "cache_read_input_tokens": 0},
        outcome={"status": "error", "error_code": "E_1"},
    )
    request = sent("otlp", failed, event())
    first, second = messages(request)
    assert first["timeUnixNano"] == "1766313045123000000"
    assert first["observedTimeUnixNano"] == second["timeUnixNano"] == f"{RECEIVED_MS}000000"
    assert (first["severityNumber"], first["eventName"], second["severityNumber"]) == (17, "session.completed", 9)
    assert first["body"]["stringValue"].encode().startswith(failed.body[:-1])
    found = attributes_of(first)
    assert found.pop("log.record.uid").startswith("evt_1-")
    assert found == {
        "session.id": "sess_1",
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": "sess_1",
        "gen_ai.provider.name": "openai",
        "user.id": "usr_1",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 2**53,
        "gen_ai.usage.output_tokens": 1,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "adjourn.status": "error",
        "error.type": "E_1",
        "adjourn.event_id": "evt_1",
        "adjourn.tenant": "org_a",
        "adjourn.cost_nanousd": 1_500,
        "adjourn.price_ref": "genai-prices/0.2.3:openai/gpt-4o",
    }


def test_segment_s_limits_are_kept() -> None:
    """No message is above 32 kB however long its ids and texts are, no body above 500 kB; what was left out is named,
    and what counts is there."""

    async def main() -> list[Request]:
        async with Receiver(secret="") as receiver:
            destination = destination_to(receiver.url, "segment", batch_size=5_000, payload_bytes_max=10**6)
            long = "i" * 256
            samples = [
                Sample(n, session_id=long[4:] + f"{n:04}", event_id=long[4:] + f"{n:04}", final_message="m" * 100_000)
                for n in range(40)
            ]
            small = [Sample(100 + n) for n in range(3_000)]
            assert await destination.send(batch(*samples, *small)) == []
            await destination.close()
            return receiver.taken

    requests = asyncio.run(main())
    found = [message for request in requests for message in messages(request)]
    assert len(found) == 3_040
    assert max(len(request.body) for request in requests) <= 500_000
    assert max(len(messages(request)) for request in requests) <= 2_500
    assert max(len(json.dumps(message, default=str)) for message in found) <= 32_000
    large = next(message for message in found if message["properties"]["adjourn"]["offset"] == 0)
    assert large["properties"]["adjourn"]["payload"]["left_out"] == ["outcome.final_message"]
    assert large["properties"]["cost_nanousd"] == 42_800_000


def test_what_a_collector_rejects_is_found() -> None:
    """A partial success says how many records were rejected, not which. They are found, and become refusals with its
    reason; all others arrive."""

    def partly(request: Request) -> web.Response:
        bad = request.body.count(b'"stringValue":"sess_bad"') // 2
        told = {"partialSuccess": {"rejectedLogRecords": str(bad), "errorMessage": "no such tenant"}} if bad else {}
        return web.json_response(told)

    async def main() -> None:
        async with Receiver(partly, secret="") as receiver:
            destination = destination_to(receiver.url, "otlp")
            samples = [Sample(n, session_id="sess_bad" if n in (3, 77) else f"s{n}") for n in range(100)]
            refusals = await destination.send(batch(*samples))
            await destination.close()
            assert [(r.index, r.code, r.permanent) for r in refusals] == [
                (3, "otlp_rejected", True),
                (77, "otlp_rejected", True),
            ]
            assert all("no such tenant" in r.reason for r in refusals)

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [{}, {"partialSuccess": {}}, {"partialSuccess": {"errorMessage": "slow down"}}, [], "text", {"partialSuccess": 1}],
)
def test_an_answer_that_rejects_nothing_is_a_success(answer: Any) -> None:
    """A warning, an empty answer or one that nobody can read takes nothing back of a 200."""

    async def main() -> None:
        async with Receiver(lambda _: web.json_response(answer), secret="") as receiver:
            destination = destination_to(receiver.url, "otlp")
            assert await destination.send(batch(Sample(1))) == []
            await destination.close()

    asyncio.run(main())


@ALL
def test_a_wrong_key_is_an_outage_that_does_not_show_it(format: str) -> None:
    """401 stops the destination, its events wait, and no message shows the key."""

    async def main() -> None:
        async with Receiver(lambda _: 401, secret="") as receiver:
            destination = destination_to(receiver.url, format)
            for attempt in (destination.probe, lambda: destination.send(batch(Sample(1)))):
                with pytest.raises(DestinationOutage, match="401") as caught:
                    await attempt()
                assert "wk_0123" not in caught.value.message
            await destination.close()

    asyncio.run(main())


@ALL
def test_a_probe_brings_no_event(format: str) -> None:
    """A probe is a batch without events; a tool that refuses it as empty was reached."""

    async def main() -> None:
        async with Receiver(secret="") as receiver:
            destination = destination_to(receiver.url, format)
            await destination.probe()
            receiver.answer = lambda _: 400
            await destination.probe()
            await destination.close()
            assert [messages(request) for request in receiver.requests] == [[], []]

    asyncio.run(main())


@ALL
def test_an_event_that_cannot_be_read_is_refused_alone(format: str) -> None:
    """What a transform of one's own made of it may be no completion: that event is refused, and the others go."""

    async def main() -> None:
        async with Receiver(secret="") as receiver:
            destination = destination_to(receiver.url, format)
            broken = [event(usage={"input_tokens": "many"}), StoredEvent(0, 2, "org_a", b"[]", RECEIVED_MS, None, "")]
            refusals = await destination.send(Batch("batch", [Sample(0).stored(), *broken, Sample(3).stored()]))
            await destination.close()
            assert [(r.index, r.code) for r in refusals] == [(1, "event_invalid"), (2, "event_invalid")]
            assert sum(len(messages(request)) for request in receiver.taken) == 2

    asyncio.run(main())


@ALL
def test_a_change_of_status_has_a_name_of_its_own(format: str) -> None:
    """It is no completed session to whoever counts these, names no user and no cost, and says what it was."""
    (message,) = messages(sent(format, change_of_status(7)))
    if format == "otlp":
        attributes = attributes_of(message)
        assert (message["eventName"], message["severityText"]) == ("session.status_changed", "INFO")
        assert (attributes["adjourn.from"], attributes["adjourn.to"]) == ("idle", "active")
        assert (attributes["adjourn.reason"], attributes["adjourn.revision"]) == ("message", 7)
        assert attributes["session.id"] == "sess_1"
        assert "gen_ai.operation.name" not in attributes
        return
    properties = message["properties"]
    assert message["event"] == "Session Status Changed"
    assert (properties["from"], properties["to"], properties["session_id"]) == ("idle", "active", "sess_1")
    assert "cost_usd" not in properties
    assert message.get("anonymousId", message.get("distinct_id")) == "sess_1"
    assert message["timestamp"] == "2025-12-21T10:30:45.123Z"
