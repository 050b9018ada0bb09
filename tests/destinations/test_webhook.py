"""The webhook destination: the conformance suite, and what receivers on a loopback port see and answer."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from adjourn.destination import BEHIND, Batch
from adjourn.destinations.webhook import WebhookDestination
from adjourn.errors import ConfigInvalid, DestinationOutage
from adjourn.events import StoredEvent
from adjourn.testing.exercise_destination import Arrived, Sample, exercise_destination
from tests.destinations.receiver import LOOPBACK, SECRET, Receiver, Request, until
from tests.destinations.rigs import batch


def webhook(url: str, **settings: Any) -> WebhookDestination:
    given = {"signing_secrets": [SECRET], "payload_bytes_max": 10**9, **LOOPBACK, **settings}
    return WebhookDestination(name="hook", url=url, headers={}, **given)


class WebhookRig:
    """The suite's rig; the receiver refuses the session of `poison`."""

    repeats = True
    poison: StoredEvent | None = Sample(7, session_id="sess_poison").stored()

    def __init__(self, receiver: Receiver, **settings: Any) -> None:
        self.receiver = receiver
        self.receiver.taken.clear()
        self.destination = webhook(receiver.url, **settings)

    async def arrived(self) -> Sequence[Arrived]:
        return self.receiver.arrived()

    async def close(self) -> None: ...


def no_poison(request: Request) -> int:
    return 422 if b"sess_poison" in request.body else 200


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"concurrency": 1},
        {"batch_size": 7, "compression": "gzip"},
        {"batch_size": 500, "concurrency": 3},
    ],
    ids=str,
)
def test_it_passes_the_suite_of_destinations(settings: dict[str, Any]) -> None:
    """One event a body or many, packed or not, one request at a time or several: the contract holds, and every request
    verifies with the reference library of Standard Webhooks."""

    async def main() -> None:
        async with Receiver(no_poison) as receiver:
            await exercise_destination(lambda: WebhookRig(receiver, **settings))

    asyncio.run(main())


def test_the_body_is_the_event_to_the_byte_with_facts_behind() -> None:
    """A receiver gets what was sent, to the byte, and Adjourn's facts as one more field."""

    async def main() -> None:
        async with Receiver() as receiver:
            destination = webhook(receiver.url)
            sample = Sample(3)
            assert await destination.send(batch(sample)) == []
            await destination.close()
            (request,) = receiver.taken
            assert request.body.startswith(sample.stored().body[:-1] + b',"adjourn":{"tenant":"org_a"')
            assert request.headers["Content-Type"] == "application/json"
            assert "." not in request.id
            assert request.id.startswith("evt_3-")

    asyncio.run(main())


def test_every_attempt_has_the_same_id() -> None:
    """A retry carries the id of the first attempt; so a receiver that drops what repeats takes each event once."""

    async def main() -> None:
        async with Receiver(lambda _: 503 if len(receiver.requests) < 3 else 200) as receiver:
            destination = webhook(receiver.url)
            for _ in range(2):
                with pytest.raises(DestinationOutage):
                    await destination.send(batch(Sample(1)))
            assert await destination.send(batch(Sample(1))) == []
            await destination.close()
            assert len({request.id for request in receiver.requests}) == 1
            assert len({request.body for request in receiver.requests}) == 1

    asyncio.run(main())


def test_rotation_signs_with_every_key() -> None:
    """While keys are rotated, a receiver that has the old one, the new one, or the ed25519 public key, verifies."""
    new = "whsec_" + base64.b64encode(b"n" * 24).decode()
    private = Ed25519PrivateKey.generate()
    ed25519 = "whsk_" + base64.b64encode(private.private_bytes_raw()).decode()

    async def main() -> Request:
        async with Receiver(secret="") as receiver:
            destination = webhook(receiver.url, signing_secrets=[SECRET, new, ed25519])
            await destination.send(batch(Sample(1)))
            await destination.close()
            return receiver.taken[0]

    request = asyncio.run(main())
    for secret in (SECRET, new):
        Webhook(secret).verify(request.body, dict(request.headers))
    signature = next(s for s in request.headers["webhook-signature"].split() if s.startswith("v1a,"))
    signed = f"{request.id}.{request.headers['webhook-timestamp']}.".encode() + request.body
    private.public_key().verify(base64.b64decode(signature.removeprefix("v1a,")), signed)


def test_a_redirect_is_not_followed() -> None:
    """A receiver that points elsewhere, a private address above all, is an outage with a remedy; nobody goes there."""

    async def main() -> None:
        async with Receiver() as elsewhere, Receiver() as receiver:
            receiver.answer = lambda _: web.Response(status=307, headers={"Location": elsewhere.url})
            destination = webhook(receiver.url)
            with pytest.raises(DestinationOutage, match="307.*redirect.*final address"):
                await destination.send(batch(Sample(1)))
            await destination.close()
            assert not elsewhere.requests

    asyncio.run(main())


def test_410_says_that_it_is_gone() -> None:
    """A receiver that answers 410 wants nothing any more: the outage says so."""

    async def main() -> DestinationOutage:
        async with Receiver(lambda _: 410) as receiver:
            destination = webhook(receiver.url)
            with pytest.raises(DestinationOutage) as caught:
                await destination.send(batch(Sample(1)))
            await destination.close()
            return caught.value

    assert asyncio.run(main()).gone


def test_retry_after_is_handed_on() -> None:
    """What a receiver asks for by `Retry-After` reaches whoever delivers."""

    async def main() -> DestinationOutage:
        async with Receiver(lambda _: web.Response(status=429, headers={"Retry-After": "7"})) as receiver:
            destination = webhook(receiver.url)
            with pytest.raises(DestinationOutage) as caught:
                await destination.send(batch(Sample(1)))
            await destination.close()
            return caught.value

    assert asyncio.run(main()).retry_after_ms == 7000


def test_what_fails_holds_its_session_back_and_no_other() -> None:
    """An event that a receiver fails on is refused for now, the later ones of its session are behind it, and the rest
    arrives."""

    async def main() -> None:
        async with Receiver(lambda r: 500 if r.json["event_id"] == "evt_2" else 200) as receiver:
            destination = webhook(receiver.url, concurrency=2)
            samples = [Sample(n, session_id=f"sess_{n % 2}") for n in range(1, 9)]
            refusals = await destination.send(batch(*samples))
            await destination.close()
            assert [(r.index, r.code, r.permanent) for r in refusals] == [
                (1, "http_500", False),
                *((index, BEHIND, False) for index in (3, 5, 7)),
            ]
            assert [e["event_id"] for e in receiver.events] == ["evt_1", "evt_3", "evt_5", "evt_7"]

    asyncio.run(main())


def test_a_receiver_that_fails_on_everything_is_an_outage() -> None:
    """500 for all is the receiver's failure: no event is blamed, and it is not asked once for each."""

    async def main() -> None:
        async with Receiver(lambda _: 500) as receiver:
            destination = webhook(receiver.url)
            with pytest.raises(DestinationOutage) as caught:
                await destination.send(batch(*(Sample(n, session_id=f"s{n}") for n in range(500))))
            await destination.close()
            assert caught.value.answered
            assert len(receiver.requests) < 30

    asyncio.run(main())


def test_a_receiver_that_takes_ten_at_a_time_gets_them_all() -> None:
    """A rate limit below the size of a batch is no loop: each attempt goes on where the last one ended."""

    async def main() -> None:
        def limited(_: Request) -> int:
            nonlocal budget
            budget -= 1
            return 200 if budget >= 0 else 429

        async with Receiver(limited) as receiver:
            destination = webhook(receiver.url, concurrency=4)
            sent = batch(*(Sample(n, session_id=f"s{n % 9}") for n in range(100)))
            attempts = 0
            while True:
                budget, attempts = 10, attempts + 1
                try:
                    await destination.send(sent)
                    break
                except DestinationOutage:
                    continue
            await destination.close()
            assert attempts == 10
            assert sorted(e["adjourn"]["offset"] for e in receiver.events) == list(range(100))

    asyncio.run(main())


def test_partitions_share_the_limit_on_requests() -> None:
    """However many partitions send at once, no more than `concurrency` requests are under way, and all arrives."""

    async def slow(_: Request) -> int:
        await asyncio.sleep(0.01)
        return 200

    async def main() -> None:
        async with Receiver(slow) as receiver:
            destination = webhook(receiver.url, concurrency=3)
            batches = [Batch(str(p), [Sample(n, session_id=f"{p}/{n}").stored() for n in range(20)]) for p in range(4)]
            assert await asyncio.gather(*(destination.send(one) for one in batches)) == [[], [], [], []]
            await destination.close()
            assert receiver.most_at_once == 3
            assert len(receiver.connections) <= 3
            assert len(receiver.events) == 80

    asyncio.run(main())


def test_a_large_event_goes_thin_with_a_link() -> None:
    """What is larger than the receiver takes arrives within the limit, with all that counts and where the rest is."""

    async def main() -> Request:
        async with Receiver() as receiver:
            destination = webhook(receiver.url, payload_bytes_max=20_000, public_url="https://adjourn.example/")
            await destination.send(batch(Sample(1, event_id="evt/1", final_message="m" * 100_000)))
            await destination.close()
            return receiver.taken[0]

    request = asyncio.run(main())
    assert len(request.body) <= 20_000
    event = request.json
    assert event["usage"]["total_tokens"] == 10
    assert event["outcome"] == {"status": "success"}
    assert event["adjourn"]["cost_usd"] == "0.042800000"
    payload = event["adjourn"]["payload"]
    assert payload["url"] == "https://adjourn.example/v1/events/evt%2F1"
    assert payload["left_out"] == ["outcome.final_message"]


def test_a_probe_is_marked_and_may_be_refused_as_unknown() -> None:
    """A probe reaches the receiver and says so; 422 for it is a sign of life, a 401 or 500 is an outage."""

    async def main() -> None:
        async with Receiver() as receiver:
            destination = webhook(receiver.url)
            await destination.probe()
            receiver.answer = lambda _: 422
            await destination.probe()
            assert [r.json["type"] for r in receiver.requests] == ["adjourn.probe"] * 2
            for status in (401, 500):
                receiver.answer = lambda _, status=status: status
                with pytest.raises(DestinationOutage, match=str(status)):
                    await destination.probe()
            await destination.close()

    asyncio.run(main())


def test_one_large_body_that_is_refused_is_halved() -> None:
    """A receiver that takes a hundred kilobytes at once gets a larger batch in parts."""

    async def main() -> None:
        async with Receiver(lambda r: 413 if len(r.body) > 100_000 else 200) as receiver:
            destination = webhook(receiver.url, batch_size=100)
            samples = [Sample(n, final_message="m" * 10_000) for n in range(40)]
            assert await destination.send(batch(*samples)) == []
            await destination.close()
            assert [a.event_id for a in receiver.arrived()] == [f"evt_{n}" for n in range(40)]
            assert [e["adjourn"]["offset"] for e in receiver.events] == list(range(40))

    asyncio.run(main())


def test_being_cut_off_leaves_nothing_running() -> None:
    """A send that is cancelled ends its requests; close is complete, and a later send begins anew."""

    async def main() -> None:
        async with Receiver() as receiver:
            silence = asyncio.Event()

            async def silent(_: Request) -> int:
                await silence.wait()
                return 200

            receiver.answer = silent
            destination = webhook(receiver.url, concurrency=4)
            sending = asyncio.create_task(destination.send(batch(*(Sample(n, session_id=f"s{n}") for n in range(9)))))
            await until(lambda: len(receiver.requests) == 4)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await destination.close()
            await destination.close()
            assert not [task for task in asyncio.all_tasks() if "_Sending" in repr(task)]
            await until(lambda: all(transport.is_closing() for transport in receiver.connections))
            silence.set()
            receiver.answer = lambda _: 200
            assert await destination.send(batch(Sample(1))) == []
            await destination.close()

    asyncio.run(main())


def test_who_has_no_webhook_does_not_pay_for_one() -> None:
    """The HTTP client and ed25519 are loaded by the destinations that use them, not by every node."""
    seen = "sorted({'aiohttp', 'cryptography', 'adjourn.destinations.webhook'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys, adjourn.node, adjourn.destination; print({seen})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_bad_secrets_and_urls_are_refused_and_not_shown() -> None:
    """What cannot work is refused when the destination is made, and no message shows a secret."""
    with pytest.raises(ConfigInvalid) as caught:
        webhook("https://a.example/", signing_secrets=["whsec_hidden"])
    assert "hidden" not in caught.value.message
    with pytest.raises(ConfigInvalid, match="allow_http"):
        webhook("http://u:hidden@a.example/", allow_http=False)
