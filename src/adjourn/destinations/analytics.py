"""The `analytics` destination: Segment's batches (RudderStack takes them too), PostHog's, or OpenTelemetry's logs.

What each body looks like is in `analytics_track` and `analytics_otlp`; the order in which events go, and how a body
that is refused is taken apart, in `outbound_lanes`.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping, Sequence
from typing import Literal

from adjourn.clock import Clock, SystemClock
from adjourn.destination import Batch, Refusal
from adjourn.destinations import analytics_otlp, analytics_track
from adjourn.destinations.outbound import ANSWER_BYTES_MAX, Outbound, Resolve
from adjourn.destinations.outbound_answers import Answer, Verdict, excerpt, judge
from adjourn.destinations.outbound_lanes import Item, Lanes, items_of
from adjourn.errors import DestinationOutage
from adjourn.eventlog import get_logger
from adjourn.events import StoredEvent

Format = Literal["segment", "posthog", "otlp"]

REQUEST_BYTES_MAX = {"segment": 480_000, "posthog": 4_000_000, "otlp": 4_000_000}
"""Of all events in a body. Segment takes 500 kB with what stands around them, PostHog 20 MB, OpenTelemetry's collector
20 MiB, and what stands before them often less."""
REQUEST_EVENTS_MAX = 2_500
"""More, Segment answers with 200 and drops."""
MESSAGE_BYTES_MAX = {"segment": 32_000}
GZIP_BYTES_MIN = 1_000
GZIP_LEVEL = 3
THREAD_BYTES_MIN = 100_000

_log = get_logger("adjourn.analytics")


class AnalyticsDestination:
    def __init__(
        self,
        *,
        name: str,
        url: str,
        headers: Mapping[str, str],
        format: Format = "segment",
        key: str = "",
        batch_size: int = 250,
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
        self._name = name
        self._format = format
        self._key = key
        self._gzip = compression == "gzip"
        self._payload_bytes_max = min(payload_bytes_max, MESSAGE_BYTES_MAX.get(format, payload_bytes_max))
        self._public_url = public_url
        self._clock = clock or SystemClock()
        self._lanes = Lanes(
            concurrency=concurrency,
            request_events_max=min(batch_size, REQUEST_EVENTS_MAX),
            request_bytes_max=REQUEST_BYTES_MAX[format],
        )
        own = {"Content-Type": "application/json"}
        if key and format == "segment":
            own["Authorization"] = analytics_track.basic(key)
        self._outbound = Outbound(
            name=name,
            url=url,
            headers={**own, **headers},
            concurrency=concurrency,
            timeout_ms=timeout_ms,
            allow_http=allow_http,
            allow_networks=allow_networks,
            kept_bytes=ANSWER_BYTES_MAX,
            resolve=resolve,
        )

    async def open(self) -> None:
        """Nothing: a connection is made when there is something to send."""

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        items, refusals = items_of(batch, self._item)
        refusals += await self._lanes.send(batch.id, items, self._post)
        return sorted(refusals, key=lambda refusal: refusal.index)

    async def probe(self) -> None:
        """Sends a batch without events. A receiver that refuses that as empty was reached, and has seen the key."""
        verdict = await self._post(())
        if isinstance(verdict, Refusal) and not verdict.permanent:
            raise DestinationOutage(verdict.reason, answered=True)
        if isinstance(verdict, DestinationOutage):
            raise verdict

    async def close(self) -> None:
        await self._outbound.close()

    def _item(self, index: int, event: StoredEvent) -> Item:
        bytes_max, url, form = self._payload_bytes_max, self._public_url, self._format
        if form == "otlp":
            return analytics_otlp.item_of(index, event, bytes_max=bytes_max, public_url=url)
        return analytics_track.item_of(index, event, bytes_max=bytes_max, public_url=url, posthog=form == "posthog")

    def _body(self, items: Sequence[Item]) -> bytes:
        bodies = [item.body for item in items]
        if self._format == "otlp":
            return analytics_otlp.body_of(bodies)
        return analytics_track.body_of(bodies, self._key if self._format == "posthog" else None)

    async def _post(self, items: Sequence[Item]) -> Verdict:
        body = self._body(items)
        headers: dict[str, str] = {}
        if self._gzip and len(body) >= GZIP_BYTES_MIN:
            headers["Content-Encoding"] = "gzip"
            body = await _compressed(body)
        answer = await self._outbound.post(body, headers)
        where = self._outbound.where
        if answer.status in (401, 403):
            remedy = "give a key that it takes in key, or what else it asks for in headers"
            return DestinationOutage(f"{where} answered {answer.status}{excerpt(answer.body)}; {remedy}")
        verdict = judge(where, answer, self._clock.wall_ms())
        if verdict is None and self._format == "otlp":
            return self._rejected(answer, len(items))
        return verdict

    def _rejected(self, answer: Answer, count: int) -> Verdict:
        """Which records a collector has not taken it does not say: they are found by halves, as what is refused with a
        status is."""
        rejected, message = analytics_otlp.rejected(answer.body)
        said = excerpt(message.encode("utf-8", "replace"))
        if rejected and count:
            fact = f"{self._outbound.where} took {max(0, count - rejected)} of {count} records{said}"
            return Refusal(index=0, code="otlp_rejected", reason=f"{fact}; correct the event, and redrive it")
        if said:
            _log.warning("analytics_warning", destination=self._name, message=said.strip())
        return None


async def _compressed(body: bytes) -> bytes:
    if len(body) < THREAD_BYTES_MIN:
        return gzip.compress(body, GZIP_LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL, mtime=0)
