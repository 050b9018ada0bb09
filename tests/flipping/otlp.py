"""What a user sees of the settings of traces."""

from __future__ import annotations

import asyncio

import pytest
from tests.flipping.rigs import Flipped, with_node

from adjourn.clock import ManualClock
from adjourn.completion import otlp_service
from adjourn.completion.otlp import Span
from adjourn.node import Node

TRACE, AGENT, CALL = "a" * 32, "b" * 16, "c" * 16


def _span(span_id: str, parent_id: str, **attributes: str | int) -> Span:
    named = {f"gen_ai.{name.replace('__', '.')}": value for name, value in attributes.items()}
    return Span(trace_id=TRACE, span_id=span_id, parent_id=parent_id, start_ns=10**18, end_ns=10**18, attributes=named)


def told_after_five_minutes(flip: Flipped) -> bool:
    """Of an agent whose parent is not sent."""
    clock = ManualClock(2_000_000_000_000)

    async def work(node: Node) -> bool:
        await node.traces.take("default", [_span(AGENT, CALL, operation__name="invoke_agent")])
        clock.advance(300)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if node.ingest.counters.accepted:
                return True
        return False

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(otlp_service, "LOOK_EVERY_S", 0.02)
        return with_node(flip, work, clock)


def counted_of_a_call_two_days_before(flip: Flipped) -> int:
    """What the call used, if it is remembered when its agent ends."""
    clock = ManualClock(2_000_000_000_000)

    async def work(node: Node) -> int:
        call = _span(CALL, AGENT, operation__name="chat", usage__input_tokens=7)
        await node.traces.take("default", [call])
        looked = asyncio.Event()
        forget = node.traces.forget

        async def forgotten() -> None:
            await forget()
            looked.set()

        clock.advance(2 * 86_400)
        with pytest.MonkeyPatch.context() as watched:
            watched.setattr(node.traces, "forget", forgotten)
            await looked.wait()
        await node.traces.take("default", [_span(AGENT, "", operation__name="invoke_agent")])
        event = await node.log.find("default", f"evt_otlp_{TRACE}_{AGENT}")
        assert event is not None
        usage = event.completion().usage
        return 0 if usage is None else usage.input_tokens or 0

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(otlp_service, "LOOK_EVERY_S", 0.02)
        return with_node(flip, work, clock)
