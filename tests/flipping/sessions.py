"""What a user sees of the settings of watched sessions."""

from __future__ import annotations

import asyncio

import pytest
from tests.flipping.rigs import Flipped, with_node

from adjourn.clock import ManualClock
from adjourn.errors import BodyInvalid, TooBusy
from adjourn.node import Node
from adjourn.sessions import watch_service
from adjourn.sessions.watch import Begin, Complete


def lease_of_one_that_names_none(flip: Flipped) -> int:
    async def work(node: Node) -> int:
        return (await node.watched.begin("default", Begin(session_id="s")))[0].lease_ms

    return with_node(flip, work)


def lease_of_ten_seconds(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        try:
            await node.watched.begin("default", Begin(session_id="s", lease_ms=10_000))
        except BodyInvalid:
            return "refused"
        return "begun"

    return with_node(flip, work)


def begun_of_three(flip: Flipped) -> int:
    async def work(node: Node) -> int:
        begun = 0
        for number in range(3):
            try:
                begun += (await node.watched.begin("default", Begin(session_id=f"s{number}")))[1]
            except TooBusy:
                continue
        return begun

    return with_node(flip, work)


def remembered_after_eleven_and_nine_days(flip: Flipped) -> list[str]:
    clock = ManualClock()

    async def work(node: Node) -> list[str]:
        for name, days_after in (("first", 2), ("second", 9)):
            await node.watched.begin("default", Begin(session_id=name))
            await node.watched.complete("default", name, Complete())
            clock.advance(days_after * 86_400)
        watch, looks = node.watched.watch, node.watched.watch.looks
        while watch.looks < looks + 2:  # the look that is under way may have begun before
            await asyncio.sleep(0.02)
        return [watched.session_id for watched in await node.watched.list("default", limit=10)]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch_service, "LOOK_EVERY_S", 0.02)
        return with_node(flip, work, clock)
