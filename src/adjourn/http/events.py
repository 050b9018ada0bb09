"""`POST /v1/events`, a raw ASGI handler: the hot route. All that it calls is bounded; nothing is dropped silently."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec

from adjourn.completion.service import Ingest, Result
from adjourn.errors import AdjournError, BodyInvalid, TooBusy, Unavailable
from adjourn.eventlog import get_logger
from adjourn.http import bodies
from adjourn.http.problems import MEDIA_TYPE, headers_of, problem
from adjourn.http.singles import Singles, event_of
from adjourn.security.keys import Key
from adjourn.security.roles import Permission
from adjourn.security.service import Keys

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answers = Callable[[int, bytes, bytes, Sequence[tuple[bytes, bytes]]], None]
"""Sends a whole answer: status, content type, body, more headers."""

_log = get_logger("adjourn.http")
_encode = msgspec.json.Encoder().encode

EVENTS_PATH = "/v1/events"
BODIES_BYTES_MAX = 64 * 1024 * 1024
"""All bodies that are being read or taken at once; past it, new ones are told to come back."""
DEFECT = "something in Adjourn failed; the server's log has the trace: please report it"


class Headers(Mapping[str, str]):
    """The request's headers, decoded when asked for: most never are."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = dict(raw)

    def __getitem__(self, name: str) -> str:
        return self._raw[name.encode("latin-1")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


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
        self._body_bytes_max = body_bytes_max
        self._bytes_held = 0
        self._singles = Singles(ingest)
        self.draining = False

    def take_single(self, headers: Iterable[tuple[bytes, bytes]], body: bytes, answers: Answers) -> bool:
        """A request whose body is whole in hand. False: it is not one plain event of a caller who is known, or there is
        no room for it, and the handler below is to say so."""
        found = dict(headers)
        event = event_of(found, body)
        if event is None or self.draining or self._bytes_held + len(body) > BODIES_BYTES_MAX:
            return False
        key = self._keys.known(found.get(b"authorization", b"").decode("latin-1"), "events:write")
        if key is None:
            return False
        self.requests += 1
        self._bytes_held += len(body)

        def answered(outcome: Result | Exception) -> None:
            self._bytes_held -= len(body)
            if isinstance(outcome, Result):
                answers(202, b"application/json", _encode(_answer([outcome])), ())
                return
            self.refused += 1
            error = told(outcome, EVENTS_PATH)
            answers(error.status, MEDIA_TYPE.encode(), _encode(problem(error)), _headers(error))

        self._singles.add(key.tenant, event, answered)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        try:
            answer = await self._take(scope, receive)
            await respond(send, 202, b"application/json", _encode(answer))
        except _Gone:
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
        body = await self._body(receive, headers)
        held = len(body)
        try:
            encoding = headers.get("content-encoding", "")
            if encoding:
                body = await _decompressed(body, encoding, self._body_bytes_max)
                held += len(body)
                self._bytes_held += len(body)
                self._check_held(held)
            return await self._ingested(key, body, headers)
        finally:
            self._bytes_held -= held

    async def _body(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """The body as sent; its bytes stay counted until the caller is done with it."""
        length = headers.get("content-length", "")
        if length.isdigit() and (len(length) > 18 or int(length) > self._body_bytes_max):
            raise bodies.too_large(self._body_bytes_max)
        message = await receive()
        part: bytes = message.get("body", b"")
        self._bytes_held += len(part)
        try:
            if message["type"] == "http.disconnect":
                raise _Gone
            if len(part) > self._body_bytes_max:
                raise bodies.too_large(self._body_bytes_max)
            self._check_held(len(part))
        except BaseException:
            self._bytes_held -= len(part)
            raise
        if not message.get("more_body", False):
            return part
        return await self._rest_of_body(receive, part)

    async def _rest_of_body(self, receive: Receive, part: bytes) -> bytes:
        parts = [part]
        size = len(part)
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                part = message.get("body", b"")
                size += len(part)
                self._bytes_held += len(part)
                parts.append(part)
                if size > self._body_bytes_max:
                    raise bodies.too_large(self._body_bytes_max)
                self._check_held(size)
                if not message.get("more_body", False):
                    return b"".join(parts)
        except BaseException:
            self._bytes_held -= size
            raise

    def _check_held(self, mine: int) -> None:
        """One body alone is always let in, however small the room is."""
        if self._bytes_held > BODIES_BYTES_MAX and self._bytes_held > mine:
            raise TooBusy("too many bodies are being read at once; send again in a second", retry_after_ms=1000)

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


def told(error: Exception, path: str) -> AdjournError:
    """What the sender hears of the error that is being handled."""
    if not isinstance(error, AdjournError):
        _log.exception("request_failed", path=path)
        return AdjournError(DEFECT)
    if error.status >= 500:
        _log.warning("request_refused", code=error.code, detail=error.message)
    return error


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


class _Gone(Exception):
    """The client hung up before its body was whole: nobody to answer, nothing to take."""


async def _decompressed(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """Big bodies in a thread: inflating releases the interpreter lock."""
    if len(body) < INFLATE_INLINE_BYTES:
        return bodies.decompress(body, encoding, bytes_max)
    return await asyncio.to_thread(bodies.decompress, body, encoding, bytes_max)


INFLATE_INLINE_BYTES = 131_072


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


async def refuse(send: Send, error: AdjournError, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    await respond(send, error.status, MEDIA_TYPE.encode(), _encode(problem(error)), [*_headers(error), *headers])


def _headers(error: AdjournError) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers_of(error).items()]


async def respond(
    send: Send, status: int, content_type: bytes, body: bytes, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
