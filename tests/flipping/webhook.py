"""What a receiver sees of the settings of a webhook, and of others that its requests depend on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from standardwebhooks import Webhook
from tests.destinations.receiver import SECRET, Receiver, Request, until
from tests.faults.rigs import raw, settings_of
from tests.flipping.rigs import Flipped, take

from adjourn.errors import ConfigInvalid
from adjourn.node import Node

T = TypeVar("T")

RECEIVER = {
    "routing.destinations": [
        {"type": "webhook", "url": "{receiver}/in", "allow_http": True, "allow_networks": ["127.0.0.0/8"]}
    ]
}
"""`{receiver}` becomes the address of the one that observes."""


def with_receiver(flip: Flipped, receiver: Receiver, work: Callable[[Node], Awaitable[T]]) -> T:
    async def main() -> T:
        async with receiver:
            (destination,) = flip.mapped["routing"]["destinations"]
            destination["url"] = str(destination["url"]).replace("{receiver}", f"http://127.0.0.1:{receiver.port}")
            async with Node(settings_of(flip.mapped)) as node:
                return await work(node)

    return asyncio.run(main())


def received(flip: Flipped, *bodies: bytes) -> Request:
    """The first request, after all of `bodies` have arrived."""
    receiver = Receiver(secret="")

    async def work(node: Node) -> None:
        await take(node, *bodies)
        await node.delivery.drained()

    with_receiver(flip, receiver, work)
    return receiver.taken[0]


def path(flip: Flipped) -> str:
    return received(flip, raw("s")).path


def team(flip: Flipped) -> str | None:
    return received(flip, raw("s")).headers.get("X-Team")


def signature(flip: Flipped) -> str:
    request = received(flip, raw("s"))
    if "webhook-signature" not in request.headers:
        return "unsigned"
    Webhook(SECRET).verify(request.body, dict(request.headers))
    return "verifies"


def events_in_a_body(flip: Flipped) -> int:
    return len(received(flip, *(raw(f"s{n}") for n in range(4))).events)


def requests_at_once(flip: Flipped) -> int:
    """The most of twelve that are under way side by side, where each waits for as many as there may be."""

    async def wait(_: Request) -> int:
        await until(lambda: receiver.most_at_once >= int(str(flip.value)))
        await asyncio.sleep(0.01)
        return 200

    async def work(node: Node) -> None:
        await take(node, *(raw(f"s{n}") for n in range(12)))
        await node.delivery.drained()

    receiver = Receiver(wait, secret="")
    with_receiver(flip, receiver, work)
    return receiver.most_at_once


def patience(flip: Flipped) -> str:
    """What becomes of a receiver that does not answer: it is given up and tried again, or still waited for."""
    silence = asyncio.Event()

    async def silent(_: Request) -> int:
        await silence.wait()
        return 200

    async def work(node: Node) -> str:
        await take(node, raw("s"))
        try:
            await until(lambda: len(receiver.requests) > 1, 4)
            return "tried again"
        except TimeoutError:
            return "waited for"
        finally:
            silence.set()

    receiver = Receiver(silent, secret="")
    return with_receiver(flip, receiver, work)


def encoding(flip: Flipped) -> str:
    return received(flip, raw("s", note="x" * 10_000)).headers.get("Content-Encoding", "none")


def payload(flip: Flipped) -> dict[str, Any] | None:
    found = received(flip, raw("s", event_id="evt_1", note="x" * 30_000)).json
    return found["adjourn"].get("payload")


def form_of_30_kilobytes(flip: Flipped) -> str:
    return "whole" if payload(flip) is None else "thin"


def link_to_the_whole(flip: Flipped) -> str:
    found = payload(flip)
    assert found is not None
    return str(found["url"])


def reached(flip: Flipped) -> str:
    """Whether a receiver on a loopback address over plain http is reached, and if not, why."""
    receiver = Receiver(secret="")

    async def work(node: Node) -> str:
        await take(node, raw("s"))
        (stats,) = node.delivery.stats.values()
        await until(lambda: receiver.taken or stats.waiting)
        return "arrives" if receiver.taken else "is private" if "is loopback" in stats.waiting else stats.waiting

    try:
        return with_receiver(flip, receiver, work)
    except ConfigInvalid as error:
        return "is plain http" if "plain http" in error.message else error.message
