"""The `upstream` destination: another Adjourn, which takes each event exactly once.

Each event is numbered by its place in this node's log, and the receiver keeps the highest number beside what it has
appended, in one transaction. A number that is not above it proves nothing (parked events are older than those sent
meanwhile), so the receiver looks such events up in its log. docs/howto/edge.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from adjourn.clock import Clock, SystemClock
from adjourn.destination import Batch, Refusal
from adjourn.destinations.outbound import Outbound, Resolve
from adjourn.destinations.outbound_answers import Answer, Verdict, excerpt, judge
from adjourn.destinations.outbound_lanes import Item, Lanes, items_of
from adjourn.errors import DestinationOutage
from adjourn.events import StoredEvent, decode_identity

RELAY_PATH = "/v1/relay"
REQUEST_EVENTS_MAX = 5_000
REQUEST_BYTES_MAX = 4_000_000
"""Unpacked; a quarter of what a server takes by default."""
ANSWER_BYTES_MAX = 16_000_000
THREAD_BYTES_MIN = 100_000

_encode = msgspec.json.encode


class _Result(msgspec.Struct):
    code: str
    message: str = ""
    remedy: str = ""
    quarantine_id: str = ""


class _Refused(msgspec.Struct):
    index: int
    result: _Result


class _Answer(msgspec.Struct):
    accepted: int
    duplicate: int
    refused: list[_Refused]


_decode = msgspec.json.Decoder(_Answer).decode


class UpstreamDestination:
    def __init__(
        self,
        *,
        name: str,
        url: str,
        key: str,
        installation: Callable[[], str],
        timeout_ms: int = 15_000,
        request_bytes_max: int = REQUEST_BYTES_MAX,
        allow_http: bool = False,
        allow_networks: Sequence[str] = (),
        headers: dict[str, str] | None = None,
        clock: Clock | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        """`installation`: what this node's database is known by, once it is open. Raises ConfigInvalid."""
        self._name = name
        self._installation = installation
        self._clock = clock or SystemClock()
        # One request after the other: the numbers that the receiver sees rise.
        self._lanes = Lanes(concurrency=1, request_events_max=REQUEST_EVENTS_MAX, request_bytes_max=request_bytes_max)
        own = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
        if key:
            own["Authorization"] = f"Bearer {key}"
        self._outbound = Outbound(
            name=name,
            url=url.rstrip("/") + RELAY_PATH,
            headers={**(headers or {}), **own},
            timeout_ms=timeout_ms,
            allow_http=allow_http,
            allow_networks=allow_networks,
            answer_bytes_max=ANSWER_BYTES_MAX,
            kept_bytes=ANSWER_BYTES_MAX,
            resolve=resolve,
        )

    async def open(self) -> None:
        """Nothing: a connection is made when there is something to send."""

    async def send(self, batch: Batch) -> Sequence[Refusal]:
        items, refusals = items_of(batch, _item_of)
        if items:
            producer = f"{self._installation()}/{self._name}/{batch.events[0].partition}"

            async def post(some: Sequence[Item]) -> Verdict:
                verdict = await self._post(producer, some)
                if isinstance(verdict, list):
                    refusals.extend(verdict)
                    return None
                return verdict

            refusals += await self._lanes.send(batch.id, items, post)
        return sorted(refusals, key=lambda refusal: refusal.index)

    async def probe(self) -> None:
        """Sends a relay without events: the receiver checks the key, and takes nothing."""
        verdict = await self._post("", ())
        if isinstance(verdict, Refusal):
            raise DestinationOutage(verdict.reason, answered=not verdict.permanent)
        if isinstance(verdict, DestinationOutage):
            raise verdict

    async def close(self) -> None:
        await self._outbound.close()

    async def _post(self, producer: str, items: Sequence[Item]) -> list[Refusal] | Refusal | DestinationOutage:
        body = await _compressed(b"\n".join([item.body for item in items]))
        answer = await self._outbound.post(body, {"Adjourn-Producer": producer} if producer else {})
        if 200 <= answer.status < 300:
            return self._told(answer, items)
        where = self._outbound.where
        if answer.status == 409:  # no relay says so
            fact = f"{where} answered 409{excerpt(answer.body)}, which no Adjourn does"
            return DestinationOutage(f"{fact}; correct the url")
        if answer.status in (401, 403):
            remedy = "give an API key of it in key: of the role relay, or writer for a single tenant"
            return DestinationOutage(f"{where} answered {answer.status}{excerpt(answer.body)}; {remedy}")
        verdict = judge(where, answer, self._clock.wall_ms())
        if answer.status == 413 and len(items) == 1:
            reason = f"{where} does not take a body of this size; raise server.body_mb_max there, and redrive it"
            return Refusal(index=0, code="http_413", reason=reason)
        assert verdict is not None
        return verdict

    def _told(self, answer: Answer, items: Sequence[Item]) -> list[Refusal] | DestinationOutage:
        """What the receiver says of each event. An answer that does not account for all of them is none."""
        try:
            told = _decode(answer.body)
        except msgspec.DecodeError:
            told = None
        if told is None or told.accepted + told.duplicate + len(told.refused) != len(items):
            fact = f"{self._outbound.where} answered {answer.status}, but not as an Adjourn of this version does"
            return DestinationOutage(f"{fact}{excerpt(answer.body)}; correct the url, or upgrade it")
        return [
            Refusal(index=items[one.index].index, code=one.result.code, reason=_reason(one.result))
            for one in told.refused
            if 0 <= one.index < len(items)
        ]


def _item_of(index: int, event: StoredEvent) -> Item:
    identity = decode_identity(event.body)
    body = event.body
    if b"\n" in body or b"\r" in body:
        body = msgspec.json.format(body, indent=-1)  # takes out white space alone: values keep their digits
    facts = _encode((event.offset + 1, event.tenant, event.cost_nanousd, event.price_ref))
    return Item(
        index=index,
        session=f"{event.tenant}\0{identity.session.session_id}",
        id=str(event.offset),
        body=b"%b,%b]" % (facts[:-1], body),
    )


def _reason(result: _Result) -> str:
    kept = f" (kept there as {result.quarantine_id})" if result.quarantine_id else ""
    return f"the upstream refuses it: {result.message}; {result.remedy}{kept}"


async def _compressed(body: bytes) -> bytes:
    import zstandard

    compressor = zstandard.ZstdCompressor()  # threads share none
    if len(body) < THREAD_BYTES_MIN:
        return compressor.compress(body)
    return await asyncio.to_thread(compressor.compress, body)
