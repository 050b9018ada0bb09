"""The HTTP client of every destination that is reached over HTTP: one address, one session, no way into the network
that Adjourn stands in.

A name is resolved when a connection is made; the addresses are judged, and those that passed are connected to: a name
that answers differently later changes nothing. Each socket's address is judged once more, since a url may hold an
address itself. Redirects are not followed, and the environment's proxies and .netrc are not used. Import this module
late: aiohttp costs megabytes.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import socket
import warnings
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import ModuleType
from typing import cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict
from yarl import URL

from adjourn import forks
from adjourn.destinations.outbound_addresses import networks_of, why_forbidden
from adjourn.destinations.outbound_answers import Answer
from adjourn.errors import ConfigInvalid, DestinationOutage
from adjourn.version import __version__

ANSWER_BYTES_MAX = 65_536
EXCERPT_BYTES = 1_000
# Shorter than the usual minute of load balancers: who closes first does not send into a closed connection.
KEEPALIVE_S = 50
_NOT_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Whatever else goes wrong may be the receiver's answer to what it was sent: some break over one event."""
LARGE_BYTES = 1_000_000
CREDENTIAL_LENGTH_MIN = 6

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses; raises OSError."""

_abandoned: list[object] = []  # connectors of loops that are gone: even being freed would have them touch those loops


class Forbidden(OSError):
    """An address that must not be connected to."""


class Outbound:
    """`post` may be called by many at once; `concurrency` of them are under way, the others wait."""

    def __init__(
        self,
        *,
        name: str,
        url: str,
        headers: Mapping[str, str],
        concurrency: int = 8,
        timeout_ms: int = 15_000,
        allow_http: bool = False,
        allow_networks: Sequence[str] = (),
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        kept_bytes: int = EXCERPT_BYTES,
        resolve: Resolve | None = None,
    ) -> None:
        """`kept_bytes` of an answer's body are returned; of longer ones than `answer_bytes_max` the rest is not read.
        Raises ConfigInvalid."""
        self.url = _url(name, url, allow_http)
        self.where = f"destination '{name}': {self.url.origin()}"
        self._headers = {"User-Agent": f"adjourn/{__version__}", **headers}
        self._credentials = _credentials(headers, self.url)
        self._concurrency = concurrency
        self._timeout_s = timeout_ms / 1000
        self._allowed = networks_of(allow_networks)
        self._answer_bytes_max = answer_bytes_max
        self._kept_bytes = kept_bytes
        self._resolve = resolve or _resolve
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(concurrency)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets = weakref.WeakSet[socket.socket]()
        self._guard = forks.Guard(_nothing, self._forget)

    async def post(self, body: bytes, headers: Mapping[str, str], url: URL | None = None) -> Answer:
        """Raises DestinationOutage if there is no answer."""
        session = self._ready()
        async with self._slots:
            try:
                try:
                    return await self._post(session, body, headers, url)
                except (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError):
                    # A kept connection that the receiver was just closing. The ids are the same: again is safe.
                    return await self._post(session, body, headers, url)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise self._outage(error) from error

    async def close(self) -> None:
        """Idempotent, complete on return."""
        session, self._session = self._session, None
        if session is None:
            return
        if self._loop is asyncio.get_running_loop():
            await session.close()
        else:
            self._abandon(session)

    # --- one request ---------------------------------------------------------------------------------------------

    async def _post(
        self, session: aiohttp.ClientSession, body: bytes, headers: Mapping[str, str], url: URL | None
    ) -> Answer:
        data = body if len(body) < LARGE_BYTES else io.BytesIO(body)
        async with session.post(url or self.url, data=data, headers=headers, allow_redirects=False) as response:
            kept = await self._read(response)
            found = response.headers
            return Answer(response.status, kept, found.get("Retry-After", ""), found.get("Date", ""))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The beginning. The rest is read past, so that the connection can be used again; if it is long, the
        connection is given up instead."""
        kept, size = bytearray(), 0
        async for chunk in response.content.iter_any():
            kept += chunk[: self._kept_bytes - len(kept)]
            size += len(chunk)
            if size > self._answer_bytes_max:
                response.close()
                break
        # Some receivers repeat what they were sent, and what they say is shown to people.
        return self._credentials.sub(b"***", bytes(kept)) if self._credentials else bytes(kept)

    # --- the session ---------------------------------------------------------------------------------------------

    def _ready(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is loop and not self._session.closed:
            return self._session
        if self._session is not None and self._loop is not loop:
            self._abandon(self._session)
        connector = _Connector(
            limit=self._concurrency,
            resolver=_Judging(self._resolve, self._judged),
            socket_factory=self._socket,
            use_dns_cache=False,
            keepalive_timeout=KEEPALIVE_S,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=CIMultiDict(self._headers),
            skip_auto_headers=("Accept-Encoding",),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        self._slots = asyncio.Semaphore(self._concurrency)
        self._loop = loop
        return self._session

    def _judged(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Those that may be connected to. Raises Forbidden if none may."""
        reasons = {address: why_forbidden(address, self._allowed) for address in addresses}
        good = [address for address, reason in reasons.items() if not reason]
        if not good and reasons:
            address, reason = next(iter(reasons.items()))
            raise Forbidden(f"{host} is at {address}, which is {reason}")
        return good

    def _socket(self, info: tuple[object, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        host = str(cast("tuple[object, ...]", address)[0])
        if reason := why_forbidden(host, self._allowed):
            raise Forbidden(f"{host} is {reason}")
        made = socket.socket(family, kind, protocol)  # pyright: ignore[reportArgumentType]  the caller's own triple
        self._sockets.add(made)
        return made

    def _forget(self) -> None:
        """In a child of fork: close its copies of the sockets, and touch nothing that its parent shares."""
        session, self._session = self._session, None
        if session is not None:
            self._abandon(session)

    def _abandon(self, session: aiohttp.ClientSession) -> None:
        """Its loop has ended, or is another process's: the sockets are closed and nothing is said to the loop."""
        connector = session.connector
        session.detach()
        if isinstance(connector, _Connector):
            connector.abandoned = True
            _abandoned.append(connector)
        for left in list(self._sockets):
            if left.fileno() >= 0:
                os.close(left.detach())

    def _outage(self, error: Exception) -> DestinationOutage:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(cause, Forbidden):
            remedy = "give a public one, or list its network in allow_networks"
            return DestinationOutage(f"{self.where} is not connected to: {cause}; {remedy}")
        if isinstance(error, TimeoutError):
            fact = f"{self.where} has not answered within {self._timeout_s:g} s"
            remedy = "let it answer before it does its work, or raise timeout_ms"
            return DestinationOutage(f"{fact}; {remedy}", answered=not isinstance(error, _NOT_REACHED))
        answered = not isinstance(error, _NOT_REACHED)
        return DestinationOutage(f"{self.where} {_fact_and_remedy(error)}", answered=answered)


class _Connector(aiohttp.TCPConnector):
    abandoned = False

    def __del__(self, _warnings: ModuleType = warnings) -> None:
        if not self.abandoned:
            super().__del__(_warnings)


class _Judging(AbstractResolver):
    """What aiohttp asks for addresses: it connects to those that it is given, and asks nobody else."""

    def __init__(self, resolve: Resolve, judged: Callable[[str, Sequence[str]], list[str]]) -> None:
        self._resolve = resolve
        self._judged = judged

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._judged(host, await self._resolve(host, port))
        ]

    async def close(self) -> None: ...


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _fact_and_remedy(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        remedy = "renew it, correct the host in url, or name the file of its authority in SSL_CERT_FILE"
        return f"has a certificate that is not valid for it ({error.certificate_error}); {remedy}"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"does not speak TLS as it should ({error.os_error}); correct the scheme or port in url"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return (
            f"has a name that cannot be resolved ({error.os_error}); correct the host in url, or mend the name server"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot be reached ({error.os_error}); start it, or correct the host and port in url"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, OSError)):
        return "closed the connection before it had answered; look at its log"
    if isinstance(error, aiohttp.InvalidURL):
        return "has an address that cannot be used; correct the host in url"
    return f"answered what is no HTTP ({type(error).__name__}); correct the port in url, or look at its log"


def _url(name: str, text: str, allow_http: bool) -> URL:
    try:
        url = URL(text)
        usable = url.scheme in ("http", "https") and bool(url.host)
    except ValueError:
        usable, url = False, URL()
    if not usable:
        raise ConfigInvalid(f"destination '{name}': url is not a web address; give https://host/path", path="url")
    if url.scheme == "http" and not allow_http:
        fact = f"destination '{name}': url is plain http, which anyone on the way can read and change"
        raise ConfigInvalid(f"{fact}; give an https:// one, or set allow_http: true", path="url")
    return url


def _credentials(headers: Mapping[str, str], url: URL) -> re.Pattern[bytes] | None:
    """Finds the values of headers and url that may be secret."""
    values = [value for name, value in headers.items() if name.lower() not in ("content-type", "user-agent")]
    values += [value.split()[-1] for value in values if value.split()]  # without the scheme of `Authorization`
    values += [value for value in (url.user, url.password, *url.query.values()) if value]
    values.append(base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode())  # as they are sent
    long = sorted({value.encode() for value in values if len(value) >= CREDENTIAL_LENGTH_MIN}, key=len, reverse=True)
    return re.compile(b"|".join(map(re.escape, long))) if long else None


def _nothing() -> None:
    return
