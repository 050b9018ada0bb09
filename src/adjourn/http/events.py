"""`POST /v1/events`, a raw ASGI handler: the hot route. All that it calls is bounded; nothing is dropped silently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from adjourn.completion.results import Result
from adjourn.completion.service import Ingest
from adjourn.errors import BodyInvalid, Unavailable
from adjourn.http import bodies
from adjourn.http.problems import MEDIA_TYPE, problem
from adjourn.http.raw import Fields, Headers, Receive, Scope, Send, fields_of, refuse, respond, told
from adjourn.http.reading import BodyReader, Gone, Held
from adjourn.http.singles import Singles, event_of
from adjourn.security.keys import Key
from adjourn.security.roles import Permission
from adjourn.security.service import Keys

Answers = Callable[[int, bytes, bytes, Fields], None]
"""Sends a whole answer: status, content type, body, more headers."""

_encode = msgspec.json.Encoder().encode

EVENTS_PATH = "/v1/events"


class Answer(msgspec.Struct):
    """202: every event of the request is durable, as accepted, or in quarantine. One result each, in order."""

    accepted: int
    duplicate: int
    conflict: int
    invalid: int
    results: Sequence[Result]


class EventsEndpoint:
    permission: Permission = "events:write"

    def __init__(self, ingest: Ingest, keys: Keys, *, body_bytes_max: int) -> None:
        self.requests = 0
        self.refused = 0
        self._ingest = ingest
        self._keys = keys
        self._reader = BodyReader(body_bytes_max)
        self._singles = Singles(ingest)
        self.draining = False

    def take_single(self, headers: Iterable[tuple[bytes, bytes]], body: bytes, answers: Answers) -> bool:
        """A request whose body is whole in hand. False: it is not one plain event of a caller who is known, or there is
        no room for it, and the handler below is to say so."""
        found = dict(headers)
        event = event_of(found, body)
        if event is None or self.draining or not self._reader.has_room(len(body)):
            return False
        key = self._keys.known(found.get(b"authorization", b"").decode("latin-1"), "events:write")
        if key is None:
            return False
        self.requests += 1
        self._reader.bytes_held += len(body)

        def answered(outcome: Result | Exception) -> None:
            self._reader.bytes_held -= len(body)
            if isinstance(outcome, Result):
                answers(202, b"application/json", _encode(_answer([outcome])), ())
                return
            self.refused += 1
            error = told(outcome, EVENTS_PATH)
            answers(error.status, MEDIA_TYPE.encode(), _encode(problem(error)), fields_of(error))

        self._singles.add(key.tenant, event, answered)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        try:
            answer = await self._take(scope, receive)
            await respond(send, 202, b"application/json", _encode(answer))
        except Gone:
            return
        except Exception as error:
            self.refused += 1
            await refuse(send, told(error, scope["path"]))

    async def _take(self, scope: Scope, receive: Receive) -> msgspec.Struct:
        headers = Headers(scope["headers"])
        authorization = headers.get("authorization", "")
        key = self._keys.known(authorization, self.permission)
        if key is None:
            key = await self._keys.check(authorization, self.permission)
        if self.draining:
            raise Unavailable(
                "this server is stopping; send again to another node or in a few seconds", retry_after_ms=2000
            )
        with Held(self._reader) as held:
            body = await self._reader.read(headers, receive, held)
            return await self._ingested(key, body, headers)

    async def _ingested(self, key: Key, body: bytes, headers: Mapping[str, str]) -> msgspec.Struct:
        found = await _split(body, headers)
        raws, refused = found.raws, found.refused
        if not raws and not refused:
            raise BodyInvalid("the body holds no events; send at least one")
        producer, sequences = _producer(headers, len(raws) + len(refused))
        if sequences is not None and refused:
            places = {problem.index for problem in refused}
            sequences = [number for place, number in enumerate(sequences) if place not in places]
        results = await self._ingest.take(
            key.tenant, raws, source="http", producer=producer, sequences=sequences, refused=refused
        )
        return _answer(results)


def _answer(results: Sequence[Result]) -> Answer:
    statuses = [result.status for result in results]
    return Answer(
        statuses.count("accepted"),
        statuses.count("duplicate"),
        statuses.count("conflict"),
        statuses.count("invalid"),
        results,
    )


async def _split(body: bytes, headers: Mapping[str, str]) -> bodies.Split:
    """Long bodies in slices, between which others have their turn."""
    content_type = headers.get("content-type", "")
    if len(body) <= bodies.SLICE_BYTES:
        return bodies.split(body, content_type, headers)
    whole = bodies.Split([], [])
    for part in bodies.parts(body, content_type, headers):
        bodies.add(whole, part)
        await asyncio.sleep(0)
    return whole


def _producer(headers: Mapping[str, str], count: int) -> tuple[str, Sequence[int] | None]:
    """An idempotent producer numbers its events, from 1, without gaps inside a request."""
    producer = headers.get("adjourn-producer", "")
    if not producer:
        return "", None
    first = headers.get("adjourn-sequence", "")
    if len(producer) > 128 or not producer.isprintable():
        raise BodyInvalid("Adjourn-Producer must be 1 to 128 printable characters", path="adjourn-producer")
    if not (first.isascii() and first.isdigit() and len(first) <= 16 and 0 < int(first) < 2**53):
        raise BodyInvalid(
            "Adjourn-Producer needs Adjourn-Sequence, the number of the first event, from 1", path="adjourn-sequence"
        )
    return producer, range(int(first), int(first) + count)
