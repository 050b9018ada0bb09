"""The `webhook` destination: each event, or several, as a POST that is signed as Standard Webhooks says.

What answers mean is in `outbound_answers`, the order in which events go in `outbound_lanes`, and which addresses are
connected to in `outbound`.
"""

from __future__ import annotations

import asyncio
import gzip
import secrets
from collections.abc import Mapping, Sequence
from functools import partial

from adjourn.clock import Clock, SystemClock, rfc3339
from adjourn.destination import Batch, Refusal
from adjourn.destinations.outbound import Outbound, Resolve
from adjourn.destinations.outbound_answers import Verdict, judge
from adjourn.destinations.outbound_lanes import Item, Lanes, items_of
from adjourn.destinations.webhook_bodies import batch_body, item_of, probe_body
from adjourn.destinations.webhook_signing import signer_of
from adjourn.errors import DestinationOutage

GZIP_BYTES_MIN = 1_000  # smaller bodies do not become smaller
GZIP_LEVEL = 3
THREAD_BYTES_MIN = 100_000  # to compress that takes longer than to hand it to a thread


class WebhookDestination:
    """`batch_size` 1: one event a body; more: up to so many, as `{"type": "session.batch", "events": […]}`."""

    def __init__(
        self,
        *,
        name: str,
        url: str,
        headers: Mapping[str, str],
        signing_secrets: Sequence[str] = (),
        batch_size: int = 1,
        concurrency: int = 8,
        timeout_ms: int = 15_000,
        compression: str = "none",
        payload_bytes_max: int = 20_000,
        public_url: str = "",
        allow_http: bool = False,
        allow_networks: Sequence[str] = (),
        clock: Clock | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        """Raises ConfigInvalid."""
        self._sign = signer_of(signing_secrets) if signing_secrets else None
        self._batched = batch_size > 1
        self._gzip = compression == "gzip"
        self._payload_bytes_max = payload_bytes_max
        self._public_url = public_url
        self._clock = clock or SystemClock()
        self._lanes = Lanes(concurrency=concurrency, request_events_max=batch_size)
        self._outbound = Outbound(
            name=name,
            url=url,
            headers={"Content-Type": "application/json", **headers},
            concurrency=concurrency,
            timeout_ms=timeout_ms,
            allow_http=allow_http,
            allow_networks=allow_networks,
            resolve=resolve,
        )

    async def open(self) -> None:
        """Nothing: a connection is made when there is something to send."""

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        make = partial(item_of, bytes_max=self._payload_bytes_max, public_url=self._public_url)
        items, refusals = items_of(batch, make)
        refusals += await self._lanes.send(batch.id, items, self._post)
        return sorted(refusals, key=lambda refusal: refusal.index)

    async def probe(self) -> None:
        """Sends `{"type": "adjourn.probe"}`. A receiver that refuses it as an event it does not know was reached."""
        body = probe_body(rfc3339(self._clock.wall_ms()))
        verdict = await self._deliver(f"probe-{secrets.token_hex(12)}", body)
        if isinstance(verdict, Refusal) and not verdict.permanent:
            raise DestinationOutage(verdict.reason, answered=True)
        if isinstance(verdict, DestinationOutage):
            raise verdict

    async def close(self) -> None:
        await self._outbound.close()

    async def _post(self, items: Sequence[Item]) -> Verdict:
        if self._batched:
            return await self._deliver(*batch_body(items))
        return await self._deliver(items[0].id, items[0].body)

    async def _deliver(self, message_id: str, body: bytes) -> Verdict:
        """The signature is over the body before it is compressed: whatever unpacks it on the way changes nothing."""
        now_ms = self._clock.wall_ms()
        now_s = now_ms // 1000
        headers = {"webhook-id": message_id, "webhook-timestamp": str(now_s)}
        if self._sign is not None:
            headers["webhook-signature"] = self._sign(message_id, now_s, body)
        if self._gzip and len(body) >= GZIP_BYTES_MIN:
            headers["Content-Encoding"] = "gzip"
            body = await _compressed(body)
        answer = await self._outbound.post(body, headers)
        return judge(self._outbound.where, answer, now_ms)


async def _compressed(body: bytes) -> bytes:
    if len(body) < THREAD_BYTES_MIN:
        return gzip.compress(body, GZIP_LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL, mtime=0)
