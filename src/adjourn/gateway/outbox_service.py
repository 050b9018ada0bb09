"""From the journal to the log or to a server: completions in order, each under its number, until they are taken.

The journal is an idempotent producer: whoever receives knows (producer, sequence) again, however late. So a gateway
that dies between sending and being told sends again, and nothing is doubled.
"""

from __future__ import annotations

import asyncio
import random
from itertools import islice

from adjourn.completion.pump_service import RETRY_S_FIRST, RETRY_S_MAX, Send
from adjourn.errors import AdjournError
from adjourn.eventlog import get_logger
from adjourn.gateway.recorder import Recorder

_log = get_logger("adjourn.gateway")

BATCH_EVENTS_MAX = 100


class Outbox:
    def __init__(self, recorder: Recorder, send: Send) -> None:
        self._recorder = recorder
        self._send = send
        self._nudged = asyncio.Event()
        self._stopping = False

    def nudge(self) -> None:
        """A completion waits."""
        self._nudged.set()

    async def run(self) -> None:
        """Until `stop` and nothing more can be sent, or cancellation."""
        pause_s = RETRY_S_FIRST
        while not self._stopping or self._recorder.sessions.waiting:
            self._nudged.clear()
            if not self._recorder.sessions.waiting:
                await self._nudged.wait()
                continue
            try:
                await self._send_some()
                pause_s = RETRY_S_FIRST
                continue
            except (AdjournError, OSError, TimeoutError) as error:
                _log.warning("gateway_outbox_waits", error=str(error))
            except Exception:
                _log.exception("gateway_outbox_failed")
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 2, RETRY_S_MAX)

    def stop(self) -> None:
        """Send what waits, then end."""
        self._stopping = True
        self._nudged.set()

    async def _send_some(self) -> None:
        sessions = self._recorder.sessions
        some = list(islice(sessions.waiting.values(), BATCH_EVENTS_MAX))
        await asyncio.to_thread(self._recorder.flush)
        outcomes = await self._send(
            sessions.producer, [bytes(closed.completion) for closed in some], [closed.sequence for closed in some]
        )
        for closed, outcome in zip(some, outcomes, strict=True):
            if outcome.status in ("invalid", "conflict"):
                _log.error("gateway_completion_refused", event_id=closed.ref, error=outcome.message)
        self._recorder.taken(some[-1].sequence)
