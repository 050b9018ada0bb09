"""The browser's door: `POST /v1/beacon` for `navigator.sendBeacon`, and the script that calls it, `GET /beacon.js`.

What may be believed of it is said in `claims.py` and in docs/howto/beacon.md."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from adjourn.completion.results import Result
from adjourn.completion.service import Ingest
from adjourn.errors import (
    AdjournError,
    EventConflict,
    EventInvalid,
    Forbidden,
    MediaTypeUnsupported,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from adjourn.events import BEACON
from adjourn.http.bodies import JSON, media_type
from adjourn.http.claims import claim, fields_of, key_of
from adjourn.http.raw import Headers, Receive, Scope, Send, refuse, respond, told
from adjourn.http.reading import BodyReader, Gone, Held
from adjourn.security.keys import Key
from adjourn.security.service import ANONYMOUS, Keys

BEACON_PATH = "/v1/beacon"
SCRIPT_PATH = "/beacon.js"
BODY_BYTES_MAX = 64 * 1024
"""As much as browsers send in one beacon."""
SCRIPT_AGE_S = 3600

_MAKE = "make one with: adjourn keys create --role beacon"
_REVOKE = f"a page shows its key to everyone: revoke it, and {_MAKE}"
_KINDS = ("text/plain", JSON, "")
_encode = msgspec.json.Encoder().encode


class BeaconEndpoint:
    """Both routes. Off, which is answered 404, while no origin is allowed."""

    paths = frozenset((BEACON_PATH, SCRIPT_PATH))

    def __init__(self, ingest: Ingest, keys: Keys, origins: Iterable[str]) -> None:
        self.draining = False
        self._ingest = ingest
        self._keys = keys
        self._origins = frozenset(origins)
        self._reader = BodyReader(BODY_BYTES_MAX, encodings=(), remedy="send less, or end sessions sooner")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope["headers"])
        shared = self._shared_with(headers.get("origin", ""))
        try:
            if scope["path"] == SCRIPT_PATH:
                await self._script(scope["method"], headers, send)
            elif scope["method"] == "OPTIONS" and self._origins:
                self._check_origin(headers)
                await respond(send, 204, b"text/plain", b"", [*shared, *_PREFLIGHT])
            elif scope["method"] == "POST":
                await self._one(scope, headers, receive, send, shared)
            else:
                raise MethodNotAllowed(f"this method is not allowed on {BEACON_PATH}; send the event with POST")
        except Gone:
            return
        except Exception as error:
            problem = told(error, scope["path"])
            await refuse(send, problem, [*shared, *self._allow(problem, scope["path"])])

    async def _one(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send, shared: list[tuple[bytes, bytes]]
    ) -> None:
        self._check_open(headers)
        with Held(self._reader) as held:
            result = await self._taken(await self._reader.read(headers, receive, held), scope["query_string"])
        await respond(send, 202, JSON.encode(), _encode(result), shared)

    async def _taken(self, body: bytes, query: bytes) -> Result:
        fields = fields_of(body)
        secret = key_of(fields, query)
        key = await self._caller(secret)
        if key.role != "beacon" and key is not ANONYMOUS:
            raise Forbidden(f"key {key.id} has the role {key.role}; {_REVOKE}", path="key")
        (result,) = await self._ingest.take(key.tenant, [claim(fields)], source=BEACON)
        if result.status == "invalid":
            raise EventInvalid(f"{result.message}; {result.remedy}", path=result.path)
        if result.status == "conflict":
            raise EventConflict(f"{result.message}; {result.remedy}", path=result.path)
        return result

    async def _caller(self, secret: str) -> Key:
        try:
            return await self._keys.check(f"Bearer {secret}" if secret else "", "beacon:write", remedy=_REVOKE)
        except Unauthenticated:
            if secret:
                raise
            raise Unauthenticated(
                f"a beacon needs a key; send it as the member `key`, or as ?key=… ({_MAKE})"
            ) from None

    def _check_open(self, headers: Headers) -> None:
        self._check_on()
        self._check_origin(headers)
        if media_type(headers.get("content-type", "")) not in _KINDS:
            raise MediaTypeUnsupported(f"a beacon is text/plain or {JSON}; send it so", path="content-type")
        if self.draining:
            raise Unavailable("this server is stopping; send again to another node", retry_after_ms=2000)

    def _check_on(self) -> None:
        if not self._origins:
            raise NotFound("the beacon is off; set server.beacon_origins to the origins of your pages")

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin", "")
        if not self._allows(origin):
            raise Forbidden(
                f"the origin {origin[:200]!r} is not allowed here; add it to server.beacon_origins", path="origin"
            )

    def _allows(self, origin: str) -> bool:
        return origin in self._origins or "*" in self._origins

    def _shared_with(self, origin: str) -> list[tuple[bytes, bytes]]:
        """Who may read the answer. `sendBeacon` always sends cookies along, so the browser wants that allowed by name;
        none is ever looked at."""
        vary = (b"vary", b"origin")
        if not (origin and self._allows(origin)):
            return [vary]
        return [
            vary,
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
        ]

    def _allow(self, error: AdjournError, path: str) -> list[tuple[bytes, bytes]]:
        if not isinstance(error, MethodNotAllowed):
            return []
        if path == SCRIPT_PATH:
            return [(b"allow", b"GET, HEAD")]
        return [(b"allow", b"OPTIONS, POST" if self._origins else b"POST")]

    async def _script(self, method: str, headers: Mapping[str, str], send: Send) -> None:
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"this method is not allowed on {SCRIPT_PATH}; GET it")
        self._check_on()
        script, etag = _read_script()
        fresh = headers.get("if-none-match", "") == etag
        await respond(
            send,
            304 if fresh else 200,
            b"text/javascript; charset=utf-8",
            b"" if fresh else script,
            [*_SCRIPT, (b"etag", etag.encode())],
        )


_PREFLIGHT = (
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"content-type"),
    (b"access-control-max-age", b"86400"),
)
_SCRIPT = (
    (b"cache-control", b"public, max-age=%d" % SCRIPT_AGE_S),
    (b"access-control-allow-origin", b"*"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"x-content-type-options", b"nosniff"),
)


@functools.cache
def _read_script() -> tuple[bytes, str]:
    script = Path(__file__).with_name("static").joinpath("beacon.js").read_bytes()
    return script, f'"{hashlib.sha256(script).hexdigest()[:16]}"'
